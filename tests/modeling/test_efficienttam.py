"""EfficientTAM: what it computes itself; beside its published code it is compared in tests/family."""

import copy
import hashlib

import fake_cuda
import pytest
import tame_weights
import torch
from graph_sessions import assert_same
from parity import random_map
from training_pair import DETERMINISTIC, batch_of_discs
from video import Session, clip, jpeg_folder, run

from sam2fast.build_sam import build_sam2, build_sam2_video_predictor
from sam2fast.checkpoints import choose_config
from sam2fast.config import build_from_config, load_config, official_to_ours
from sam2fast.deploy.compilation import compile_model
from sam2fast.deploy.exported.programs import export_encoder
from sam2fast.downloads.catalog import published, simplest_name
from sam2fast.modeling.vit import ViT
from sam2fast.research import attention_maps
from sam2fast.tracking.graph_runner import GraphRunner
from sam2fast.tracking.strategies import STRATEGIES
from sam2fast.training.config import TRAINING_TARGETS
from sam2fast.utils.testing import relative_error

SIZE = 256
TOLERANCE = 1e-4
OVERRIDES = [f"++model.image_size={SIZE}"]
NAMES = [name + suffix for name in ("s", "ti") for suffix in ("", "_512x512", "_1", "_2")]


def config_of(name):
    return f"configs/efficienttam/efficienttam_{name}.yaml"


@pytest.fixture(scope="module", params=["ti", pytest.param("ti_1", marks=pytest.mark.long), "ti_2"])
def model(request):
    built = build_sam2_video_predictor(config_of(request.param), device="cpu", hydra_overrides_extra=OVERRIDES)
    return tame_weights.fill(built, 0)


@pytest.fixture
def predictor(model):
    return copy.deepcopy(model)


@pytest.fixture
def is_pooled(model):
    return model.memory_attention.layers[0].cross_attn_image.pooling is not None


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return jpeg_folder(tmp_path_factory.mktemp("video"), clip(4))


@pytest.fixture(scope="module")
def records(model, video):
    return run(model, video, scenario)


def scenario(s: Session) -> None:
    """On the third frame one object has two memories and the other one."""
    s.points(0, 1, (60, 40, 1))
    s.propagate(max_frame_num_to_track=1)
    s.points(1, 2, box=[20, 20, 70, 60])
    s.propagate(start_frame_idx=1)


@pytest.mark.parametrize("name", NAMES)
def test_names_and_shapes_are_the_published_ones(name):
    with torch.device("meta"):
        model = build_from_config(load_config(config_of(name)).model)
    lines = sorted(f"{name} {list(x.shape)}" for name, x in model.state_dict().items())
    digest, parameters = {
        "s": ("b7ce1ad21f3dd52d733609f3963a621bad86e657785c03fd39810c655a8dd74a", 34_055_842),
        "ti": ("8c7c0bf63ce6b5abdd8529c05b7642da962ee1e274c58a1dc509a5d172db967a", 17_866_018),
    }[name.partition("_")[0]]
    assert len(lines) == 455 and sum(p.numel() for p in model.parameters()) == parameters
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == digest
    assert model.image_size == (512 if "512" in name else 1024)


@pytest.mark.parametrize("name", NAMES)
def test_names(name):
    model = published(f"efficienttam_{name}")
    assert simplest_name(model) == f"efficienttam_{name}" and model.release.config == config_of(name)
    assert model.release.url.endswith(f"yunyangx/efficient-track-anything/resolve/main/efficienttam_{name}.pt")


def test_the_files_name_chooses(tmp_path, caplog):
    """All variants have the same names and shapes."""
    trunk = {f"image_encoder.trunk.{name}": x for name, x in ViT(embed_dim=192, num_heads=3).state_dict().items()}
    neck = {"image_encoder.neck.convs.0.conv_1x1.weight": torch.zeros(256, 192, 1, 1)}
    weights = build_sam2(config_of("ti"), device="cpu").state_dict()
    assert not {*trunk, *neck} - weights.keys()
    chosen = {}
    with caplog.at_level("INFO"):
        for file in ("efficienttam_ti", "efficienttam_ti_1", "efficienttam_ti_512x512", "efficienttam_s_1", "renamed"):
            torch.save({"model": weights}, tmp_path / f"{file}.pt")
            chosen[file] = choose_config(tmp_path / f"{file}.pt").config
    assert chosen == {
        "efficienttam_ti": config_of("ti"),
        "efficienttam_ti_1": config_of("ti_1"),
        "efficienttam_ti_512x512": config_of("ti_512x512"),
        "efficienttam_s_1": config_of("ti"),
        "renamed": config_of("ti"),
    }
    assert caplog.text.count("by its name") == len(chosen)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("efficient_track_anything.modeling.efficienttam_base.EfficientTAMBase", "sam2_base.SAM2Base"),
        ("efficient_track_anything.modeling.backbones.vitdet.ViT", "vit.ViT"),
        ("efficient_track_anything.modeling.backbones.image_encoder.ViTDetNeck", "image_encoder.ViTDetNeck"),
        (
            "efficient_track_anything.modeling.sam.transformer.EfficientRoPEAttention2",
            "attention.EfficientRoPEAttention2",
        ),
    ],
)
def test_their_configurations_are_read(theirs, ours):
    assert official_to_ours(theirs) == f"sam2fast.modeling.{ours}"


def test_the_trunk_by_calls_of_each_block():
    """As where a user hooks one; also with gradients, where windows are cut by other code."""
    trunk, image, seen = tame_weights.fill(ViT(embed_dim=192, num_heads=3), 0), random_map(1, 3, 320, 256), []
    with torch.no_grad():
        (fused,) = trunk(image)
    assert relative_error(fused, trunk(image)[0].detach()) < TOLERANCE
    trunk.blocks[0].register_forward_hook(lambda *_: seen.append(1))
    with torch.no_grad():
        assert relative_error(fused, trunk(image)[0]) < TOLERANCE
    assert seen and fused.shape == (1, 192, 20, 16)


def test_the_position_is_resized_once(model, monkeypatch):
    image = random_map(1, 3, SIZE, SIZE)
    with torch.no_grad():
        model.encode_image(image)
        monkeypatch.setattr(torch.nn.functional, "interpolate", None)
        model.encode_image(image)


def test_trunks_that_are_not_available():
    with pytest.raises(ValueError, match="qkv_bias=true and use_rel_pos=false"):
        ViT(use_rel_pos=True)


def test_samurai_takes_it_for_no_large_model(model):
    assert STRATEGIES["samurai"]().for_model(model).weight == 0.25


def test_what_means_exclude(predictor, is_pooled):
    if not is_pooled:
        predictor.approximations = "pooled_memory"
        return
    with pytest.raises(ValueError, match="whose memory attention takes means of tokens itself"):
        predictor.approximations = "pooled_memory"
    with pytest.raises(ValueError, match="this model attends to means of tokens"), attention_maps(predictor):
        pass


def test_by_calls_of_each_module(predictor, records, video):
    """As where a user hooks a module of memory attention: object by object, on concatenated maps."""
    predictor.memory_attention.layers[0].register_forward_hook(lambda *_: None)
    assert_same(records, run(predictor, video, scenario), TOLERANCE)


def test_by_the_originals_methods(predictor, records, video):
    seen, method = [], predictor._run_single_frame_inference
    predictor._run_single_frame_inference = lambda *args, **kwargs: (seen.append(1), method(*args, **kwargs))[1]
    assert_same(records, run(predictor, video, scenario), TOLERANCE)
    assert seen


def test_recorded_steps(predictor, records, video):
    predictor.fast = True
    assert_same(records, run(predictor, video, scenario))
    assert isinstance(predictor._runners.graphs, GraphRunner)


@pytest.mark.parametrize("name", ["ti", "ti_1"])
def test_on_a_gpu_nothing_waits(name):
    """The resized position is computed before steps are recorded; the kernels take the means."""
    with fake_cuda.fake_cuda() as cuda:
        predictor = fake_cuda.build(build_sam2_video_predictor, config_of(name), dtype=torch.bfloat16)
        for seen in fake_cuda.steady_frames(cuda, predictor, 2, 2):
            seen.check()
            assert seen.replays == 2 and not {"upsample_bicubic2d", "mean"} & seen.launches.keys()
            assert seen.launches["_encode_kernel"] == 4  # one for each layer of memory attention
        predictor.release_recordings()


@pytest.mark.parametrize("strategy", ["sam2", "samurai"])
def test_a_stream_and_a_saved_session(predictor, strategy, tmp_path):
    predictor.strategy = strategy
    frames, masks = clip(4), []
    with predictor.open_stream() as stream:
        stream.step(frames[0])
        stream.add_new_points_or_box(1, box=[20, 20, 70, 60])
        stream.step(frames[1])
        stream.save(tmp_path / "session.safetensors")
        masks.append(stream.step(frames[2]).masks)
    with predictor.restore_stream(tmp_path / "session.safetensors") as stream:
        masks.append(stream.step(frames[2]).masks)
    assert torch.equal(*masks) and (masks[0] > 0).any()


@pytest.mark.long
def test_compiled_and_exported(video):
    overrides = {"device": "cpu", "hydra_overrides_extra": OVERRIDES}
    predictor = tame_weights.fill(build_sam2_video_predictor(config_of("ti_1"), **overrides), 0)
    compiled = compile_model(copy.deepcopy(predictor), backend="aot_eager")
    assert_same(run(predictor, video, scenario), run(compiled, video, scenario), TOLERANCE)
    image = random_map(1, 3, SIZE, SIZE)
    with torch.no_grad():
        (expected,) = predictor.encode_image(image)
        (actual,) = export_encoder(predictor).module()(image)
    assert relative_error(expected + predictor.no_mem_embed.reshape(1, -1, 1, 1), actual) < TOLERANCE


@pytest.mark.parametrize("name", ["ti", "ti_2"])
def test_a_training_step(name):
    """The trainer's model tracks as the predictor does, and every part that it uses has a gradient."""
    node = load_config(config_of(name), [f"model.image_size={SIZE}", *DETERMINISTIC]).model
    node._target_ = "sam2fast.training.model.SAM2Train"
    model = tame_weights.fill(build_from_config(node, targets=TRAINING_TARGETS), 0).train()
    frames = model(batch_of_discs(3, objects=(2,), size=SIZE)).frames
    sum(frame.masks_high_res[-1].float().square().mean() for frame in frames).backward()
    parts = ("image_encoder", "memory_attention.layers.3.cross_attn_image", "memory_encoder")
    assert not [name for name, p in model.named_parameters() if name.startswith(parts) and p.grad is None]
    before = model.image_encoder.trunk.pos_embed.detach().clone()
    torch.optim.SGD(model.parameters(), lr=1e-4).step()
    assert not torch.equal(before, model.image_encoder.trunk.pos_embed)

"""EdgeTAM: what it computes itself; beside its published code it is compared in tests/family."""

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
from sam2fast.config import build_from_config, load_config
from sam2fast.deploy.compilation import compile_model
from sam2fast.deploy.exported.programs import EncoderModule, export_encoder
from sam2fast.downloads.catalog import published, simplest_name
from sam2fast.modeling.repvit import RepViT
from sam2fast.tracking.graph_runner import GraphRunner
from sam2fast.training.config import TRAINING_TARGETS
from sam2fast.utils.testing import relative_error

CONFIG = "configs/edgetam/edgetam.yaml"
SIZE = 256
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model():
    overrides = [f"++model.image_size={SIZE}"]
    return tame_weights.fill(build_sam2_video_predictor(CONFIG, device="cpu", hydra_overrides_extra=overrides), 0)


@pytest.fixture
def predictor(model):
    return copy.deepcopy(model)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return jpeg_folder(tmp_path_factory.mktemp("video"), clip(4))


@pytest.fixture(scope="module")
def records(model, video):
    return run(model, video, scenario)


def scenario(s: Session) -> None:
    s.points(0, 1, (60, 40, 1))
    s.propagate(max_frame_num_to_track=1)
    s.points(1, 2, box=[20, 20, 70, 60])
    s.propagate(start_frame_idx=1)


def test_names_and_shapes_are_the_published_ones(model):
    lines = sorted(f"{name} {list(x.shape)}" for name, x in model.state_dict().items())
    assert len(lines) == 982 and sum(p.numel() for p in model.parameters()) == 13_895_794
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest == "3b8cf72f9c485ac79f28a5dd5978586a0ff40a1a670554dfbdd0a712f1d3f1a6"


def test_names():
    assert simplest_name(published("facebook/EdgeTAM")) == "edgetam"
    for name in ("edgetam", "edgetam.pt", CONFIG):
        assert published(name).release.url.endswith("/facebookresearch/EdgeTAM/raw/main/checkpoints/edgetam.pt")


def test_a_checkpoint_without_counts_of_batches(model, tmp_path):
    weights = {name: x for name, x in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save({"model": weights}, tmp_path / "edgetam.pt")
    assert choose_config(tmp_path / "edgetam.pt").config == CONFIG
    loaded = build_sam2(CONFIG, tmp_path / "edgetam.pt", device="cpu").state_dict()
    assert all(torch.equal(x, loaded[name]) for name, x in model.state_dict().items())


def test_folded_weights_compute_the_same():
    """Also after the weights have changed, and in training, where statistics are not updated."""
    trunk, image = tame_weights.fill(RepViT(), 0), random_map(2, 3, 64, 96)
    for _ in range(2):
        with torch.no_grad():
            folded = trunk(image)
        trunk.train()
        before = copy.deepcopy(trunk.state_dict())
        for a, b in zip(trunk(image), folded, strict=True):
            assert a.requires_grad and relative_error(a.detach(), b) < TOLERANCE
        assert all(torch.equal(x, before[name]) for name, x in trunk.state_dict().items())
        tame_weights.fill(trunk.eval(), 1)


def test_a_hooked_layer_is_called():
    trunk, image, seen = tame_weights.fill(RepViT(), 0), random_map(1, 3, 64, 64), []
    with torch.no_grad():
        folded = trunk(image)
        trunk.body.stages_2.blocks[3].token_mixer.register_forward_hook(lambda *_: seen.append(1))
        assert all(relative_error(a, b) < TOLERANCE for a, b in zip(folded, trunk(image), strict=True))
    assert seen


def test_other_trunks_and_sizes():
    with pytest.raises(ValueError, match="repvit_m3 with the levels layer0, layer1 is"):
        RepViT("repvit_m3", ["layer0", "layer1"])
    with pytest.raises(Exception, match="positive multiple of 256, got 640"):
        build_sam2(CONFIG, device="cpu", hydra_overrides_extra=["++model.image_size=640"])


def test_memories_that_cannot_be_pooled(predictor):
    with pytest.raises(ValueError, match="is 512 x 1"):
        predictor.approximations = "pooled_memory"


def test_by_calls_of_each_module(predictor, records, video):
    """As where a user hooks a module of memory attention, or replaces a private method of the predictor."""
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


def test_on_a_gpu_nothing_waits():
    """Folded weights and position tables are computed before steps are recorded."""
    with fake_cuda.fake_cuda() as cuda:
        predictor = fake_cuda.build(build_sam2_video_predictor, CONFIG, dtype=torch.bfloat16)
        for seen in fake_cuda.steady_frames(cuda, predictor, 2, 2):
            seen.check()
            assert seen.replays == 2 and not {"rsqrt", "sin", "cos"} & seen.launches.keys()
            assert seen.launches["_encode_kernel"] == 2  # one for each layer of memory attention
        predictor.release_recordings()


def test_a_stream_and_a_saved_session(predictor, tmp_path):
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
def test_compiled_and_exported(predictor, records, video):
    image = random_map(1, 3, SIZE, SIZE)
    with torch.no_grad():
        expected, actual = EncoderModule(predictor)(image), export_encoder(predictor).module()(image)
    assert all(relative_error(a, b) < TOLERANCE for a, b in zip(expected, actual, strict=True))
    assert_same(records, run(compile_model(predictor, backend="aot_eager"), video, scenario), TOLERANCE)


def test_a_training_step(tmp_path):
    """The trainer's model tracks as the predictor does, and every part that it uses has a gradient."""
    node = load_config(CONFIG, [f"model.image_size={SIZE}", *DETERMINISTIC]).model
    node._target_ = "sam2fast.training.model.SAM2Train"
    model = tame_weights.fill(build_from_config(node, targets=TRAINING_TARGETS), 0).train()
    batch = batch_of_discs(3, objects=(2,), size=SIZE)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    frames = model(batch).frames
    sum(frame.masks_high_res[-1].float().square().mean() for frame in frames).backward()
    parts = ("image_encoder.trunk", "spatial_perceiver", "memory_attention.layers.1.cross_attn_image", "memory_encoder")
    without = [name for name, p in model.named_parameters() if name.startswith(parts) and p.grad is None]
    assert not without
    optimizer.step()
    moved = {name for name, x in model.state_dict().items() if not torch.equal(x, before[name])}
    assert "spatial_perceiver.latents_2d" in moved and "image_encoder.trunk.body.stem.conv1.c.weight" in moved
    assert not any("running" in name or "tracked" in name for name in moved)

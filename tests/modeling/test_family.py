"""SAM 2's relatives: what they compute in sessions, on a GPU, exported and in training."""

import copy
from pathlib import Path

import fake_cuda
import pytest
import tame_weights
import torch
from graph_sessions import assert_same
from parity import random_map
from recorded_ops import CalledAgain, recorded_by
from shallow_repvit import shallow_repvit  # noqa: F401
from training_pair import DETERMINISTIC, batch_of_discs
from video import Session, clip, jpeg_folder, run

from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.config import build_from_config, load_config
from sam2fast.deploy.compilation import compile_model
from sam2fast.deploy.exported.programs import EncoderModule, export_encoder
from sam2fast.engine import engine_for
from sam2fast.training.config import TRAINING_TARGETS
from sam2fast.utils.testing import relative_error

EDGETAM, SAM3 = "edgetam/edgetam", "sam3/sam3"
TI, TI_1, TI_2 = (f"efficienttam/efficienttam_{name}" for name in ("ti", "ti_1", "ti_2"))
# Side of the input; EdgeTAM's perceiver needs a map of 16 x 16.
SIZES = {EDGETAM: 256, TI: 128, TI_1: 128, TI_2: 128, SAM3: 140}
SMALL_SAM3 = Path(__file__).parents[1] / "support" / "sam3_small.yaml"
STEM = "image_encoder.trunk.body.stem.conv1.c"  # EdgeTAM's
TOLERANCE = 1e-4


def config_of(name):
    """SAM 3's has a small trunk."""
    return str(SMALL_SAM3) if name == SAM3 else f"configs/{name}.yaml"


@pytest.fixture(scope="module", params=[EDGETAM, TI, TI_1, TI_2, SAM3])
def model(request):
    overrides = [f"++model.image_size={SIZES[request.param]}"]
    given = {"device": "cpu", "hydra_overrides_extra": overrides}
    return tame_weights.built(build_sam2_video_predictor, config_of(request.param), **given)


@pytest.fixture
def predictor(model):
    return copy.deepcopy(model)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return jpeg_folder(tmp_path_factory.mktemp("video"), clip(3))


@pytest.fixture(scope="module")
def records(model, video):
    return run(model, video, scenario)


def scenario(s: Session) -> None:
    """On the third frame one object has two memories and the other one."""
    s.points(0, 1, (60, 40, 1))
    s.propagate(max_frame_num_to_track=1)
    s.points(1, 2, box=[20, 20, 70, 60])
    s.propagate(start_frame_idx=1)


def test_by_calls_of_each_module(predictor, records, video):
    """As where a user hooks a module of memory attention: object by object, on concatenated maps."""
    predictor.memory_attention.layers[0].register_forward_hook(lambda *_: None)
    assert_same(records, run(predictor, video, scenario), TOLERANCE)


def test_by_the_originals_methods(predictor, records, video):
    """As where a user replaces a private method of the predictor."""
    seen, method = [], predictor._run_single_frame_inference
    predictor._run_single_frame_inference = lambda *args, **kwargs: (seen.append(1), method(*args, **kwargs))[1]
    assert_same(records, run(predictor, video, scenario), TOLERANCE)
    assert seen


def test_recorded_steps(predictor, records, video, monkeypatch):
    recorded_by(monkeypatch, CalledAgain)
    predictor.fast = True
    assert_same(records, run(predictor, video, scenario))
    assert CalledAgain.made > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layers", "before"),
    [(EDGETAM, 2, {"rsqrt", "sin", "cos"}), (TI_1, 4, {"upsample_bicubic2d", "mean"}), (SAM3, 4, {"sin", "cos"})],
)
def test_on_a_gpu_nothing_waits(name, layers, before):
    """Folded weights and position tables are computed before steps are recorded; the kernels take the means."""
    with fake_cuda.fake_cuda() as cuda:
        predictor = fake_cuda.build(build_sam2_video_predictor, config_of(name), dtype=torch.bfloat16)
        found = fake_cuda.steady_frames(cuda, predictor, 2, 4)
        assert sum(seen.replays for seen in found) == 4 + 1, "a step of each frame, and an encoding of all"
        for seen in found:
            seen.check()
            assert not before & seen.launches.keys()
            assert seen.launches["_encode_kernel"] == layers  # of memory attention
        predictor.release_recordings()


def test_a_stream_and_a_saved_session(predictor, tmp_path):
    """With a strategy that has a state of its own."""
    predictor.strategy = "samurai"
    frames, masks = clip(3), []
    with predictor.open_stream() as stream:
        stream.step(frames[0])
        stream.add_new_points_or_box(1, box=[20, 20, 70, 60])
        stream.step(frames[1])
        stream.save(tmp_path / "session.safetensors")
        masks.append(stream.step(frames[2]).masks)
    with predictor.restore_stream(tmp_path / "session.safetensors") as stream:
        masks.append(stream.step(frames[2]).masks)
    assert torch.equal(*masks) and (masks[0] > 0).any()


@pytest.mark.slow
@pytest.mark.parametrize("model", [EDGETAM, TI_1, SAM3], indirect=True)
def test_compiled_and_exported(predictor, records, video):
    image = random_map(1, 3, predictor.image_size, predictor.image_size)
    with torch.no_grad():
        expected, actual = EncoderModule(predictor)(image), export_encoder(predictor).module()(image)
        *_, features = engine_for(predictor).encode(image)
    assert all(relative_error(a, b) < TOLERANCE for a, b in zip(expected, actual, strict=True))
    assert relative_error(features + predictor.no_mem_embed.reshape(1, -1, 1, 1), actual[-1]) < TOLERANCE
    assert_same(records, run(compile_model(predictor, backend="aot_eager"), video, scenario), TOLERANCE)


@pytest.mark.parametrize(
    ("name", "parts", "moving"),
    [
        (EDGETAM, ["spatial_perceiver"], ["spatial_perceiver.latents_2d", f"{STEM}.weight"]),
        (TI_2, ["image_encoder"], ["image_encoder.trunk.pos_embed"]),
        (SAM3, [], ["image_encoder.trunk.pos_embed", "image_encoder.neck.convs.0.dconv_2x2_0.weight"]),
    ],
)
def test_a_training_step(name, parts, moving):
    """The trainer's model tracks as the predictor does, and every part that it uses has a gradient."""
    node = load_config(config_of(name), [f"model.image_size={SIZES[name]}", *DETERMINISTIC]).model
    node._target_ = "sam2fast.training.model.SAM2Train"
    model = tame_weights.built(build_from_config, node, targets=TRAINING_TARGETS).train()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    frames = model(batch_of_discs(2, objects=(2,), size=SIZES[name])).frames
    sum(frame.masks_high_res[-1].float().square().mean() for frame in frames).backward()
    last = f"memory_attention.layers.{len(model.memory_attention.layers) - 1}.cross_attn_image"
    used = ("image_encoder.trunk", last, "memory_encoder", *parts)
    assert not [name for name, p in model.named_parameters() if name.startswith(used) and p.grad is None]
    torch.optim.SGD(model.parameters(), lr=1e-4).step()
    moved = {name for name, x in model.state_dict().items() if not torch.equal(x, before[name])}
    assert moved.issuperset(moving) and not any("running" in name or "tracked" in name for name in moved)

"""EdgeTAM beside its published code (``edgetam-dimos``): same weights, clips and prompts, fp32 on the CPU.

In an environment of its own, since the package has the name ``sam2``: ``make test-family``. Where it departs from what
is compared, and what is made of it here:

- Building it downloads weights of the trunk; here it builds the trunk without.
- Memories are stored as bfloat16; they are made to store fp32.
- ``forward_2d`` of its perceiver fails for several objects; it gets one object after the other.
- Rotations of the cross-attention are for 1024 pixels, whatever the image; at another size they get its grid.
- Its predictor is from before December 2024: all objects are prompted on the same frames before the first propagation,
  where it does what the present one does.
"""

import sys

import pytest

pytest.importorskip("sam2.modeling.perceiver", reason="needs an environment of its own: make test-family")

import importable_torchvision  # noqa: F401  (before torchvision)
import numpy as np
import tame_weights
import torch
import torchvision
from float32_memory import Float32Memory
from PIL import Image

torchvision.extension._has_ops = lambda: True
torchvision.ops.boxes._assert_has_ops = lambda: None

import timm  # noqa: E402
from sam2.build_sam import build_sam2_video_predictor as build_theirs  # noqa: E402
from sam2.modeling import perceiver  # noqa: E402
from sam2.modeling.backbones import timm as backbones  # noqa: E402
from sam2.sam2_image_predictor import SAM2ImagePredictor as TheirImagePredictor  # noqa: E402

from sam2fast.build_sam import build_sam2_video_predictor  # noqa: E402
from sam2fast.sam2_image_predictor import SAM2ImagePredictor  # noqa: E402
from sam2fast.utils.testing import relative_error  # noqa: E402

TOLERANCE = 1e-4
CONFIG = "configs/edgetam/edgetam.yaml"
SIZE, FRAMES = 512, 9  # all 7 memories are in use on the last frame
CLICKS, LABELS = np.array([[140, 110], [30.5, 40], [150, 128.25]], np.float32), np.array([1, 0, 1], np.int32)
BOX = np.array([20, 100, 120, 240], np.float32)


@pytest.fixture(scope="module", params=[SIZE, 1024], ids=str)
def pair(request):
    """Both video predictors for images of one size."""
    return both(request.param)


@pytest.fixture(scope="module")
def small():
    return both(SIZE)


def both(size):
    grid = size // 16
    overrides = [f"++model.image_size={size}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "create_model", lambda name, pretrained, **kw: timm.create_model(name, **kw))
        cross = f"++model.memory_attention.layer.cross_attention.q_sizes=[{grid},{grid}]"
        theirs = build_theirs("configs/edgetam.yaml", None, "cpu", hydra_overrides_extra=[*overrides, cross])
    ours = build_sam2_video_predictor(CONFIG, device="cpu", hydra_overrides_extra=overrides)
    ours.load_state_dict(tame_weights.fill(theirs, 0).state_dict(), strict=True)
    return ours, theirs


def each_object(self, x):
    parts = [forward_2d(self, one) for one in x.split(1)]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


forward_2d = perceiver.PerceiverResampler.forward_2d


@pytest.fixture(autouse=True)
def repaired(monkeypatch):
    monkeypatch.setattr(perceiver.PerceiverResampler, "forward_2d", each_object)
    monkeypatch.setattr(sys.modules["sam2.sam2_video_predictor"], "torch", Float32Memory())


def clip(frames=FRAMES):
    """A disc that moves over a drifting smooth random image, as ``(240, 320, 3)`` uint8."""
    coarse = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((480, 480), Image.Resampling.BICUBIC))
    y, x = np.mgrid[:240, :320]
    images = []
    for t in range(frames):
        frame = image[3 * t : 3 * t + 240, 5 * t : 5 * t + 320].copy()
        frame[np.hypot(x - 140 - 4 * t, y - 115 + 3 * t) < 40] = (220, 60, 40)
        images.append(frame)
    return images


def their_image_predictor(theirs):
    predictor, grid = TheirImagePredictor(theirs), theirs.image_size // 16
    predictor._bb_feat_sizes = [(4 * grid, 4 * grid), (2 * grid, 2 * grid), (grid, grid)]
    return predictor


def test_names_and_shapes(small):
    ours, theirs = ({name: tuple(x.shape) for name, x in model.state_dict().items()} for model in small)
    assert len(ours) == 982 and ours == theirs


@torch.no_grad()
def test_levels(pair):
    ours, theirs = pair
    image = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 3, ours.image_size, ours.image_size))).float()
    expected, actual = theirs.forward_image(image), ours.forward_image(image)
    for name in ("backbone_fpn", "vision_pos_enc"):
        assert len(expected[name]) == len(actual[name]) == 3
        for a, b in zip(expected[name], actual[name], strict=True):
            assert relative_error(a, b) <= TOLERANCE


PROMPTS = {
    "one click": {"point_coords": CLICKS[:1], "point_labels": LABELS[:1]},
    "clicks": {"point_coords": CLICKS, "point_labels": LABELS},
    "box": {"box": BOX},
    "mask": {"mask_input": np.random.default_rng(2).standard_normal((1, 128, 128)).astype(np.float32)},
}


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("multimask", [False, True])
def test_image(small, prompt, multimask):
    ours, theirs = SAM2ImagePredictor(small[0]), their_image_predictor(small[1])
    for predictor in (ours, theirs):
        predictor.set_image(clip(1)[0])
    results = [p.predict(**prompt, multimask_output=multimask, return_logits=True) for p in (ours, theirs)]
    for actual, expected in zip(*results, strict=True):
        assert relative_error(torch.from_numpy(expected), torch.from_numpy(actual)) <= TOLERANCE


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    folder = tmp_path_factory.mktemp("video")
    for t, image in enumerate(clip()):
        Image.fromarray(image).save(folder / f"{t:05}.jpg", quality=95)
    return folder


def one_click(predictor, state):
    yield predictor.add_new_points_or_box(state, 0, 1, points=CLICKS[:1], labels=LABELS[:1])
    yield from predictor.propagate_in_video(state)


def a_mask(predictor, state):
    yield predictor.add_new_mask(state, 0, 1, np.hypot(*np.mgrid[-115:125, -140:180]) < 40)
    yield from predictor.propagate_in_video(state)


def two_frames(predictor, state):
    yield predictor.add_new_points_or_box(state, 0, 1, points=CLICKS, labels=LABELS)
    yield predictor.add_new_points_or_box(state, 5, 1, points=CLICKS[:1], labels=LABELS[:1])
    yield from predictor.propagate_in_video(state)


def two_objects(predictor, state):
    yield predictor.add_new_points_or_box(state, 4, 1, points=CLICKS, labels=LABELS)
    yield predictor.add_new_points_or_box(state, 4, 2, box=BOX)
    yield from predictor.propagate_in_video(state)
    yield from predictor.propagate_in_video(state, reverse=True)


@pytest.mark.parametrize("scenario", [one_click, a_mask, two_frames, two_objects])
@torch.inference_mode()
def test_video(small, video, scenario):
    runs = []
    for predictor in small:
        predictor.fill_hole_area = 0
        runs.append(list(scenario(predictor, predictor.init_state(str(video)))))
    ours, theirs = runs
    assert len(ours) == len(theirs) >= FRAMES
    for actual, expected in zip(ours, theirs, strict=True):
        assert actual[0] == expected[0] and list(actual[1]) == list(expected[1])
        assert relative_error(expected[2], actual[2]) <= TOLERANCE
    assert min(float((expected[2] > 0).float().mean()) for expected in theirs) > 0  # nothing is absent

import random
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms as T
from official_data import data_utils
from official_data import transforms as official
from PIL import Image

from sam2fast.datasets.clip import Clip
from sam2fast.training.data import transforms as ours

any_rng = np.random.default_rng  # for transforms that draw nothing that matters


def blobs(rng, *shape):
    """Masks with smooth outlines, each with something in it."""
    height, width = shape[-2:]
    y, x = np.mgrid[:height, :width]
    centers = rng.uniform(0.35, 0.65, (*shape[:-2], 2, 1, 1))
    radii = rng.uniform(0.15, 0.3, (*shape[:-2], 1, 1))
    return np.hypot(y / height - centers[..., 0, :, :], x / width - centers[..., 1, :, :]) < radii


def a_clip(height, width, T=3, O=2, seed=0):  # noqa: E741
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (T, 7, 9, 3), dtype=np.uint8)
    frames = np.stack([np.asarray(Image.fromarray(f).resize((width, height))) for f in coarse])
    frames = (frames.astype(int) + rng.integers(-9, 10, frames.shape)).clip(0, 255).astype(np.uint8)
    return Clip(frames, blobs(rng, T, O, height, width), "a clip", tuple(range(O)), tuple(range(T)))


def as_datapoint(clip):
    frames = []
    for t, (frame, masks) in enumerate(zip(clip.frames, clip.masks, strict=True)):
        objects = [data_utils.Object(i, t, torch.from_numpy(mask.astype(np.uint8))) for i, mask in enumerate(masks)]
        frames.append(data_utils.Frame(Image.fromarray(frame), objects))
    return data_utils.VideoDatapoint(frames, 0, clip.frames.shape[1:3])


def assert_same(clip, datapoint):
    for t, frame in enumerate(datapoint.frames):
        assert np.array_equal(clip.frames[t], np.asarray(frame.data)), f"frame {t}"
        masks = torch.stack([o.segment for o in frame.objects]).bool().numpy()
        assert np.array_equal(clip.masks[t], masks), f"masks of frame {t}"
    assert clip.frames.flags.c_contiguous and clip.masks.flags.c_contiguous
    assert clip.frames.dtype == np.uint8 and clip.masks.dtype == np.bool_


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("size", "affine"),
    [
        ((48, 64), (17.3, (0, 0), 1.0, (-11.2, 0.0))),
        ((37, 53), (-24.9, (3, -2), 0.8, (19.0, 7.5))),
        ((120, 67), (90.0, (0, 0), 1.0, (0.0, 0.0))),
        ((37, 53), (0.0, (0, 0), 1.0, (0.0, 0.0))),
    ],
)
def test_affine(size, affine, interpolation, monkeypatch):
    clip = a_clip(*size)
    monkeypatch.setattr(T.RandomAffine, "get_params", lambda **_: affine)
    theirs = official.RandomAffine(25, True, shear=20, image_interpolation=interpolation)(as_datapoint(clip))
    transform = ours.RandomAffine(25, True, shear=20, image_interpolation=interpolation)
    monkeypatch.setattr(transform, "_draw", lambda *_: ours.Affine(*affine))
    assert_same(transform(clip, any_rng()), theirs)


@pytest.mark.parametrize("consistent", [True, False])
def test_affine_draws(consistent, monkeypatch):
    """Drawn within the ranges, once or for each frame, and in the ranges' full width."""
    drawn: list[Any] = []
    monkeypatch.setattr(ours, "MaskWarp", lambda affine, *_: drawn.append(affine) or (lambda masks: masks))
    transform = ours.RandomAffine([-10, 30], consistent, [0.5, 2], [0.1, 0.2], [-5, 5, 6, 7])
    clip = a_clip(20, 30)
    for seed in range(100):
        transform(clip, np.random.default_rng(seed))
    assert len(drawn) == (100 if consistent else 300)
    values = np.array([[a.angle, a.scale, *a.translate, *a.shear] for a in drawn])
    low, high = np.array([[-10, 30], [0.5, 2], [-3, 3], [-4, 4], [-5, 5], [6, 7]]).T
    assert (values.min(axis=0) >= low).all() and (values.max(axis=0) <= high).all()
    assert (values.max(axis=0) - values.min(axis=0) > 0.8 * (high - low)).all()


@pytest.mark.parametrize("consistent", [True, False])
def test_affine_is_cancelled_by_an_empty_first_mask(consistent, caplog):
    clip = a_clip(40, 40)
    clip.masks[0, 1] = False
    clip.masks[0, 1, 0, 0] = True  # the corner leaves the image
    transform = ours.RandomAffine([20, 20], consistent, num_tentatives=3)
    rng = np.random.default_rng(0)
    assert transform(clip, rng) is clip
    assert "a clip" in caplog.text and "3 tries" in caplog.text
    unlucky = a_clip(40, 40)
    unlucky.masks[1, 1] = False
    unlucky.masks[1, 1, 0, 0] = True  # but not in the first frame
    assert not transform(unlucky, rng).masks[1, 1].any()


@pytest.mark.parametrize(
    ("size", "sizes", "max_size", "square"),
    [
        ((37, 53), 64, None, True),
        ((120, 67), 31, None, True),
        ((48, 64), 41, None, False),
        ((120, 67), 41, None, False),
        ((48, 64), 41, 50, False),
        ((120, 67), 41, 50, False),
        ((48, 64), 48, None, False),
        ((37, 53), [(30, 40)], None, False),
    ],
)
def test_resize(size, sizes, max_size, square):
    clip = a_clip(*size)
    theirs = official.RandomResizeAPI(sizes, True, max_size, square)(as_datapoint(clip))
    assert_same(ours.RandomResizeAPI(sizes, True, max_size, square)(clip, any_rng()), theirs)


def test_resize_draws_from_all_sizes():
    clip = a_clip(20, 30, T=2)
    transform = ours.RandomResizeAPI([8, 12, 16], True, square=True)
    drawn = {transform(clip, np.random.default_rng(seed)).frames.shape[1:3] for seed in range(30)}
    assert drawn == {(8, 8), (12, 12), (16, 16)}
    with pytest.raises(ValueError, match="one size"):
        ours.RandomResizeAPI([8, 12, 16], False, square=True)(a_clip(20, 30, T=9), np.random.default_rng(0))


JITTER = {"brightness": (0.7, 1.3), "contrast": (0.55, 1.45), "saturation": (0.6, 1.4), "hue": (-0.4, 0.3)}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("hue", [True, False])
def test_color_jitter(seed, hue, monkeypatch):
    clip = a_clip(48, 64)
    rng = np.random.default_rng(seed)
    order = np.random.default_rng(seed).permutation(4)
    factors = {name: float(rng.choice(values)) for name, values in JITTER.items()}
    if not hue:
        factors["hue"] = None
    monkeypatch.setattr(T.ColorJitter, "get_params", lambda *_: (order, *factors.values()))
    theirs = official.ColorJitter(True, 0.1, 0.1, 0.1, None)(as_datapoint(clip))
    bounds = {name: value and [value, value] for name, value in factors.items()}
    assert_same(ours.ColorJitter(True, **bounds)(clip, np.random.default_rng(seed)), theirs)


def test_color_jitter_draws():
    still = Clip(np.full((4, 8, 8, 3), 100, np.uint8), np.ones((4, 1, 8, 8), bool))
    levels = [ours.ColorJitter(False, 0.2, 0, 0, None)(still, np.random.default_rng(s)).frames for s in range(50)]
    assert min(f.min() for f in levels) in range(80, 85) and max(f.max() for f in levels) in range(115, 121)
    assert all(len(np.unique(f[:, 0, 0, 0])) > 1 for f in levels)
    same = ours.ColorJitter(True, 0.2, 0.1, 0.1, 0.1)(still, np.random.default_rng(0)).frames
    assert (same == same[0]).all()


@pytest.mark.parametrize("name", ["RandomGrayscale", "RandomHorizontalFlip"])
def test_changes_of_the_whole_clip_or_of_some_frames(name):
    clip = a_clip(40, 51, T=8)
    mine, theirs = (getattr(module, name) for module in (ours, official))
    changed = mine(True, 1.0)(clip, any_rng())
    assert_same(changed, theirs(True, 1.0)(as_datapoint(clip)))
    assert mine(True, 0.0)(clip, any_rng()) is clip
    some = mine(False, 0.5)(clip, np.random.default_rng(1))
    chosen = [np.array_equal(frame, other) for frame, other in zip(some.frames, changed.frames, strict=True)]
    assert 0 < sum(chosen) < 8
    for i, is_changed in enumerate(chosen):
        expected = changed if is_changed else clip
        assert np.array_equal(some.frames[i], expected.frames[i]) and np.array_equal(some.masks[i], expected.masks[i])


@pytest.mark.parametrize(("size", "seed"), [((48, 64), 0), ((37, 53), 1), ((120, 67), 2)])
def test_mosaic(size, seed, monkeypatch):
    clip = a_clip(*size)
    grid_h, grid_w = 2, 3
    rng = np.random.default_rng(seed)
    rng.random()
    cells = [int(rng.integers(grid_h)), int(rng.integers(grid_w))]
    flips = torch.from_numpy(rng.random((grid_h, grid_w)))
    monkeypatch.setattr(random, "random", lambda: 0.0)
    monkeypatch.setattr(random, "randint", lambda *_: cells.pop(0))
    monkeypatch.setattr(torch, "rand", lambda *_: flips)
    theirs = official.RandomMosaicVideoAPI(1.0, grid_h, grid_w, use_random_hflip=True)(as_datapoint(clip))
    transform = ours.RandomMosaicVideoAPI(1.0, grid_h, grid_w, use_random_hflip=True)
    assert_same(transform(clip, np.random.default_rng(seed)), theirs)
    assert ours.RandomMosaicVideoAPI(0.0)(clip, np.random.default_rng(seed)) is clip


@pytest.mark.parametrize("padding", [(3, 5), (1, 2, 3, 4)])
def test_pad(padding):
    clip = a_clip(20, 30)
    datapoint = as_datapoint(clip)
    for t in range(3):
        datapoint.frames[t].size = (20, 30)  # the official resize leaves it there
        official.pad(datapoint, t, padding)
    assert_same(ours.pad(clip, padding), datapoint)
    with pytest.raises(ValueError, match="padding"):
        ours.pad(clip, (1, 2, 3))


def training_transforms():
    """Those of the official fine-tuning configuration, at another resolution."""
    return ours.ComposeAPI(
        [
            ours.RandomHorizontalFlip(consistent_transform=True),
            ours.RandomAffine(25, True, shear=20, image_interpolation="bilinear", log_warning=False),
            ours.RandomResizeAPI(sizes=64, square=True, consistent_transform=True),
            ours.ColorJitter(True, brightness=0.1, contrast=0.03, saturation=0.03, hue=None),
            ours.RandomGrayscale(p=0.05, consistent_transform=True),
            ours.ColorJitter(False, brightness=0.1, contrast=0.05, saturation=0.05, hue=None),
            ours.ToTensorAPI(),
            ours.NormalizeAPI(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )


def test_everything_comes_from_the_generator():
    clip = a_clip(48, 80)
    before = clip.frames.tobytes(), clip.masks.tobytes()
    runs = [training_transforms()(clip, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert runs[0].frames.tobytes() == runs[1].frames.tobytes() != runs[2].frames.tobytes()
    assert runs[0].masks.tobytes() == runs[1].masks.tobytes() != runs[2].masks.tobytes()
    assert runs[0].frames.shape == (3, 64, 64, 3) and runs[0].masks.shape == (3, 2, 64, 64)
    assert (runs[0].name, runs[0].object_ids, runs[0].frame_indices) == ("a clip", (0, 1), (0, 1, 2))
    assert (clip.frames.tobytes(), clip.masks.tobytes()) == before


def test_constructor_arguments_are_the_official_ones():
    import inspect

    for name in ("RandomHorizontalFlip", "RandomAffine", "RandomResizeAPI", "ColorJitter", "RandomGrayscale",
                 "RandomMosaicVideoAPI", "ToTensorAPI", "NormalizeAPI", "ComposeAPI"):  # fmt: skip
        theirs, mine = (inspect.signature(getattr(module, name)).parameters.values() for module in (official, ours))
        assert [(p.name, p.default) for p in theirs] == [(p.name, p.default) for p in mine], name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ours.RandomAffine(25, True, image_interpolation="lanczos"), "image_interpolation"),
        (lambda: ours.ColorJitter(True, 0, 0, 0, 0.7), "hue"),
    ],
)
def test_impossible_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()

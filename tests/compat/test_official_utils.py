"""Small functions that other code imports, compared with the original's."""

import sys
from types import ModuleType
from typing import Any

import numpy as np
import oracle  # noqa: F401  (makes the official package importable)
import pytest
import sam2.build_sam
import sam2.modeling.backbones.hieradet as official_hiera
import sam2.modeling.backbones.utils as official_windows
import sam2.modeling.position_encoding as official_positions
import sam2.modeling.sam2_utils as official
import scipy.ndimage
import torch
from random_blobs import random_blobs
from torch import nn

from sam2fast.build_sam import _load_checkpoint
from sam2fast.checkpoints import CheckpointError
from sam2fast.compat import official_utils as ours
from sam2fast.training import official_sampling


def test_checkpoint(tmp_path):
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    torch.save({"model": source.state_dict()}, tmp_path / "w.pt")
    weight = target.weight
    _load_checkpoint(target, None)
    assert not torch.equal(target.weight, source.weight)
    _load_checkpoint(target, str(tmp_path / "w.pt"))
    assert target.weight is weight and torch.equal(weight, source.weight)
    for load, error in ((sam2.build_sam._load_checkpoint, RuntimeError), (_load_checkpoint, CheckpointError)):
        with pytest.raises(error):
            load(nn.Linear(3, 2, bias=False), str(tmp_path / "w.pt"))


def test_closest_conditioning_frames():
    outputs = {t: f"frame {t}" for t in (0, 3, 8, 9, 12, 20)}
    for frame in range(22):
        for limit in (-1, 2, 3, 4, 9):
            expected = official.select_closest_cond_frames(frame, outputs, limit)
            actual = ours.select_closest_cond_frames(frame, outputs, limit)
            assert [list(e.items()) for e in expected] == [list(a.items()) for a in actual]


def test_sines():
    positions = torch.tensor([[0.0, 0.5], [3.0, -1.0]])
    for arguments in ({"dim": 64}, {"dim": 32, "temperature": 100}):
        expected = official.get_1d_sine_pe(pos_inds=positions, **arguments)
        assert torch.equal(ours.get_1d_sine_pe(pos_inds=positions, **arguments), expected)


def test_activations():
    x = torch.linspace(-2, 2, 8)
    for name in ("relu", "gelu", "glu"):
        expected = official.get_activation_fn(activation=name)(x)
        assert torch.equal(ours.get_activation_fn(activation=name)(x), expected)
    with pytest.raises(ValueError, match="unknown activation 'tanh'"):
        ours.get_activation_fn("tanh")


def test_clones():
    layer = nn.Linear(2, 3)
    clones = ours.get_clones(layer, 2)
    assert isinstance(clones, nn.ModuleList) and len(clones) == 2
    assert len({id(c.weight) for c in (layer, *clones)}) == 3
    assert all(torch.equal(c.weight, layer.weight) for c in clones)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"noise": 0.0}, {"noise": 0.5, "noise_bound": 2}, {"top_left_label": 7, "bottom_right_label": 8}],
    ids=str,
)
def test_boxes(arguments):
    """The same generator gives the same boxes and ends in the same state."""
    masks = random_blobs(12, seed=1)[1:]
    results, states = [], []
    for module in (official, official_sampling):
        torch.manual_seed(3)
        results.append(module.sample_box_points(masks, **arguments))
        states.append(torch.get_rng_state())
    (corners, labels), (our_corners, our_labels) = results
    torch.testing.assert_close(our_corners, corners.float())
    assert our_corners.dtype == torch.float32
    assert our_labels.dtype == labels.dtype and torch.equal(our_labels, labels)
    assert torch.equal(*states)


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("with_guess", [True, False])
def test_random_errors(count, with_guess):
    """Every click is at a pixel where the original may click, with the same label."""
    truth = random_blobs(20, seed=2)
    guess = random_blobs(20, seed=3) if with_guess else None
    if guess is not None:
        guess[5] = truth[5]  # nothing wrong: the background is clicked
    shapes = []
    for module in (official, official_sampling):
        points, labels = module.sample_random_points_from_errors(truth, guess, count)
        assert points.dtype == torch.float32 and labels.dtype == torch.int32
        shapes.append((points.shape, labels.shape))
        for i in range(20):
            predicted = torch.zeros_like(truth[i]) if guess is None else guess[i]
            nothing_wrong = torch.equal(truth[i], predicted)
            for (x, y), label in zip(points[i].long().tolist(), labels[i].tolist(), strict=True):
                assert label == (truth[i, 0, y, x] and not nothing_wrong)
                assert nothing_wrong or truth[i, 0, y, x] != predicted[0, y, x]
    assert shapes[0] == shapes[1]


def test_several_random_errors_differ():
    truth = torch.ones(1, 1, 24, 24, dtype=torch.bool)
    points, _ = official_sampling.sample_random_points_from_errors(truth, None, 50)
    assert len({tuple(p) for p in points[0].tolist()}) > 40


def test_random_errors_of_no_masks():
    points, labels = official_sampling.sample_random_points_from_errors(
        torch.zeros(0, 1, 4, 4, dtype=torch.bool), None, 2
    )
    assert points.shape == (0, 2, 2) and labels.shape == (0, 2)


@pytest.fixture
def cv2(monkeypatch) -> None:
    """OpenCV's distance transform by scipy; as in OpenCV, an image without zeros has equal distances."""

    def distance_transform(mask: np.ndarray, kind: int, size: int) -> np.ndarray:
        distance = scipy.ndimage.distance_transform_edt(mask) if (mask == 0).any() else np.full(mask.shape, 8192)
        return distance.astype(np.float32)

    module: Any = ModuleType("cv2")
    module.DIST_L2, module.distanceTransform = 2, distance_transform
    monkeypatch.setitem(sys.modules, "cv2", module)


@pytest.mark.usefixtures("cv2")
@pytest.mark.parametrize("padding", [True, False])
def test_centres_of_errors(padding):
    truth = random_blobs(30, seed=6)
    for guess in (None, random_blobs(30, seed=7), truth.clone()):
        expected = official.sample_one_point_from_error_center(truth, guess, padding=padding)
        actual = official_sampling.sample_one_point_from_error_center(truth, guess, padding=padding)
        for e, a in zip(expected, actual, strict=True):
            assert e.dtype == a.dtype and torch.equal(e, a)


@pytest.mark.usefixtures("cv2")
def test_next_point():
    truth, guess = random_blobs(8, seed=8), random_blobs(8, seed=9)
    for e, a in zip(*(m.get_next_point(truth, guess, "center") for m in (official, official_sampling)), strict=True):
        assert torch.equal(e, a)
    points, labels = official_sampling.get_next_point(gt_masks=truth, pred_masks=guess, method="uniform")
    assert points.shape == (8, 1, 2) and labels.shape == (8, 1)
    for module in (official, official_sampling):
        with pytest.raises(ValueError, match="unknown sampling method"):
            module.get_next_point(truth, guess, "best")


def test_rotations():
    for ours_, theirs in zip(ours.init_t_xy(5, 3), official_positions.init_t_xy(5, 3), strict=True):
        assert torch.equal(ours_, theirs)
    for arguments in ((64, 8, 8), (16, 5, 3, 100.0)):
        expected = official_positions.compute_axial_cis(*arguments)
        actual = ours.compute_axial_cis(*arguments)
        assert actual.dtype == expected.dtype
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("keys", "repeat"), [(16, False), (48, True), (0, False), (0, True)])
def test_rotating(dtype, keys, repeat):
    rotations = official_positions.compute_axial_cis(32, 4, 4)
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 3, 16, 32, generator=generator).to(dtype)
    k = torch.randn(2, 3, keys, 32, generator=generator).to(dtype)
    expected = official_positions.apply_rotary_enc(q, k, rotations, repeat_freqs_k=repeat)
    actual = ours.apply_rotary_enc(xq=q, xk=k, freqs_cis=rotations, repeat_freqs_k=repeat)
    for e, a in zip(expected, actual, strict=True):
        assert a.dtype == e.dtype and a.shape == e.shape
        assert torch.equal(a, e)


def test_rotations_of_another_size():
    rotations = ours.compute_axial_cis(8, 3, 3)
    assert ours.reshape_for_broadcast(rotations, torch.zeros(2, 5, 9, 4)).shape == (1, 1, 9, 4)
    with pytest.raises(ValueError, match=r"\(9, 4\) do not fit"):
        ours.reshape_for_broadcast(rotations, torch.zeros(2, 5, 8, 4))


@pytest.mark.parametrize(("height", "width"), [(14, 21), (16, 15), (3, 5), (7, 7)])
def test_windows(height, width):
    x = torch.randn(2, height, width, 3, generator=torch.Generator().manual_seed(0))
    expected, padded = official_windows.window_partition(x, 7)
    windows, our_padded = ours.window_partition(x, 7)
    assert our_padded == padded and torch.equal(windows, expected)
    assert torch.equal(ours.window_unpartition(windows, 7, padded, (height, width)), x)
    assert torch.equal(official_windows.window_unpartition(windows, 7, padded, (height, width)), x)


def test_pooling():
    x, pool, norm = torch.randn(2, 6, 8, 4), nn.MaxPool2d(2), nn.LayerNorm(4)
    for arguments in ((None,), (pool,), (pool, norm)):
        assert torch.equal(ours.do_pool(x, *arguments), official_hiera.do_pool(x, *arguments))

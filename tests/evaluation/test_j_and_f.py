import math

import numpy as np
import plain_evaluator as plain
import pytest
import torch
from scipy import ndimage

from sam2fast.evaluation.j_and_f import JAndF, boundary_f, compare_label_maps, j_and_f, jaccard


def blob(rng: np.random.Generator, height: int, width: int, noise: float) -> np.ndarray:
    field = ndimage.gaussian_filter(rng.standard_normal((height, width)), max(height, width) / 10, mode="wrap")
    return (field > 0) ^ (rng.random((height, width)) < noise)


@pytest.mark.parametrize("shape", [(64, 64), (37, 53), (90, 31), (1, 40), (40, 1), (1, 1), (2, 2)])
@pytest.mark.parametrize(("tolerance", "noise"), [(0.008, 0.002), (0.05, 0.3), (0.2, 0.0)])
def test_boundary_f_by_dilation(shape, tolerance, noise):
    rng = np.random.default_rng([*shape, int(1000 * noise)])
    pred, truth = (blob(rng, *shape, noise) for _ in range(2))
    shifted = np.roll(truth, (1, 2), axis=(0, 1))
    for a, b in [(pred, truth), (truth, shifted), (pred & truth, truth), (pred, ~truth), (truth, truth)]:
        assert boundary_f(a, b, tolerance) == pytest.approx(plain.f_of(a, b, tolerance), abs=1e-12)


def test_by_hand():
    truth, pred = np.zeros((2, 4, 4), bool)
    truth[1:3, 1:3] = True
    pred[1:3, 1:4] = True
    assert jaccard(pred, truth) == 4 / 6
    # Their boundaries are, within 1 pixel (0.008 times 5.7, rounded up) of each other everywhere:
    #   1 1 1 .      1 1 1 1
    #   1 . 1 .      1 . . .
    #   1 1 1 .      1 1 1 1
    assert plain.outline(truth).sum() == 8 and plain.outline(pred).sum() == 9
    assert boundary_f(pred, truth) == 1.0
    # With radius 0, the 7 common ones count.
    assert boundary_f(pred, truth, 0.0) == pytest.approx(2 * (7 / 9) * (7 / 8) / (7 / 9 + 7 / 8))
    far = np.zeros((64, 64), bool)
    other = far.copy()
    far[2:6, 2:6], other[40:50, 40:50] = True, True
    assert boundary_f(far, other) == 0.0 and jaccard(far, other) == 0.0


def test_empty_masks():
    nothing, all_of_it, some = np.zeros((3, 30, 40), bool)
    all_of_it[:] = True
    some[3:9, 3:9] = True
    assert jaccard(nothing, nothing) == 1.0 and boundary_f(nothing, nothing) == 1.0
    assert jaccard(some, nothing) == jaccard(nothing, some) == 0.0
    assert boundary_f(some, nothing) == boundary_f(nothing, some) == 0.0
    # A full mask has no boundary.
    assert boundary_f(all_of_it, nothing) == 1.0 and jaccard(all_of_it, nothing) == 0.0


def test_leading_dimensions_and_tensors():
    rng = np.random.default_rng(0)
    pred, truth = rng.random((2, 3, 2, 20, 30)) < 0.5
    for measure in (jaccard, boundary_f):
        values = measure(pred, truth)
        assert values.shape == (3, 2) and values.dtype == np.float64
        assert values[2, 1] == measure(pred[2, 1], truth[2, 1])
        assert np.array_equal(measure(torch.from_numpy(pred), torch.from_numpy(truth)), values)
        assert measure(pred[:0], truth[:0]).shape == (0, 2)


def video() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    truths = np.stack([[blob(rng, 40, 50, 0) for _ in range(3)] for _ in range(6)])
    preds = truths ^ (rng.random(truths.shape) < 0.02)
    return preds, truths


@pytest.mark.parametrize("skip", [True, False])
def test_means_over_frames_and_objects(skip):
    preds, truths = video()
    result = j_and_f(preds, truths, skip_first_and_last=skip)
    frames = slice(1, -1) if skip else slice(None)
    assert np.allclose(result.j, jaccard(preds[frames], truths[frames]).mean(axis=0), rtol=1e-12)
    assert np.allclose(result.f, boundary_f(preds[frames], truths[frames]).mean(axis=0), rtol=1e-12)
    assert result.mean_j == pytest.approx(result.j.mean()) and result.mean_f == pytest.approx(result.f.mean())
    assert result.mean == pytest.approx(result.per_object.mean())
    assert 0 < result.mean < 1


def test_objects_count_from_their_first_appearance():
    preds, truths = video()
    truths[:3, 0] = preds[:3, 0] = False  # comes in frame 3
    truths[:3, 1] = False  # is seen too early: in the prediction from frame 2
    preds[:2, 1] = False
    truths[:, 2] = False  # is not there at all
    result = j_and_f(preds, truths, skip_first_and_last=False)
    assert result.j[0] == pytest.approx(jaccard(preds[3:, 0], truths[3:, 0]).mean())
    assert result.j[1] == pytest.approx(jaccard(preds[2:, 1], truths[2:, 1]).mean())
    assert jaccard(preds[2, 1], truths[2, 1]) == 0.0
    assert np.isnan(result.j[2]) and np.isnan(result.f[2])
    assert result.mean_j == pytest.approx(result.j[:2].mean())
    # After the object has left, empty frames count, as correct if the prediction is empty too.
    truths[5, 0] = preds[5, 0] = False
    left = j_and_f(preds, truths, skip_first_and_last=False)
    assert left.j[0] == pytest.approx((jaccard(preds[3:5, 0], truths[3:5, 0]).sum() + 1) / 3)


def test_an_object_in_skipped_frames_only_is_not_measured():
    preds, truths = video()
    truths[1:-1, 0] = False
    assert np.isnan(j_and_f(preds, truths).j[0])
    assert np.isnan(j_and_f(preds[:2], truths[:2]).mean)


def test_videos_count_by_their_objects():
    preds, truths = video()
    one, two = j_and_f(preds, truths), j_and_f(truths[:, :1], truths[:, :1])
    together = JAndF.of_videos([one, two])
    assert two.mean == 1.0 and len(together.j) == 4
    assert together.mean == pytest.approx((one.per_object.sum() + 1) / 4)
    assert math.isnan(JAndF.of_videos([]).mean)


@pytest.mark.parametrize(
    ("ids", "dtypes"),
    [
        ((1, 2, 3), ("uint8", "uint8")),
        ((2, 9), ("uint8", "uint16")),
        ((16,), ("int32", "uint8")),
        ((17,), ("uint8", "uint8")),
        ((3, 17, 250), ("uint8", "uint16")),
        ((), ("int32", "uint8")),
    ],
)
def test_every_object_of_either_map(ids, dtypes):
    """Compares maps with gaps between ids and maps without ids, too."""
    rng = np.random.default_rng([*ids, 1])
    pred, truth = np.zeros((2, 40, 90), dtype=np.uint8)
    for labels in (pred, truth):
        for i in ids:
            top, left = rng.integers(0, 30), rng.integers(0, 70)
            labels[top : top + 12, left : left + 25] = i
    pred[:3, :3] = 5  # is not in the truth
    truth[-3:, -3:] = 7  # is not in the prediction
    found = compare_label_maps(pred.astype(dtypes[0]), truth.astype(dtypes[1]))
    assert list(found) == sorted({int(i) for i in np.unique([pred, truth]) if i})
    for i, (j, f, in_truth, in_pred) in found.items():
        assert j == pytest.approx(plain.j_of(pred == i, truth == i), abs=1e-12)
        assert f == pytest.approx(plain.f_of(pred == i, truth == i), abs=1e-12)
        assert in_truth == (truth == i).any() and in_pred == (pred == i).any()


def test_ids_beyond_a_byte():
    truth, pred = np.zeros((20, 20), np.uint16), np.zeros((20, 20), np.uint8)
    truth[5:10, 5:10] = 256
    assert compare_label_maps(pred, truth) == {256: (0.0, 0.0, True, False)}
    assert compare_label_maps(pred, pred) == {}


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, bool)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: j_and_f(zeros(4, 1, 5, 5), zeros(3, 1, 5, 5)), "one shape"),
        (lambda: j_and_f(zeros(1, 5, 5), zeros(1, 5, 5)), r"\(T, O, H, W\)"),
        (lambda: jaccard(zeros(5), zeros(5)), "one shape"),
        (lambda: compare_label_maps(zeros(4, 5), zeros(5, 4)), r"\(4, 5\) and \(5, 4\)"),
        (lambda: boundary_f(zeros(5, 5).astype(np.uint8), zeros(5, 5)), "bool"),
    ],
)
def test_refusals(call, word):
    with pytest.raises(ValueError, match=word):
        call()


def test_void_pixels_leave_both_maps_before_outlines_are_drawn():
    rng = np.random.default_rng(3)
    pred, truth = (blob(rng, 60, 90, 0.01).astype(np.uint8) for _ in range(2))
    truth[10:30, 20:50], truth[40:, 60:] = 255, 254
    known = (truth != 255) & (truth != 254)
    a, b = (pred == 1) & known, (truth == 1) & known
    (found,) = compare_label_maps(pred, truth, ignored_labels=(254, 255)).values()
    assert (found.j, found.f) == pytest.approx((plain.j_of(a, b), plain.f_of(a, b)), abs=1e-12)
    assert plain.f_of(a, b) != plain.f_of(pred == 1, truth == 1) and plain.j_of(a, b) != plain.j_of(pred == 1, b)
    # An object that lies in void pixels alone is none.
    only_void = np.zeros_like(truth)
    only_void[12:20, 22:30] = 7
    assert set(compare_label_maps(only_void, truth, ignored_labels=(255,))) == {1, 254}

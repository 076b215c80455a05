"""J and F of all objects of a frame."""

import numpy as np
import plain_evaluator as plain
import pytest

from sam2fast.evaluation.label_maps import compare_label_maps


@pytest.mark.parametrize("kinds", [("uint8", "uint8"), ("uint8", "uint16"), ("int32", "uint8")])
@pytest.mark.parametrize("ids", [(1, 2, 3), (2, 9), (16,), (17,), (3, 17, 250), ()])
def test_every_object_of_either_map(ids, kinds):
    """Also where ids are missing in between, and where neither map shows anything."""
    rng = np.random.default_rng([*ids, 1])
    pred, truth = np.zeros((2, 40, 90), dtype=np.uint8)
    for labels in (pred, truth):
        for i in ids:
            top, left = rng.integers(0, 30), rng.integers(0, 70)
            labels[top : top + 12, left : left + 25] = i
    pred[:3, :3] = 5  # is not in the truth
    truth[-3:, -3:] = 7  # is not in the prediction
    found = compare_label_maps(pred.astype(kinds[0]), truth.astype(kinds[1]))
    assert list(found) == sorted({int(i) for i in np.unique([pred, truth]) if i})
    for i, (j, f, in_truth) in found.items():
        assert j == pytest.approx(plain.j_of(pred == i, truth == i), abs=1e-12)
        assert f == pytest.approx(plain.f_of(pred == i, truth == i), abs=1e-12)
        assert in_truth == (truth == i).any()


def test_nothing_at_all():
    nothing = np.zeros((5, 5), dtype=np.uint8)
    assert compare_label_maps(nothing, nothing) == {}


def test_ids_beyond_a_byte():
    truth = np.zeros((20, 20), dtype=np.uint16)
    truth[5:10, 5:10] = 256
    pred = np.zeros((20, 20), dtype=np.uint8)
    assert compare_label_maps(pred, truth) == {256: (0.0, 0.0, True)}


def test_maps_of_different_sizes():
    with pytest.raises(ValueError, match=r"of one size, got \(4, 5\) and \(5, 4\)"):
        compare_label_maps(np.zeros((4, 5), dtype=np.uint8), np.zeros((5, 4), dtype=np.uint8))

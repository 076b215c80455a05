"""Numbers of objects in files: ids if all fit, otherwise positions."""

import json

import numpy as np
import pytest

from sam2fast.results import FrameMasks, to_coco_video
from sam2fast.results.object_numbers import id_of_text, object_numbers, positions_note


@pytest.mark.parametrize(
    ("ids", "numbers", "expected"),
    [
        ([5, 2], [5, 2], [5, 2]),
        (["5", "2"], [5, 2], [5, 2]),
        ([300, "5"], [300, 5], [300, 5]),
        ([70000, 5], [1, 2], [70000, 5]),
        ([0, 1], [1, 2], [1, 2]),
        ([-1, 3], [1, 2], [1, 2]),
        (["dog", 5], [1, 2], [1, 2]),
        ([7, "007"], [1, 2], [1, 2]),
        (["7", 7], [1, 2], [1, 2]),
        ([9, 9], [9], [9]),
        ([], [], []),
    ],
)
def test_numbers(ids, numbers, expected):
    """``expected`` are numbers without a maximum."""
    keys = dict.fromkeys(ids)
    assert object_numbers(ids, 65535) == dict(zip(keys, numbers, strict=True))
    assert object_numbers(ids) == dict(zip(keys, expected, strict=True))


@pytest.mark.parametrize("text", ["0", "7", "-3", "70000"])
def test_integers(text):
    assert id_of_text(text) == int(text)


@pytest.mark.parametrize("text", ["00", "007", "+1", "-0", "1.0", "1_000", "٣", "²", "", "dog"])
def test_names(text):
    """Texts that no integer prints."""
    assert id_of_text(text) == text


def test_notes():
    ids = {"nifti": object_numbers([5, "2"]), "png": object_numbers(["dog", 5])}
    assert positions_note({"nifti": ids["nifti"]}) is None and positions_note({}) is None
    assert positions_note(ids) == "ids in the format png are numbers from 1: 1 is dog, 2 is 5"
    names = object_numbers(f"cell {i}" for i in range(12))
    note = positions_note({"png": names, "mot": names})
    assert note.startswith("ids in the formats png and mot are numbers from 1: 1 is cell 0, 2 is cell 1, ")
    assert note.endswith("10 is cell 9 and 2 more")


def test_ids_of_numpy():
    """As of ``np.unique`` of a label image."""
    masks = np.ones((2, 4, 5), bool)
    document = to_coco_video([FrameMasks(0, np.array([5, 2], np.uint8), masks, None)], (4, 5))
    assert [one["id"] for one in json.loads(json.dumps(document))["annotations"]] == [5, 2]

"""Tracked masks for other programs: ``frame_masks``, ``coco``, ``drawing`` and ``record``."""

import json
import sys

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_masks

from sam2fast.io.rle import encode_rle
from sam2fast.results import (
    RecordError,
    colour_of,
    draw_masks,
    read_masks,
    to_coco_video,
    to_numpy,
    to_supervision,
)
from sam2fast.results.record import RecordIndex
from sam2fast.tracking.outputs import TrackScores
from sam2fast.tracking.stream import StreamResult

# supervision says so when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:OpenCV .* is not installed")
H, W = 30, 40
GREY = np.full((H, W, 3), 100, dtype=np.uint8)


def rectangle(x0, y0, x1, y1):
    mask = np.zeros((H, W), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


MASKS = np.stack([rectangle(2, 3, 12, 9), rectangle(0, 0, 0, 0), rectangle(20, 10, 40, 30)])
LOGITS = torch.where(torch.from_numpy(MASKS)[:, None], 3.0, -2.0)
IOU = torch.tensor([0.5, 0.25, 0.75])
SCORES = TrackScores(IOU, torch.tensor([4.0, -4.0, 4.0]), torch.zeros(3, 1, 8, 8))


@pytest.mark.parametrize(
    "result",
    [
        (5, [1, 2, 3], LOGITS, SCORES),
        (5, [1, 2, 3], LOGITS.bfloat16(), IOU),
        (5, (1, 2, 3), MASKS, IOU.numpy()),
        (5, [1, 2, 3], torch.from_numpy(MASKS), IOU.tolist()),
        StreamResult(5, [1, 2, 3], LOGITS, SCORES),
    ],
)
def test_arrays_of_every_source(result):
    found = to_numpy(result)
    assert (found.frame, found.ids) == (5, [1, 2, 3]) and found.masks.dtype == bool
    np.testing.assert_array_equal(found.masks, MASKS)
    np.testing.assert_array_equal(found.scores, IOU.numpy())
    np.testing.assert_array_equal(to_numpy(found).masks, MASKS)


def test_arrays_without_scores_and_without_objects():
    assert to_numpy((5, [1, 2, 3], LOGITS)).scores is None
    empty = to_numpy((0, [], torch.zeros(0, 1, H, W)))
    assert empty.masks.shape == (0, H, W) and empty.ids == []
    with pytest.raises(ValueError, match="unpack_masks"):
        to_numpy((5, [1, 2, 3], torch.zeros(3, 1, H, W, dtype=torch.uint8)))


def test_detections():
    import supervision

    detections = to_supervision([7, 8, 9], LOGITS, SCORES)
    assert isinstance(detections, supervision.Detections)
    assert detections.tracker_id.tolist() == [7, 9]  # the empty one is left out
    np.testing.assert_array_equal(detections.mask, MASKS[[0, 2]])
    np.testing.assert_array_equal(detections.xyxy, supervision.mask_to_xyxy(MASKS[[0, 2]]))
    np.testing.assert_allclose(detections.confidence, [0.5, 0.75])
    assert detections.data["object_id"].tolist() == [7, 9]
    assert detections[detections.tracker_id == 9].data["object_id"].tolist() == [9]


def test_masks_are_compact_where_supervision_has_that(monkeypatch):
    import supervision

    detections = to_supervision([7, 8, 9], LOGITS, SCORES)
    assert isinstance(detections.mask, supervision.CompactMask)
    assert detections.area.tolist() == MASKS[[0, 2]].sum((1, 2)).tolist()
    monkeypatch.delattr(supervision, "CompactMask")
    assert isinstance(to_supervision([7, 8, 9], LOGITS).mask, np.ndarray)


def test_names_get_the_same_numbers_in_every_frame():
    first = to_supervision(["dog", "cat", 4], MASKS)
    second = to_supervision(["cat", 4, "dog"], MASKS[[2, 1, 0]])
    numbers = dict(zip(first.data["object_id"], first.tracker_id.tolist(), strict=True))
    assert list(numbers) == ["dog", 4] and numbers[4] == 4 and first.confidence is None
    assert dict(zip(second.data["object_id"], second.tracker_id.tolist(), strict=True))["dog"] == numbers["dog"]


def test_labels_are_classes():
    detections = to_supervision([7, "a", 9], LOGITS, SCORES, {7: 4, 9: np.int64(2), "a": 3})
    assert detections.class_id.tolist() == [4, 2] and "class_name" not in detections.data
    first, second = (to_supervision([7, 8, 9], LOGITS, None, labels) for labels in ({7: "猫", 9: None}, {9: "猫"}))
    assert first.data["class_name"].tolist() == ["猫", ""] and second.data["class_name"].tolist() == ["", "猫"]
    assert first.class_id[0] == second.class_id[1] and first.class_id[1] == 0
    assert to_supervision([7, 8, 9], LOGITS).class_id.tolist() == [0, 0]


def test_no_detections():
    assert len(to_supervision([1], np.zeros((1, H, W), dtype=bool))) == 0
    assert len(to_supervision([], torch.zeros(0, 1, H, W))) == 0


def test_without_supervision(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        to_supervision([1, 2, 3], MASKS)


def test_coco_video():
    frames = [(3, ["a", "b", "c"], LOGITS, SCORES), (1, ["a", "b", "c"], MASKS[[2, 0, 1]], IOU)]
    document = json.loads(json.dumps(to_coco_video(frames, (H, W), length=5, name="clip")))
    (video,) = document["videos"]
    assert (video["length"], video["height"], video["width"]) == (5, H, W)
    assert video["file_names"] == [f"clip/{t:05d}.jpg" for t in range(5)]
    tracks = {annotation["object"]: annotation for annotation in document["annotations"]}
    assert list(tracks) == ["a", "b", "c"]
    expected = {"a": {3: MASKS[0], 1: MASKS[2]}, "b": {1: MASKS[0]}, "c": {3: MASKS[2]}}
    for name, shown in expected.items():
        track = tracks[name]
        (category,) = (one for one in document["categories"] if one["id"] == track["category_id"])
        assert track["video_id"] == video["id"] and category["name"] == name
        for t in range(5):
            rle, area, box = (track[key][t] for key in ("segmentations", "areas", "bboxes"))
            if t in shown:
                np.testing.assert_array_equal(coco_masks.decode(rle) > 0, shown[t])
                assert area == coco_masks.area(rle) and box == coco_masks.toBbox(rle).tolist()
            else:
                assert rle is area is box is None
    assert tracks["a"]["score"] == 0.5 and tracks["c"]["score"] == 0.75


def test_coco_video_ends_with_the_last_frame_given():
    document = to_coco_video([(2, [1, 2, 3], MASKS)], (H, W))
    assert document["videos"][0]["length"] == 3 and "score" not in document["annotations"][0]
    assert [(category["id"], category["name"]) for category in document["categories"]] == [(1, "1"), (2, "2"), (3, "3")]
    assert to_coco_video([], (H, W))["annotations"] == []


def line(frame, masks=MASKS):
    objects = [
        {"id": i, "rle": encode_rle(mask), "area": int(mask.sum()), "box": None, "score": 0.5, "object_score": 1.0}
        for i, mask in enumerate(masks)
    ]
    return json.dumps({"frame": frame, "time": None, "objects": objects}) + "\n"


def test_record_is_read_frame_by_frame(tmp_path):
    (tmp_path / "masks.jsonl").write_text(line(4) + line(5, MASKS[:1]) + line(6)[:-40])
    first, second = read_masks(tmp_path / "masks.jsonl")  # the incomplete line is skipped
    assert (first.frame, first.ids, second.frame, second.ids) == (4, [0, 1, 2], 5, [0])
    np.testing.assert_array_equal(first.masks, MASKS)
    np.testing.assert_array_equal(first.scores, np.full(3, 0.5, np.float32))
    assert len(to_supervision(*first[1:])) == 2


def test_record_by_frame(tmp_path):
    path = tmp_path / "masks.jsonl"
    path.write_text(line(4) + line(2) + line(6)[:-1])
    index = RecordIndex(path)
    assert list(index) == [4, 2] and not index.is_sorted and 6 not in index
    assert index.raw(2) == line(2).encode() and index[4]["frame"] == 4
    index.close()


@pytest.mark.parametrize(
    ("text", "where"),
    [
        *((text, "line 2") for text in ("not json", "[]", '{"frame": 1}', '{"objects": []}')),
        *((f'{{"frame": {t}, "objects": []}}', f"line 2, has the frame {t}") for t in (-1, 2**64)),
        ('{"frame": 3, "objects": [{"id": [1]}]}', "frame 3 cannot be read: the ids are"),
        (line(3).replace('"counts": "', '"counts": "~~').strip(), "frame 3 cannot be read"),
    ],
)
def test_invalid_records(tmp_path, text, where):
    (tmp_path / "x.jsonl").write_text(line(0) + text + "\n")
    with pytest.raises(RecordError, match=f"x.jsonl.*{where}"):
        list(read_masks(tmp_path / "x.jsonl"))


def test_masks_are_tinted_half_and_outlined():
    before = GREY.copy()
    image = draw_masks(GREY, LOGITS, ids=[0, 1, 2])
    assert image.dtype == np.uint8 and image.shape == GREY.shape
    for number, (y, x) in ((0, (6, 6)), (2, (20, 30))):
        np.testing.assert_allclose(image[y, x], (100 + np.array(colour_of(number))) / 2, atol=1)
    np.testing.assert_array_equal(image[3, 2:12], np.tile(colour_of(0), (10, 1)))
    np.testing.assert_array_equal((image != GREY).any(axis=2), MASKS.any(axis=0))
    np.testing.assert_array_equal(GREY, before)


def test_an_id_has_one_colour():
    masks = MASKS[[0, 2]]
    one, other = draw_masks(GREY, masks, ids=["dog", 12]), draw_masks(GREY, masks, ids=[12, "dog"])
    assert tuple(one[6, 6]) == tuple(other[20, 30]) != tuple(one[20, 30]) == tuple(other[6, 6])
    assert len({colour_of(i) for i in range(40)}) == 40


ROW = (2, [1, 2, 3], MASKS)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: to_numpy((5, [1, 2], LOGITS)), "2 ids"),
        (lambda: to_numpy((5, [1, 2, 3], LOGITS, [0.5])), "3 scores"),
        (lambda: to_numpy(LOGITS), "propagate_in_video"),
        (lambda: to_coco_video([ROW], (H, W), length=2), "frame 2 is beyond"),
        (lambda: to_coco_video([ROW], (W, H)), r"\(30, 40\), the video \(40, 30\)"),
        (lambda: to_coco_video([ROW], (H, W), file_names=["a"]), "1 file names for 3 frames"),
        (lambda: draw_masks(GREY[..., 0], MASKS), "RGB uint8"),
        (lambda: draw_masks(GREY / 255, MASKS), "RGB uint8"),
        (lambda: draw_masks(GREY, MASKS[:, :-1]), "of the image's size"),
        (lambda: draw_masks(GREY, MASKS, ids=[1]), "for 1 ids"),
        (lambda: draw_masks(GREY, MASKS, colours=[(1, 2, 3)]), "1 colours for 3 masks"),
    ],
)
def test_refusals(call, word):
    with pytest.raises((ValueError, TypeError), match=word):
        call()

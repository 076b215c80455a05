"""Boxes of a detector on streams: matching, new objects, removal, and what is refused."""

import copy
import itertools
import sys

import numpy as np
import pytest
import torch
from commands import fail_at
from hypothesis import given
from hypothesis import strategies as st
from hypothesis_profiles import examples
from small_video import SIZE, video_frames

from sam2fast import nano
from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.tracking import detections
from sam2fast.tracking.detections import box_ious, match_boxes
from sam2fast.tracking.saved_state import StateError

FRAMES = video_frames(14)
FAR = [4, 100, 24, 120]  # where nothing is tracked


def disc_at(frame: int) -> list[int]:
    return [11 + 3 * frame, 21 + frame, 50 + 3 * frame, 60 + frame]


def square_at(frame: int) -> list[int]:
    return [90 - 2 * frame, 80, 115 - 2 * frame, 105]


@pytest.fixture(scope="module")
def predictor():
    overrides = [f"++model.image_size={SIZE}", "++model.max_obj_ptrs_in_encoder=4"]
    return build_sam2_video_predictor(nano.CONFIG, nano.WEIGHTS, device="cpu", hydra_overrides_extra=overrides)


@pytest.fixture
def stream(predictor):
    with predictor.open_stream() as stream:
        stream.step(FRAMES[0])
        yield stream


corners = st.tuples(*[st.integers(0, 8)] * 2, *[st.integers(-1, 6)] * 2)
box_lists = st.lists(corners, max_size=4).map(lambda xs: np.array([(x, y, x + w, y + h) for x, y, w, h in xs], float))


def iou(one, other) -> float:
    """Of boxes with integer corners, by counting pixels."""
    pixels = [
        set(itertools.product(range(int(x0), int(x1)), range(int(y0), int(y1)))) for x0, y0, x1, y1 in (one, other)
    ]
    return len(pixels[0] & pixels[1]) / max(len(pixels[0] | pixels[1]), 1)


@examples(100)
@given(box_lists, box_lists, st.sampled_from([0.01, 0.3, 0.6]), st.integers(0, 2**16))
def test_matches_have_the_largest_sum(boxes, others, min_iou, seed):
    boxes, others = boxes.reshape(-1, 4), others.reshape(-1, 4)
    may_match = np.random.default_rng(seed).random((len(boxes), len(others))) < 0.8
    expected = np.array([[iou(a, b) for b in others] for a in boxes]).reshape(may_match.shape)
    assert np.allclose(box_ious(boxes, others), expected)
    matched = match_boxes(boxes, others, may_match, min_iou)
    assert len(set(matched.values())) == len(matched)
    assert all(may_match[pair] and expected[pair] >= min_iou for pair in matched.items())

    def best(row: int, free: frozenset[int]) -> float:
        """The largest sum of rows from this one on, tried out."""
        if row == len(boxes):
            return 0.0
        pairs = [j for j in free if may_match[row, j] and expected[row, j] >= min_iou]
        return max([best(row + 1, free), *(expected[row, j] + best(row + 1, free - {j}) for j in pairs)])

    assert sum(expected[pair] for pair in matched.items()) == pytest.approx(best(0, frozenset(range(len(others)))))


def test_matching_is_of_all_boxes_together():
    """The first box would take the second object, which the second box needs more."""
    boxes, others = np.array([[0, 0, 10, 10], [2, 0, 12, 10.0]]), np.array([[4, 0, 14, 10], [1, 0, 11, 10.0]])
    everything = np.ones((2, 2), bool)
    assert match_boxes(boxes, others, everything, 0.1) == {0: 1, 1: 0}
    assert match_boxes(boxes[::-1], others, everything, 0.1) == {0: 0, 1: 1}
    assert match_boxes(boxes, others, everything, 0.67) == {0: 1}
    assert match_boxes(boxes, others, ~np.eye(2, dtype=bool)[::-1], 0.1) == {0: 0, 1: 1}
    assert match_boxes(boxes[:0], others, everything[:0], 0.1) == match_boxes(boxes, others[:0], everything[:, :0], 0.1)


def test_equals_prompts_by_hand(predictor):
    """The same bits, when objects are found on different frames and boxes come on every third frame."""
    with predictor.open_stream() as ours, predictor.open_stream() as by_hand:
        for t, frame in enumerate(FRAMES):
            found, expected = ours.step(frame), by_hand.step(frame)
            if t % 3 == 0:
                boxes = [disc_at(t)] if t < 6 else [square_at(t), disc_at(t)]
                ids, found = ours.add_detections(boxes)
                assert ids == ([1] if t < 6 else [2, 1])
            if t == 0:
                expected = by_hand.add_new_points_or_box(1, box=disc_at(t))
            elif t == 6:
                expected = by_hand.add_new_points_or_box(2, box=square_at(t))
            assert found.obj_ids == expected.obj_ids and found.frame == expected.frame == t
            assert all(map(torch.equal, [found.masks, *found.scores], [expected.masks, *expected.scores])), t


def test_several_new_objects_at_once(stream, predictor):
    found = stream.add_detections(np.array([square_at(0), disc_at(0)]))
    with predictor.open_stream() as by_hand:
        by_hand.step(FRAMES[0])
        by_hand.add_new_points_or_box(1, box=square_at(0))
        expected = by_hand.add_new_points_or_box(2, box=disc_at(0))
        assert found.ids == expected.obj_ids == found.result.obj_ids == [1, 2]
        assert torch.equal(found.result.masks, expected.masks)
        assert torch.equal(stream.step(FRAMES[1]).masks, by_hand.step(FRAMES[1]).masks)


def test_removed_when_unseen(stream):
    """For three frames, whether there were calls or not; the ids of removed objects are not given again."""
    stream.add_detections([square_at(0), disc_at(0)], max_unseen=3)
    shown = []
    for t in range(1, 6):
        stream.step(FRAMES[t])
        if t == 2:
            continue
        found = stream.add_detections([disc_at(t)], max_unseen=3)
        assert (
            found.ids == [2]
            and found.result.obj_ids == stream.obj_ids
            and len(found.result.masks) == len(stream.obj_ids)
        )
        shown.append(stream.obj_ids)
    assert shown == [[1, 2], [2], [2], [2]]
    assert stream.add_detections([square_at(5), disc_at(5)]).ids == [3, 2]
    for t in range(6, 9):
        stream.step(FRAMES[t])
    found = stream.add_detections([], max_unseen=3)
    assert found.ids == found.result.obj_ids == stream.obj_ids == [] and found.result.masks.shape == (0, 1, SIZE, SIZE)
    assert stream.add_detections([disc_at(8)]).ids == [4] and stream.labels == {4: None}


def test_objects_of_the_user_are_matched_and_stay(stream):
    stream.add_new_points_or_box("disc", box=disc_at(0))
    stream.add_new_points_or_box(7, box=square_at(0))
    assert stream.add_detections([square_at(0), FAR, disc_at(0)], labels=["a", "b", "c"]).ids == [7, 8, "disc"]
    assert stream.labels == {8: "b"}
    stream.step(FRAMES[1])
    assert stream.add_detections([], max_unseen=1).result.obj_ids == ["disc", 7]
    assert stream.add_detections([FAR]).ids == [9]
    stream.remove_object(9)
    stream.add_new_points_or_box(9, box=FAR)  # now the user's
    stream.step(FRAMES[2])
    assert stream.add_detections([], max_unseen=1).result.obj_ids == ["disc", 7, 9] and not stream.labels


def test_labels_and_scores(stream):
    labels = np.array(["round", "square"])
    assert stream.add_detections([disc_at(0), square_at(0)], labels, [0.9, 0.2]).ids == [1, None]
    assert stream.add_detections([disc_at(0), square_at(0)], labels, [0.1, 0.2], start_score=0.2).ids == [1, 2]
    assert stream.labels == {1: "round", 2: "square"} and all(type(x) is str for x in stream.labels.values())
    stream.step(FRAMES[1])
    assert stream.add_detections([disc_at(1)], ["square"]).ids == [3]  # of another class
    assert stream.add_detections([disc_at(1)]).ids[0] in (1, 3)
    assert stream.add_detections([FAR], torch.tensor([2.0])).ids == [4] and stream.labels[4] == 2


def test_boxes_at_the_edge(stream):
    """What is outside is cut off; without area inside, a box starts nothing."""
    ids, result = stream.add_detections([[-20, -20, -5, 30], [5, 5, 5, 60], [100, 100, 900, 900]])
    assert ids == [None, None, 1]
    expected = stream.add_new_points_or_box("same", box=[100, 100, SIZE, SIZE]).masks
    assert torch.equal(result.masks[0], expected[1])


def test_the_iou_decides(stream):
    stream.add_detections([disc_at(0)])
    shifted = np.array([disc_at(0)]) + [16, 0, 16, 0]  # about 0.4
    assert stream.add_detections(shifted).ids == [1]
    assert stream.add_detections(shifted, min_iou=0.6).ids == [2]


def test_boxes_of_masks_include_the_last_pixel(stream, monkeypatch):
    mask = torch.full((1, 1, SIZE, SIZE), -10.0)
    mask[..., 20:24, 10:13] = 10
    stream.add_new_points_or_box("small", box=[10, 20, 13, 24])
    monkeypatch.setattr(detections, "masks_of", lambda *given: mask)
    assert stream.add_detections([[10, 20, 13, 24]], min_iou=1.0).ids == ["small"]


def test_saved_and_restored(stream, predictor, tmp_path):
    stream.add_detections([square_at(0), disc_at(0)], ["square", 3])
    stream.step(FRAMES[1])
    stream.add_detections([disc_at(1)], [3])
    stream.save(tmp_path / "stream")
    with predictor.restore_stream(tmp_path / "stream") as again:
        assert again.labels == {1: "square", 2: 3}
        for one in (stream, again):
            for t in (2, 3):
                one.step(FRAMES[t])
            found = one.add_detections([disc_at(3), FAR], [3, 3], max_unseen=3)
            assert found.ids == [2, 3] and found.result.obj_ids == [2, 3]
        assert torch.equal(stream.step(FRAMES[4]).masks, again.step(FRAMES[4]).masks)


@pytest.mark.parametrize("facts", [
    None, [], {"next_id": 2}, {"next_id": "2", "seen": []}, {"next_id": 2, "seen": [[5, 0, None]]},
    {"next_id": 2, "seen": [[1, 0.5, None]]}, {"next_id": 2, "seen": [[1, 0, 0.5]]}, {"next_id": 2, "seen": [[1, 0]]},
    {"next_id": 2, "seen": [[[], 0, None]]},
])  # fmt: skip
def test_damaged_states(facts):
    with pytest.raises(StateError, match="its detections are"):
        detections.DetectedObjects.of_facts(facts, [1])


WRONG = {
    "shape": (dict(boxes=[[1, 2, 3]]), ValueError, "has shape"),
    "more dimensions": (dict(boxes=[[[1, 2, 3, 4]]]), ValueError, r"expected \(N, 4\)"),
    "corners": (dict(boxes=[[1, 2, 0, 4]]), ValueError, "the wrong way round"),
    "NaN": (dict(boxes=[[1, 2, float("nan"), 4]]), ValueError, "NaN"),
    "too few labels": (dict(boxes=[FAR, FAR], labels=["a"]), ValueError, "1 labels for 2 boxes"),
    "too many scores": (dict(boxes=[FAR], scores=[1, 1]), ValueError, "2 scores for 1 boxes"),
    "a text of labels": (dict(boxes=[FAR], labels="a"), ValueError, "labels is 'a'"),
    "a number of labels": (dict(boxes=[FAR], labels=1), ValueError, "labels is 1"),
    "a label": (dict(boxes=[FAR], labels=[0.5]), ValueError, r"labels\[0\] is 0.5"),
    "score": (dict(boxes=[FAR], scores=["high"]), ValueError, "scores"),
    "no IoU": (dict(boxes=[FAR], min_iou=0), ValueError, "min_iou is 0"),
    "IoU in percent": (dict(boxes=[FAR], min_iou=50), ValueError, "min_iou is 50"),
    "no frames": (dict(boxes=[FAR], max_unseen=0), ValueError, "max_unseen is 0"),
    "half a frame": (dict(boxes=[FAR], max_unseen=0.5), TypeError, "max_unseen"),
    "no score": (dict(boxes=[FAR], start_score=None), ValueError, "start_score is None"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_refused(stream, wrong):
    arguments, error, message = WRONG[wrong]
    with pytest.raises(error, match=message):
        stream.add_detections(**arguments)
    assert stream.obj_ids == [] and not stream.labels


def test_before_a_frame_and_after_the_end(predictor):
    stream = predictor.open_stream()
    with pytest.raises(RuntimeError, match="no frame yet"):
        stream.add_detections([FAR])
    stream.close()
    with pytest.raises(RuntimeError, match="was closed"):
        stream.add_detections([FAR])


def test_without_scipy(stream, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match=r"pip install 'sam2fast\[detections\]'"):
        stream.add_detections([FAR])
    assert stream.obj_ids == []


def test_a_failure_changes_nothing(stream, predictor, monkeypatch):
    """The second of two new objects fails, in a call that would also remove one."""
    stream.add_detections([square_at(0)])
    stream.step(FRAMES[1])
    before = copy.copy(stream._detected)
    fail_at(monkeypatch, detections, "add_points_or_box", 2, torch.OutOfMemoryError("full"))
    with pytest.raises(torch.OutOfMemoryError):
        stream.add_detections([disc_at(1), FAR], max_unseen=1)
    assert stream.obj_ids == [1] and stream._detected == before
    monkeypatch.undo()
    assert stream.add_detections([disc_at(1), FAR], max_unseen=1).ids == [2, 3] and stream.obj_ids == [2, 3]

"""``examples/crowd_detections.py``: what its detector finds, and what TrackEval gets, which is not needed here."""

import json

import crowd_detections
import numpy as np
import pytest
from crowd_detections import boxes_of, detections, for_trackeval, linked
from strategy_clips import strategy_clip

from sam2fast import nano
from sam2fast.build_sam import build_sam2_video_predictor

SIZE = 96


@pytest.mark.slow
def test_detector():
    """The boxes of the visible parts, about nine in ten; the same again."""
    clip = strategy_clip("crowd", 3, SIZE)
    found, again = detections(clip, 3), detections(clip, 3)
    assert all(map(np.array_equal, found, again)) and not np.array_equal(found[0], detections(clip, 4)[0])
    truth = [boxes_of(masks, clip.object_ids, crowd_detections.SMALLEST) for masks in clip.masks]
    near = 0
    for boxes, true in zip(found, truth, strict=True):
        for box in boxes:
            near += min(np.abs(box - other).max() for other in true.values()) < 5
    assert near == sum(map(len, found)) and 0.8 < near / sum(map(len, truth)) < 0.97


def test_boxes_of_masks():
    masks = np.zeros((2, 9, 9), bool)
    masks[0, 2:5, 1:8] = masks[1, 0, 0] = True
    assert {i: box.tolist() for i, box in boxes_of(masks, ["a", "b"], 2).items()} == {"a": [1, 2, 8, 5]}


def test_linked():
    """A box that moves a little keeps its id, one that jumps gets another; between calls it stays for a while."""
    found = [
        np.array([[0, 0, 10, 10.0]]),
        np.array([[2, 0, 12, 10.0]]),
        np.array([[50, 0, 60, 10.0]]),
        np.zeros((0, 4)),
    ]
    assert [list(boxes) for boxes in linked(found, 1)] == [[1], [1], [2], []]
    assert [list(boxes) for boxes in linked(found, 2)] == [[1], [1], [2], [2]]


def test_data_of_trackeval():
    truth = [{1: np.array([0, 0, 4, 4.0]), 7: np.array([9, 9, 11, 11.0])}, {7: np.array([9, 9, 11, 11.0])}]
    data = for_trackeval(truth, [{"a": np.array([2, 0, 6, 4.0])}, {}])
    assert data["num_timesteps"] == 2 and (data["num_gt_ids"], data["num_tracker_ids"]) == (2, 1)
    assert (data["num_gt_dets"], data["num_tracker_dets"]) == (3, 1)
    assert [ids.tolist() for ids in data["gt_ids"]] == [[0, 1], [1]]
    assert [ids.tolist() for ids in data["tracker_ids"]] == [[0], []]
    assert [ious.shape for ious in data["similarity_scores"]] == [(2, 1), (1, 0)]
    assert data["similarity_scores"][0].ravel() == pytest.approx([1 / 3, 0])


@pytest.mark.slow
def test_example_runs(monkeypatch, tmp_path, capsys):
    """Its tables, with something else for TrackEval's measures."""
    seen = []

    def measured(clips):
        seen.append(clips)
        return dict.fromkeys(crowd_detections.MEASURES, 50.0)

    overrides = ["++model.image_size=128"]
    predictor = build_sam2_video_predictor(nano.CONFIG, nano.WEIGHTS, device="cpu", hydra_overrides_extra=overrides)
    monkeypatch.setattr(crowd_detections.SAM2VideoPredictor, "from_pretrained", lambda name, device: predictor)
    monkeypatch.setattr(crowd_detections, "measured", measured)
    crowd_detections.main(["--clips", "1", "--size", "96", "--every", "20", "--out", f"{tmp_path}/rows.json"])
    content = json.loads((tmp_path / "rows.json").read_text())
    assert content["model"] == "nano" and "objects a clip" in capsys.readouterr().out
    assert [(row["every"], row["tracked by"]) for row in content["rows"]] == [(20, "boxes alone"), (20, "sam2")]
    by_boxes, by_masks = (clips["crowd/0"] for clips in seen)
    assert by_boxes["num_gt_dets"] == by_masks["num_gt_dets"] > 0
    # Objects keep their ids between calls, where boxes alone stay behind.
    best = [np.mean([ious.max(1).mean() for ious in data["similarity_scores"][1:8]]) for data in (by_boxes, by_masks)]
    assert best[1] > best[0] and by_masks["num_tracker_ids"] >= 3

"""The rules and measures of ``examples/crowd_failures.py``."""

import json

import crowd_failures
import numpy as np
import pytest
import torch
from crowd_detections import for_trackeval
from crowd_failures import CleanMemories, OtherCandidate, Told, ending, exchanged, mask_ious

from sam2fast import nano
from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.tracking.strategies import History, MaskCandidates, Together
from sam2fast.tracking.strategies.together import Trajectory

SIDE = 16


def columns(*parts):
    """A mask ``(SIDE, SIDE)`` of quarters of the columns."""
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    for part in parts:
        mask[:, 4 * part : 4 * part + 4] = True
    return mask


def candidates_of(rows):
    """Three candidates of each object, the first one the best."""
    masks = torch.stack([torch.stack([columns(*parts) for parts in row]) for row in rows]).float() * 20 - 10
    count = len(rows)
    sharing = ~torch.eye(count, dtype=torch.bool)
    ious = torch.tensor([[0.9, 0.5, 0.1]]).repeat(count, 1)
    valid = torch.ones(count, 1, dtype=torch.bool)
    return MaskCandidates(masks, ious, torch.ones(count, 1), False, False, 64, (0, 0), valid, sharing)


def state_at(*quarters):
    """States of objects that stand still in the middle of these columns."""
    rows = [[9, (q + 0.5) / 4, 0.5, 0, 0, 0.1, 0, 0] for q in quarters]
    return torch.tensor(rows, dtype=torch.float64)


def test_an_object_without_a_mask_takes_another_candidate():
    rows = [[(0,), (1,), (2,)], [(), (0,), (3,)]]
    plain, other = (rule.choose(candidates_of(rows), state_at(0, 3)) for rule in (Together(), OtherCandidate()))
    assert plain.candidate.ravel().tolist() == [0, 0] and not (plain.masks[1] > 0).any()
    assert other.candidate.ravel().tolist() == [0, 2] and torch.equal(other.masks[1, 0] > 0, columns(3))
    unknown = state_at(0, 3)
    unknown[1, 0] = 0
    assert OtherCandidate().choose(candidates_of(rows), unknown).candidate.ravel().tolist() == [0, 0]
    taken = OtherCandidate().choose(candidates_of(rows), state_at(0, 0))
    assert taken.candidate.ravel().tolist() == [0, 0]  # the other object has its place


def test_memories_are_clean_without_another_claim():
    decided = CleanMemories().choose(candidates_of([[(0, 1)] * 3, [(1,)] * 3, [(3,)] * 3]), state_at(0, 1, 3))
    assert decided.record.tolist() == [[1], [1], [0]]


def test_clean_memories_are_attended(monkeypatch):
    class Result:
        def __init__(self, record):
            self.record = torch.tensor([[record]])

    class Rules:
        recent, num_maskmem, reach = 2, 7, 15

    monkeypatch.setattr(Together, "attend", lambda self, history: crowd_failures.Attended([], [(0, 9)]))
    tracked = {t: Result(float(t in (3, 5))) for t in range(1, 6)}
    attended = CleanMemories().attend(History(6, False, 9, {0: Result(0.0)}, tracked, Rules(), {}))
    assert attended.memories == [(0, 6), (4, 0), (2, 1)] and attended.pointers == [(0, 9)]


def test_told_rules():
    truth = torch.stack([columns(1), columns(3)]).expand(3, 2, SIDE, SIDE).clone()
    truth[1:, 1] = False  # hidden
    candidates = candidates_of([[(0,), (1,), (2,)], [(0,), (2,), (3,)]])
    state = torch.zeros(2, 9, dtype=torch.float64)
    best = Told(truth, "best candidate").choose(candidates, state)
    assert best.candidate.ravel().tolist() == [1, 0] and (best.state[:, 8] == 1).all() and not best.record.any()
    known = Trajectory.of(Told(truth, "true positions")._positions(1))
    assert known.position.tolist() == [[0.375, 0.5], [0.875, 0.5]] and known.area.tolist() == [[0.25], [0.25]]
    again = Told(truth, "right memories").choose(candidates, best.state)
    assert again.record.tolist() == [[1], [1]] and (again.state[:, 8] == 2).all()


@pytest.mark.parametrize(("quarters", "expected"), [
    ([(0,), (1,)], "right"), ([(1,), (0,)], "swapped"), ([(1,), (1,)], "on another"), ([(0, 1), ()], "merged"),
    ([(), (1,)], "lost"), ([(2, 3), (1,)], "background"), ([(0, 2, 3), (1,)], "partly"),
])  # fmt: skip
def test_endings(quarters, expected):
    truth = np.stack([columns(0).numpy(), columns(1).numpy()])
    found = np.stack([columns(*parts).numpy() for parts in quarters])
    wrong = np.zeros_like(truth)
    assert ending(np.stack([wrong, *[found] * 4, wrong]), np.stack([truth, *[truth] * 4, wrong]), 0) == expected


def test_masks_are_exchanged_by_pointers():
    found = np.stack([np.stack([columns(0).numpy(), columns(1).numpy()])] * 12)
    pointers = np.tile(np.array([[1.0, 0], [0, 1]]) + 5, (12, 1, 1))
    assert np.array_equal(exchanged(found, pointers), found)
    pointers[7:] = pointers[7:, ::-1]
    result = exchanged(found, pointers)
    assert np.array_equal(result[:8], found[:8]) and np.array_equal(result[11], found[11, ::-1])


def test_ious_of_masks():
    one, other = columns(0, 1).numpy().ravel(), columns(1).numpy().ravel()
    data = for_trackeval([{0: one}, {}], [{0: one, 1: other}, {1: other}], mask_ious, one.size)
    assert data["similarity_scores"][0].tolist() == [[1, 0.5]] and data["similarity_scores"][1].shape == (0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("told", [False, True])
def test_example_runs(monkeypatch, tmp_path, told):
    overrides = ["++model.image_size=128"]
    predictor = build_sam2_video_predictor(nano.CONFIG, nano.WEIGHTS, device="cpu", hydra_overrides_extra=overrides)
    monkeypatch.setattr(crowd_failures, "packaged", lambda name, device: predictor)
    monkeypatch.setattr(crowd_failures, "by_trackeval", lambda data: {"HOTA": 50.0, "IDF1": 50.0})
    options = ["--kinds", "crossing", "--clips", "1", "--size", "96", "--out", f"{tmp_path}/rows.json"]
    crowd_failures.main([*options, *(["--told"] if told else [])])
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    names = ["together", "pointers", "sam2", "other candidate", "clean memories"]
    told_names = ["together", "best candidate", "true positions", "right memories"]
    assert [row["strategy"] for row in rows] == (told_names if told else names)
    assert all(sum(row[name] for name in crowd_failures.ENDINGS) == 2 and 0 < row["J&F"] <= 100 for row in rows)

"""Custom mask selection."""

import pytest
import torch
from parity import random_map
from recorded_ops import ReadBackError, RecordedOps
from small_video import track
from torch import nn

from sam2fast.tracking.cuda_graphs import RecordingError
from sam2fast.utils.testing import relative_error


def best(masks, ious, scores):
    return ious.argmax(dim=1, keepdim=True)


def worst(masks, ious, scores):
    return ious.argmin(dim=1, keepdim=True)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_default_given_by_hand(predictor, frames, expected):
    predictor.mask_selection = best
    assert same(expected[:4], track(predictor, frames, max_frame_num_to_track=3))


@torch.no_grad()
def test_mask_score_and_pointer_follow_the_choice(predictor):
    """Of three masks of two objects the first and the last are taken."""
    features = random_map(2, 128, 8, 8)
    high_res = [random_map(2, 16, 32, 32, seed=1), random_map(2, 32, 16, 16, seed=2)]
    masks, ious, tokens, scores = predictor._decode(features, None, None, high_res, True)
    given = []

    def rule(*arguments):
        given.extend(arguments)
        return torch.tensor([[0], [2]])

    predictor.mask_selection = rule
    found = predictor.predict_objects(features, high_res, multimask_output=True)
    assert all(torch.equal(a, b) for a, b in zip(given, (masks, ious, scores), strict=True))
    assert torch.equal(found.mask, torch.stack([masks[0, :1], masks[1, 2:]]))
    assert torch.equal(found.iou, torch.stack([ious[0, :1], ious[1, 2:]]))
    predictor.mask_selection = lambda masks, ious, scores: torch.zeros(2, 1, dtype=torch.int64)
    other = predictor.predict_objects(features, high_res, multimask_output=True)
    assert torch.equal(other.pointer[0], found.pointer[0]) and not torch.equal(other.pointer[1], found.pointer[1])
    # The original's seven results come from the same choice.
    assert torch.equal(predictor._forward_sam_heads(features, None, None, high_res, True)[3], other.mask)


def test_prompts_and_tracked_frames_use_it_and_single_masks_do_not(predictor, frames):
    calls = []

    def rule(masks, ious, scores):
        calls.append(tuple(masks.shape))
        return best(masks, ious, scores)

    predictor.mask_selection = rule
    track(predictor, frames[:3])
    assert calls == [(1, 3, 32, 32)] * 2 + [(2, 3, 32, 32)] * 2
    state = predictor.init_state(frames[:1])
    predictor.add_new_points_or_box(state, 0, 1, box=[10, 20, 50, 60])  # more than one click: a single mask
    assert len(calls) == 4


def test_a_rule_that_learns(predictor, frames):
    """A module becomes a part of the model, and goes away again."""

    class Scorer(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(-1.0))

        def forward(self, masks, ious, scores):
            return (self.weight * ious).argmax(dim=1, keepdim=True)

    expected = track(predictor, frames[:3])
    predictor.mask_selection = Scorer()
    assert "mask_selection.weight" in predictor.state_dict()
    found = track(predictor, frames[:3])
    predictor.mask_selection = None
    assert not same(expected, found) and same(expected, track(predictor, frames[:3]))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (0, "int; expected an int64 tensor"),
        (torch.zeros(1, dtype=torch.int64), r"torch.int64 \(1,\) on cpu; expected int64 \(1, 1\) on cpu"),
        (torch.zeros(1, 1), "torch.float32"),
        (torch.full((1, 1), 3), "from 3 to 3; expected 0 to 2"),
        (torch.full((1, 1), -1), "from -1 to -1"),
    ],
    ids=["number", "shape", "dtype", "too large", "negative"],
)
def test_faults_are_named(predictor, frames, choice, message):
    predictor.mask_selection = lambda masks, ious, scores: choice
    state = predictor.init_state(frames[:2])
    with pytest.raises(ValueError, match=f"mask_selection returned .*{message}"):
        predictor.add_new_points_or_box(state, 0, 1, [[30, 40]], [1])
    assert not state.objects


def test_a_rule_is_recorded_and_a_change_of_it_noticed(predictor, frames, as_recorded):
    expected = {None: track(predictor, frames[:4])}
    predictor.mask_selection = worst
    expected[worst] = track(predictor, frames[:4])
    assert not same(expected[None], expected[worst])
    as_recorded()
    made = RecordedOps.made
    for rule in (worst, None, worst):
        predictor.mask_selection = rule
        for t, (a, b) in enumerate(zip(expected[rule], track(predictor, frames[:4]), strict=True)):
            assert relative_error(a, b) < 1e-5, f"frame {t}"
    assert RecordedOps.made > made


class Strict(RecordedOps):
    """Like CUDA graphs that cannot be captured."""

    def record(self, function):
        try:
            return super().record(function)
        except ReadBackError as error:
            raise RecordingError("not recorded") from error


def test_tracking_bypasses_graphs_for_a_rule_that_reads_values(predictor, frames, as_recorded, caplog):
    def looks(masks, ious, scores):
        return worst(masks, ious, scores) if float(scores.max()) > -100 else best(masks, ious, scores)

    predictor.mask_selection = looks
    expected = track(predictor, frames[:4])
    as_recorded(Strict)
    found = track(predictor, frames[:4])
    assert "cannot be recorded here; tracking goes on without: aten.item.default waits for the device" in caplog.text
    assert all(relative_error(a, b) < 1e-5 for a, b in zip(expected, found, strict=True))
    assert predictor._tracker.graphs.failed
    predictor.mask_selection = worst
    track(predictor, frames[:2])
    assert predictor._tracker.graphs is not None

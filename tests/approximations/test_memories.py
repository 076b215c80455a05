"""Fewer memories, and memories of a quarter of the tokens: what is kept and what is attended to."""

import gc
import random
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from video import Session

from sam2fast.modeling.memory_selection import MemoryRules, recent_frames, select_memories
from sam2fast.tracking import eager_runner
from sam2fast.tracking.approximations import Approximations
from sam2fast.utils.testing import relative_error


def long_life(s: Session) -> None:
    """Objects come, are corrected, taken back and removed."""
    s.points(0, "a", (60, 40, 1))
    s.points(2, "b", box=[20, 20, 70, 60])
    s.propagate(max_frame_num_to_track=5)
    s.points(4, "a", (65, 45, 0))
    s.points(8, "a", (30, 45, 1))
    s.propagate(start_frame_idx=4, max_frame_num_to_track=5)
    s.clear(8, "a")
    s.remove("b")
    s.propagate(start_frame_idx=9, max_frame_num_to_track=3, reverse=True)


class Attended:
    """Pages and tokens of every object that attended to something."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pages: list[int] = []
        self.tokens: list[int] = []
        right = eager_runner.attended_memory

        def counted(*arguments):
            memory = right(*arguments)
            filled = (memory.page_table >= 0).sum(dim=1)
            self.pages += filled.tolist()
            self.tokens += (filled * memory.pages.shape[1]).tolist()
            return memory

        monkeypatch.setattr(eager_runner, "attended_memory", counted)


def one_object(predictor, video, frames=12):
    s = Session(predictor, video)
    s.points(0, 1, (60, 40, 1))
    s.propagate(max_frame_num_to_track=frames)
    return s


@pytest.mark.parametrize("slots", [1, 2, 4, 7])
def test_the_nearest_frames_are_attended_to(slots):
    """Of the frames attended to without it, the conditioning ones and the slots - 1 nearest; pointers as ever."""
    rng = random.Random(slots)
    for _ in range(300):
        tracked = rng.sample(range(1, 30), rng.randint(0, 29))
        given = rng.randrange(31), [0], tracked, 31, rng.random() < 0.5
        rules = MemoryRules(7, rng.choice([1, 2]), -1, True, 16, True, True)
        exact = select_memories(*given, rules)
        fewer = select_memories(*given, replace(rules, memory_slots=slots))
        assert fewer.pointers == exact.pointers
        assert fewer.memories == [(t, row) for t, row in exact.memories if t == 0 or row < slots - 1]
    assert len(recent_frames(20, False, MemoryRules(7, 1, -1, True, 16, True, True, memory_slots=slots))) == slots - 1


@pytest.mark.parametrize(
    ("asked", "pages", "tokens"),
    [
        (None, [*range(1, 8)], [16 * n for n in range(1, 8)]),
        ("memory_slots=3", [1, 2, *[3] * 5], [16, 32, *[48] * 5]),
        # The prompt's memory as it is, a quarter of each of six frames: 2.5 maps of 16 tokens instead of 7.
        ("pooled_memory", [4 + n for n in range(7)], [16 + 4 * n for n in range(7)]),
    ],
)
def test_so_much_is_attended_to(asked, pages, tokens, rough, video, monkeypatch):
    attended = Attended(monkeypatch)
    rough.approximations = asked
    one_object(rough, video, 7)
    assert (attended.pages, attended.tokens) == (pages, tokens)


def test_all_slots_and_none_again_are_exact(exact, rough, video):
    rough.approximations = {"memory_slots": 7}
    all_slots = one_object(rough, video)
    rough.approximations = ["memory_slots=2", "pooled_memory", "still_frames=1"]
    first = one_object(rough, video)
    rough.approximations = None
    expected, again = one_object(exact, video), one_object(rough, video)
    for a, *others in zip(expected.records, all_slots.records, again.records, strict=True):
        assert all(torch.equal(a.masks, b.masks) for b in others)
    assert not torch.equal(first.records[-1].masks, again.records[-1].masks)


def test_what_is_stored(exact, rough, video):
    """Of tracked frames the means, a quarter; of prompts both."""
    rough.approximations = "pooled_memory"
    sessions = [one_object(p, video, 1) for p in (exact, rough)]
    (whole, pooled), banks = ([s.state.objects[1] for s in sessions], [s.state.bank for s in sessions])
    assert banks[0].memories.data.shape[1] == 4 * banks[1].memories.data.shape[1] == 16
    assert [len(x.memory) for x in (pooled.conditioning[0], pooled.tracked[1])] == [5, 1]
    expected = banks[0].read_memory(whole.conditioning[0].memory)
    assert torch.equal(banks[1].read_memory(pooled.conditioning[0].memory), expected)
    means = F.avg_pool2d(expected, 2)
    assert torch.equal(banks[1].read_memory(pooled.conditioning[0].memory[:1]), F.interpolate(means, scale_factor=2))
    outputs = sessions[1].state["output_dict_per_obj"][0]
    assert outputs["non_cond_frame_outputs"][1]["maskmem_features"].shape == expected.shape


def test_a_mean_has_the_mean_of_the_encodings(rough):
    """After those of the whole map, whose rows are the positions one after the other."""
    n, m = 4, rough.mem_dim
    table, none = torch.zeros(1, 1, dtype=torch.int32), torch.zeros(1, 0)
    arguments = table, table, torch.zeros(1, 0, rough.hidden_dim), none, none.bool()[..., None], 20
    whole = eager_runner.attended_memory(rough, torch.zeros(1, 4 * n, m), *arguments).position_encoding
    places = eager_runner.attended_memory(rough, torch.zeros(1, n, m), *arguments).position_encoding
    assert torch.equal(places[: 4 * n], whole)
    squares = [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert relative_error(torch.stack([whole[square].mean(dim=0) for square in squares]), places[4 * n :]) < 1e-6


def test_the_first_tracked_frame_is_exact(exact, rough, video):
    """It attends to the prompt alone, whose memory is whole: quarters, tables and positions are in order."""
    rough.approximations = "pooled_memory"
    for frames, equal in ((1, True), (2, False)):
        a, b = (one_object(p, video, frames).records[-1].masks for p in (exact, rough))
        assert (relative_error(a, b) < 1e-5) == equal


def test_a_conditioning_frame_beyond_the_limit_counts_by_its_means(rough, video, monkeypatch):
    attended = Attended(monkeypatch)
    rough.approximations = "pooled_memory"
    rough.max_cond_frames_in_attn = 2
    s = Session(rough, video)
    for frame in (0, 4, 6):
        s.points(frame, 1, (60, 40, 1))
    s.propagate(start_frame_idx=7, max_frame_num_to_track=0)
    # Frames 6 and 4 are the nearest two before it; 0 is too far to be an ordinary one.
    assert attended.tokens == [32]
    s.points(5, 1, (60, 40, 1))
    s.propagate(start_frame_idx=7, max_frame_num_to_track=0)
    assert attended.tokens[-1] == 32 + 4  # 6 and 5 whole, of 4 the means


ALL = Approximations(memory_slots=4, pooled_memory=True, still_frames=0.01)


@pytest.mark.parametrize("approximations", ["pooled_memory", ALL], ids=str)
def test_replayed_steps_give_the_same_masks(rough, replaying, video, approximations):
    rough.approximations = replaying.approximations = approximations
    sessions = [Session(p, video) for p in (rough, replaying)]
    for s in sessions:
        long_life(s)
    for a, b in zip(*(s.records for s in sessions), strict=True):
        assert relative_error(a.masks, b.masks) < 1e-5, a.step
    rules = replaying._tracker.rules(sessions[1].state)
    recorded = replaying._runners.graphs.workspace_of(sessions[1].state.bank, rules).recorded
    conditioning = {shape.pointers - 15 for shape, *_ in recorded}
    assert {shape.memories for shape, *_ in recorded} == {rules.recent + 4 * n for n in conditioning}


def test_sessions_keep_what_they_were_opened_with(exact, rough, replaying, video):
    """Also after another setting; a workspace with room for whole maps is not taken over by pooled memories."""
    rough.approximations = replaying.approximations = "pooled_memory"
    pooled = [Session(p, video) for p in (rough, replaying)]
    for s in pooled:
        s.points(0, 1, (60, 40, 1))
    rough.approximations = replaying.approximations = None
    whole = one_object(replaying, video, 4)
    assert not whole.state.bank.is_pooled
    records = whole.records
    del whole
    gc.collect()
    assert replaying._runners.graphs._idle
    for s in pooled:
        s.propagate(max_frame_num_to_track=4)
    for expected, actual in ((pooled[0].records, pooled[1].records), (one_object(exact, video, 4).records, records)):
        for a, b in zip(expected, actual, strict=True):
            assert relative_error(a.masks, b.masks) < 1e-5, a.step
    replaying.reset_state(pooled[1].state)
    assert pooled[1].state.bank.is_pooled

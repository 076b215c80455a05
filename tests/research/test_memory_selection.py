"""Custom memory selection: in videos and streams, with recorded steps, and what is refused."""

import pytest
import torch
from recorded_ops import RecordedOps
from small_video import track

from sam2fast.research import MemoryRules, Selection, reaching, select_memories
from sam2fast.utils.testing import relative_error

OWN_REACH = 6


def watched(predictor):
    """Records what each step attends to."""
    seen = {}

    def watch(state, objects, frame, reverse, chosen):
        seen[frame] = chosen

    predictor.selection_watch = watch
    return seen


def first_and_last(frame, conditioning, tracked, num_frames, reverse, rules):
    """The conditioning frames, and the oldest tracked frame there is."""
    oldest = min(tracked, default=None)
    memories = [(t, rules.num_maskmem - 1) for t in conditioning]
    if oldest is None:
        return Selection(memories, [])
    return Selection([*memories, (oldest, 0)], [(oldest, frame - oldest)])


def everything(frame, conditioning, tracked, num_frames, reverse, rules):
    """More memories and pointers than the model attends to by itself, the newest twice."""
    known = [t for t in (*conditioning, *tracked) if t < frame]
    memories = [(t, min(frame - t - 1, rules.num_maskmem - 1)) for t in (*known, *known)]
    return Selection(memories, [(t, frame - t) for t in (*known, *known)])


def test_the_models_own_rule_given_by_hand(predictor, frames, expected):
    predictor.memory_selection = select_memories
    assert all(torch.equal(a, b) for a, b in zip(expected, track(predictor, frames), strict=True))


def test_it_decides(predictor, frames, expected):
    seen = watched(predictor)
    predictor.memory_selection = reaching(9)(first_and_last)
    found = track(predictor, frames)
    assert seen[1] == [Selection([(0, 6)], [])] * 2
    assert all(seen[t] == [Selection([(0, 6), (1, 0)], [(1, t - 1)])] * 2 for t in range(2, 10))
    assert torch.equal(expected[0], found[0]) and not torch.equal(expected[5], found[5])
    predictor.memory_selection = None
    again = track(predictor, frames, max_frame_num_to_track=3)
    assert all(torch.equal(a, b) for a, b in zip(expected[:4], again, strict=True))


def test_corrections_use_it_and_it_sees_results(predictor, frames):
    state = predictor.init_state(frames)
    predictor.add_new_points_or_box(state, 0, 1, [[30, 40]], [1])
    list(predictor.propagate_in_video(state, max_frame_num_to_track=4, progress=False))
    seen = []

    def look(frame, conditioning, tracked, num_frames, reverse, rules):
        seen.append((frame, sorted(tracked), {t: float(tracked[t].iou) for t in tracked}))
        with pytest.raises(TypeError):
            tracked[99] = None
        return select_memories(frame, conditioning, tracked, num_frames, reverse, rules)

    predictor.memory_selection = look
    predictor.add_new_points_or_box(state, 3, 1, [[45, 45]], [1])
    ((frame, known, ious),) = seen
    assert (frame, known) == (3, [1, 2, 3, 4]) and all(0 < iou <= 1 for iou in ious.values())


def stream_of(predictor, frames):
    found = []
    with predictor.open_stream() as stream:
        stream.step(frames[0])
        stream.add_new_points_or_box("disc", [[30, 40]], [1])
        found.append(stream.add_new_points_or_box("square", [[100, 92]], [1]).masks)
        found += [stream.step(frame).masks for frame in frames[1:]]
        kept = {t for o in stream._opened().objects.values() for t in o.tracked}
    return found, kept


def test_streams_keep_as_much_as_is_declared(predictor, frames):
    predictor.memory_selection = reaching(9)(first_and_last)
    expected = track(predictor, frames)
    found, kept = stream_of(predictor, frames)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert kept == set(range(1, 10))

    predictor.memory_selection = reaching(2)(select_last)
    expected = track(predictor, frames)
    found, kept = stream_of(predictor, frames)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert kept == {7, 8, 9}


def select_last(frame, conditioning, tracked, num_frames, reverse, rules):
    near = [t for t in (frame - 1, frame - 2) if t in tracked]
    return Selection([(t, 6) for t in conditioning] + [(t, frame - t - 1) for t in near], [])


def test_history_has_to_be_as_long(predictor, frames):
    assert MemoryRules.of(predictor, predictor.memory_selection).reach == OWN_REACH
    short = predictor.init_state(frames, max_history=OWN_REACH)
    predictor.memory_selection = reaching(9)(first_and_last)
    with pytest.raises(ValueError, match="max_history is 6; this model looks back 9 frames"):
        predictor.init_state(frames, max_history=OWN_REACH)
    predictor.add_new_points_or_box(short, 0, 1, [[30, 40]], [1])
    with pytest.raises(ValueError, match="looks back 9 frames, but the session was opened with max_history=6"):
        list(predictor.propagate_in_video(short, progress=False))
    with pytest.raises(ValueError, match="reach -1 frames"):
        reaching(-1)
    first_and_last.reach = -1
    with pytest.raises(ValueError, match="reach of memory_selection is -1"):
        predictor.init_state(frames)


@pytest.fixture(autouse=True)
def undeclared():
    yield
    for function in (first_and_last, select_last, everything):
        vars(function).pop("reach", None)


@pytest.mark.parametrize("own", [first_and_last, everything])
def test_recorded_steps_attend_to_it(predictor, frames, as_recorded, own):
    predictor.memory_selection = reaching(9)(own)
    expected = track(predictor, frames)
    as_recorded()
    found = track(predictor, frames)
    assert predictor._runners.graphs is not None and not predictor._runners.graphs.failed
    for t, (a, b) in enumerate(zip(expected, found, strict=True)):
        assert relative_error(a, b) < 1e-5, f"frame {t}"


def test_a_change_between_passes_counts(predictor, frames, as_recorded):
    as_recorded()
    track(predictor, frames[:3])
    recorded, made = predictor._runners.graphs, RecordedOps.made
    track(predictor, frames[:3])
    assert predictor._runners.graphs is recorded and RecordedOps.made == made
    predictor.memory_selection = reaching(9)(first_and_last)
    track(predictor, frames[:3])
    assert predictor._runners.graphs is not recorded


FAULTS = {
    "not a selection": (lambda t: None, "frame 7, returned None; expected a Selection"),
    "not pairs": (lambda t: Selection([0], []), "returned .*; expected a Selection"),
    "a fraction": (lambda t: Selection([], [(0, 1.5)]), "returned .*; expected a Selection"),
    "no memory": (lambda t: Selection([(t, 0)], []), "frame 7, selected the memory of frame 7, which has none"),
    "no pointer": (lambda t: Selection([], [(t + 1, 1)]), "selected the pointer of frame 8, which has none"),
    "out of reach": (lambda t: Selection([(1, 0)], []), "frame 8, selected the memory of frame 1, 7 frames away"),
    "no such row": (lambda t: Selection([(0, 7)], []), "gave frame 0 row 7 of maskmem_tpos_enc; expected 0 to 6"),
    "a negative row": (lambda t: Selection([(0, -1)], []), "gave frame 0 row -1 of maskmem_tpos_enc"),
}


@pytest.mark.parametrize(("choose", "message"), FAULTS.values(), ids=FAULTS)
def test_faults_are_named_and_change_nothing(predictor, frames, choose, message):
    state = predictor.init_state(frames)
    predictor.add_new_points_or_box(state, 0, 1, [[30, 40]], [1])
    list(predictor.propagate_in_video(state, max_frame_num_to_track=6, progress=False))
    tracked = dict(state.objects[1].tracked)

    predictor.memory_selection = lambda frame, *rest: choose(frame)
    with pytest.raises(ValueError, match=f"memory_selection, on .*{message}"):
        list(predictor.propagate_in_video(state, 7, progress=False))
    assert {t: state.objects[1].tracked[t] for t in tracked} == tracked


def test_no_pointers_for_a_model_without(predictor, frames):
    predictor.use_obj_ptrs_in_encoder = False
    predictor.memory_selection = lambda f, c, t, *rest: Selection([(0, 6)], [(0, f)])
    with pytest.raises(ValueError, match="attends to none"):
        track(predictor, frames)

"""Tracking by recorded steps: the plain path's masks, from tensors that stay where they are."""

import copy
import gc
import pickle
from collections import Counter
from typing import Any

import pytest
import torch
from graph_sessions import TOLERANCE, assert_same, begun, counting, failures, has_recorded, recorded_steps
from recorded_ops import CalledAgain, NoRecorder, ReadBackError, RecordedOps, recorded_by
from video import Record, Session, clip, compare, jpeg_folder, run, run_official

from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.engine import graphs
from sam2fast.engine.graphs import RecordingError
from sam2fast.engine.replay import GraphCalls, graph_calls_of
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.sam2_video_predictor import SAM2VideoPredictorVOS
from sam2fast.tracking import step, step_runner
from sam2fast.tracking.memory_bank import BUCKETS
from sam2fast.tracking.outputs import TrackScores
from sam2fast.tracking.step_runner import OBJECTS_AT_ONCE
from sam2fast.utils.testing import relative_error


def long_life(s: Session) -> None:
    """Everything that may happen between two passes: objects come, are corrected and go."""
    s.points(0, "a", (60, 40, 1))
    s.points(2, "b", box=[20, 20, 70, 60])
    s.propagate(max_frame_num_to_track=8)
    s.points(5, "a", (65, 45, 0))
    s.points(4, "c", (30, 45, 1))
    s.propagate(start_frame_idx=3, max_frame_num_to_track=4)
    s.remove("b")
    s.propagate(start_frame_idx=7, reverse=True)
    s.points(9, "d", (90, 20, 1))
    s.points(9, "e", (20, 70, 1), (90, 80, 0))
    s.propagate(start_frame_idx=8)


def shapes(predictor: Any, s: Session) -> list[tuple[int, ...]]:
    """Of the steps recorded so far."""
    return [tuple(shape) for (_, shape, _), *_ in recorded_steps(predictor, s)._calls]


@pytest.fixture(scope="module")
def plain_life(plain, video) -> list[Record]:
    """What the plain predictor answers in a long life."""
    return run(plain, video, long_life)


def test_recorded_steps_give_the_plain_masks_and_the_official_ones(pair, plain_life, fast, video):
    """By steps that are recorded once for each bucket."""
    s = Session(fast, video)
    long_life(s)
    assert_same(plain_life, s.records)
    compare(run_official(pair[0], video, long_life, check_itself=False), s.records)
    assert shapes(fast, s) == [(1, 7, 16, 0), (2, 7, 16, 0), (4, 7, 16, 0)]


def test_anothers_default_device(fast, plain, video):
    """What is made on the CPU says so: there nothing can be computed on the default device."""

    def live(s: Session) -> None:
        s.points(0, 1, box=[20, 20, 70, 60])
        s.points(0, 2, (60, 40, 1))
        s.propagate(max_frame_num_to_track=1)

    def stream(predictor):
        with predictor.open_stream() as opened:
            opened.step(clip(1)[0])
            opened.add_new_points_or_box(1, box=[20, 20, 70, 60])
            scores = opened.add_new_points_or_box(2, [[60, 40]], [1]).scores
            return TrackScores.joined([scores, scores], [0, 3])

    expected, scores = run(plain, video, live), stream(plain)
    with torch.device("meta"):
        actual, others = run(fast, video, live), stream(fast)
    assert_same(expected, actual)
    for a, b in zip(scores, others, strict=True):
        assert relative_error(a, b) < TOLERANCE


def test_replayed_operations_give_the_plain_masks(plain_life, replaying, video):
    """Nothing that Python decides changes from frame to frame, and nothing reads what only the recording wrote."""
    actual = run(replaying, video, long_life)
    assert RecordedOps.made > 0
    assert_same(plain_life, actual)


@torch.inference_mode()
def test_replayed_encodings_are_of_the_present_frame(replaying, plain, video):
    states = [(p, p.init_state(str(video))) for p in (plain, replaying)]
    for frames in ([3], [4], [5, 6], [7, 8, 9]):
        for a, b in zip(*(p._tracker.encode(s, frames) for p, s in states), strict=True):
            for x, y in zip([a.embedding, *a.high_res], [b.embedding, *b.high_res], strict=True):
                assert relative_error(x, y) < TOLERANCE


def test_all_buckets_keep_addresses_and_shapes(fast, video):
    """One object to sixty-four and back, with corrections in between: nothing moves, nothing is recorded twice."""
    fast.warmup(64, (90, 120))
    seen: dict[int, list[Any]] = {}
    s = Session(fast, video)
    s.points(0, 0, (60, 40, 1))
    fast.propagate_in_video_preflight(s.state)
    first = s.state.objects[0]
    recorded = recorded_steps(fast, s).made
    counts = [*BUCKETS, 3, 33, *reversed(BUCKETS)]
    for frame, count in enumerate(counts, start=1):
        for i in range(1, count):
            if i not in s.state.objects:
                s.state.add(i, first.copy())
        for i in [i for i in s.state.objects if i >= count]:
            fast.remove_object(s.state, i, need_output=False)
        if frame == 5:
            s.points(3, 0, (62, 41, 1))  # between replays
        s.propagate(start_frame_idx=frame, max_frame_num_to_track=0)
        assert s.records[-1].masks.shape == (count, 1, 90, 120)
        bank, capacity = s.state.bank, next(b for b in BUCKETS if b >= count)
        of_steps = recorded_steps(fast, s)
        ((_, _, *kinds),) = (key for key in of_steps._calls if key[0][1].objects == capacity)
        tensors = [bank.memories.data, bank.pointers.data, *(of_steps._inputs[kind] for kind in kinds)]
        facts = [(x.data_ptr(), x.shape, x.stride(), x.dtype) for x in tensors]
        assert seen.setdefault(capacity, facts) == facts
    assert recorded_steps(fast, s).made == recorded
    assert len({facts[0] for facts in seen.values()}) == 1, "all share the pool"


def test_the_next_session_takes_over(fast, video):
    for _ in range(2):
        s = Session(fast, video)
        for i in range(3):
            s.points(i, i, (20 + 30 * i, 40, 1))
            s.propagate(start_frame_idx=i, max_frame_num_to_track=1)
        made = recorded_steps(fast, s).made
        del s
        gc.collect()
    assert made == 3
    assert len(fast._tracker.steps._idle) == 1


def test_pools_with_many_recordings_are_not_taken_over(fast, video, monkeypatch):
    """Otherwise sessions of ever other sizes would record without an end."""
    monkeypatch.setattr(step_runner, "MOST_RECORDED", 0)
    for _ in range(2):
        s = begun(fast, video, 1)
        made = recorded_steps(fast, s)
        assert made.made == 1
        del s
        gc.collect()
    assert list(fast._tracker.steps._idle)[1] is made


def test_released_sessions_hand_nothing_back(fast, video):
    s = begun(fast, video, 1)
    for _ in range(3):
        fast.release_recordings()
        s.propagate(start_frame_idx=0, max_frame_num_to_track=1)
    members = len(fast._tracker.steps._graph_calls_of(fast).pool._members)
    del s
    gc.collect()
    assert len(fast._tracker.steps._idle) == 1 and members == 2


def test_sessions_at_the_same_time_are_kept_apart(plain, fast, video):
    """Also when there is a workspace to be taken over, which only one of them can."""

    def two(predictor):
        run(predictor, video, lambda s: (s.points(0, 1, (90, 60, 1)), s.propagate(max_frame_num_to_track=1)))
        gc.collect()
        sessions = [Session(predictor, video) for _ in range(2)]
        sessions[0].points(0, 1, (60, 40, 1))
        sessions[1].points(0, 1, (30, 60, 1))
        passes = [predictor.propagate_in_video(s.state, None, 3, progress=False) for s in sessions]
        return [answer[2] for pair in zip(*passes, strict=True) for answer in pair]

    for a, b in zip(two(plain), two(fast), strict=True):
        assert relative_error(a, b) < TOLERANCE


def test_what_is_yielded_is_the_callers(fast, video):
    """The next step must not write into masks that were handed out."""
    for output in ("low_res", "logits"):
        s = begun(fast, video)
        answers, copies = [], []
        for _, _, masks, scores in fast.propagate_in_video(s.state, return_scores=True, output=output, progress=False):
            answers.append([masks, *scores])
            copies.append([x.clone() for x in answers[-1]])
            assert scores.iou.untyped_storage().nbytes() <= 8, "who keeps the IoU and the score does not keep the mask"
        for answer, as_yielded in zip(answers, copies, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(answer, as_yielded, strict=True))


@pytest.mark.parametrize("recorded", [False, True])
def test_what_is_stored_is_what_is_yielded(fast, video, recorded):
    """Of each object its own mask, IoU and score, which go to the CPU in one copy."""
    fast.fast = recorded
    s = Session(fast, video)
    for i in range(3):
        s.points(0, i, (20 + 30 * i, 40, 1))
    answers = fast.propagate_in_video(s.state, 0, 2, return_scores=True, output="low_res", progress=False)
    for frame, _, _, scores in answers:
        kept = [tracked.kept_on(frame) for tracked in s.state.objects.values()]
        stored = [(result.mask, result.iou, result.score) for result in kept]
        masks, ious, presences = map(torch.cat, zip(*stored, strict=True))
        assert torch.equal(masks, scores.low_res_logits)
        assert torch.equal(ious[:, 0], scores.iou) and torch.equal(presences[:, 0], scores.object_score)


def more_objects_than_there_was_room_for(s: Session) -> None:
    """The pools grow once; what was recorded before is recorded again."""
    for i in range(3):
        s.points(0, i, (20 + 30 * i, 40, 1))
    s.propagate(max_frame_num_to_track=3)
    for i in range(3, OBJECTS_AT_ONCE + 4):
        s.points(3, i, (5 + 5 * i, 60, 1))
    s.propagate(start_frame_idx=3, max_frame_num_to_track=3)
    for i in range(3, OBJECTS_AT_ONCE + 4):
        s.remove(i)
    s.propagate(start_frame_idx=6, max_frame_num_to_track=2)


def inside_and_outside_of_autocast(s: Session) -> None:
    s.points(0, 1, (60, 40, 1))
    with torch.autocast("cpu", torch.bfloat16):
        s.propagate(max_frame_num_to_track=3)
    s.propagate(start_frame_idx=4, max_frame_num_to_track=2)


def memories_of_a_wider_dtype(s: Session) -> None:
    """The prompt was made under autocast, and tracking is not: the pool is widened."""
    with torch.autocast("cpu", torch.bfloat16):
        s.points(0, 1, (60, 40, 1))
        s.predictor.propagate_in_video_preflight(s.state)
    s.propagate(max_frame_num_to_track=3)
    assert s.state.bank.memories.data.dtype == torch.float32


@pytest.mark.parametrize(
    ("scenario", "tolerance"),
    [
        (more_objects_than_there_was_room_for, TOLERANCE),
        # The first frame outside reads memories in bfloat16, which recorded steps widen before and not after it.
        (inside_and_outside_of_autocast, 10 * TOLERANCE),
        (memories_of_a_wider_dtype, TOLERANCE),
    ],
)
def test_the_plain_masks(scenario, tolerance, plain, fast, video):
    assert_same(run(plain, video, scenario), run(fast, video, scenario), tolerance)


def test_released_recordings_are_freed_and_made_again(fast, video):
    s = begun(fast, video, 1)
    place = recorded_steps(fast, s)
    fast.release_recordings()
    assert not place._calls and not place._inputs and not place.tensors
    s.propagate(start_frame_idx=2, max_frame_num_to_track=2)
    expected = run(fast, video, lambda s: (s.points(0, 1, (60, 40, 1)), s.propagate(max_frame_num_to_track=4)))
    assert relative_error(expected[-1].masks, s.records[-1].masks) < TOLERANCE


def test_release_clears_steps_and_encodings(fast, video):
    begun(fast, video, 1)
    pools, cleared = [graph_calls_of(fast, ahead).pool for ahead in (False, True)], []
    for pool in pools:
        pool.graphs.clear = lambda pool=pool: cleared.append(pool)
    fast.release_recordings()
    assert set(cleared) == set(pools) and len(cleared) == 2 and not graph_calls_of(fast, ahead=True)._calls


def test_an_image_predictor_releases_the_recordings_of_its_video_predictor(fast, video):
    """Afterwards both use the same pool again."""
    image, s = SAM2ImagePredictor(fast), begun(fast, video, 1)
    image.fast = True
    place, frames = recorded_steps(fast, s), graph_calls_of(fast, ahead=True)
    assert place._calls and frames._calls
    image.release_recordings()
    assert not place._calls and not frames._calls
    s.propagate(start_frame_idx=2, max_frame_num_to_track=1)
    image.set_image(clip(1)[0])
    assert place._calls and place is recorded_steps(fast, s) and place.pool is graph_calls_of(fast).pool
    fast.release_recordings()
    assert not graph_calls_of(fast)._calls


def test_a_video_predictor_releases_images_before_it_tracks(fast):
    image = SAM2ImagePredictor(fast)
    image.fast = True
    image.set_image(clip(1)[0])
    assert graph_calls_of(fast)._calls and not has_recorded(fast)
    fast.release_recordings()
    assert not graph_calls_of(fast)._calls


class PoorRecorder(CalledAgain):
    """Cannot record the first function."""

    is_first = True

    def record(self, function):
        function()
        if self.is_first:
            self.is_first = False
            raise RecordingError("not here") from torch.OutOfMemoryError("CUDA out of memory")
        return function


def test_where_recording_fails_tracking_goes_on_without(fast, plain_life, video, caplog, monkeypatch):
    """What failed is prepared once."""
    recorded_by(monkeypatch, NoRecorder)
    prepared = Counter()
    for owner, name in ((step_runner, "_uploaded"), (GraphCalls, "call")):
        monkeypatch.setattr(owner, name, counting(getattr(owner, name), prepared))
    assert_same(plain_life, run(fast, video, long_life))
    assert prepared == {"_uploaded": 1, "call": 4}
    assert set(failures(fast)) == {"RuntimeError: operation not permitted when stream is capturing"}
    of_steps = [f"steps with rows for {n} objects cannot be recorded" for n in (1, 2, 4)]
    for what in ("encodings in batches of 1 cannot be recorded", *of_steps):
        assert caplog.text.count(what) == 1, caplog.text
    assert caplog.text.count("operation not permitted") == 4


def test_what_could_not_be_recorded_does_without_alone(fast, plain_life, video, caplog, monkeypatch):
    """The first encoding and the first step here, for lack of memory. Others are recorded, also later ones."""
    recorded_by(monkeypatch, PoorRecorder)
    s = Session(fast, video)
    long_life(s)
    assert_same(plain_life, s.records)
    assert failures(fast) == 2 * ["OutOfMemoryError: CUDA out of memory"]
    assert shapes(fast, s) == [(2, 7, 16, 0), (4, 7, 16, 0)], "those of one object are eager"
    assert caplog.text.count("are run eagerly: CUDA out of memory") == 2
    frames = graph_calls_of(fast, ahead=True)
    assert frames._calls == {}
    fast._tracker.encode(s.state, [2, 3, 4])
    assert len(frames._calls) == 1, "in batches of four"


def test_copies_and_pickles_record_for_themselves(fast, video):
    s = begun(fast, video, 1)
    for clone in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert not has_recorded(clone) and clone.fast is True
        again = begun(clone, video, 1)
        assert torch.equal(again.records[-1].masks, s.records[-1].masks)
    assert has_recorded(fast)
    fast.release_recordings()
    assert not has_recorded(fast)


def test_short_videos_have_steps_of_their_own(replaying, plain, tmp_path):
    """Their object pointers are spaced differently."""

    def life(s: Session) -> None:
        s.points(0, 1, (60, 40, 1))
        s.propagate()

    for length in (4, 8, 4):
        folder = jpeg_folder(tmp_path / str(length), clip(length))
        assert_same(run(plain, folder, life), run(replaying, folder, life))


def test_what_waits_for_the_device_cannot_be_recorded(replaying, video, monkeypatch):
    s = begun(replaying, video)
    right = step.fill_holes

    def looks(masks, area):
        return right(masks, area) if float(masks.max()) > 0 else masks

    monkeypatch.setattr(step, "fill_holes", looks)
    with pytest.raises(ReadBackError, match="item"):
        s.propagate()


@pytest.mark.parametrize("arguments", [{"num_objects": 0}, {"size": (0, 5)}, {"output": "png"}], ids=str)
def test_warmup_refuses(fast, arguments):
    with pytest.raises(ValueError, match="expected"):
        fast.warmup(**arguments)


def test_after_warmup_nothing_is_recorded(fast, video):
    fast.warmup(5, (90, 120))
    s = Session(fast, video)
    long_life(s)
    # Four buckets hold one to five objects.
    assert recorded_steps(fast, s).made == 4
    assert sorted(shape[0] for shape in shapes(fast, s)) == [1, 2, 4, 8]


def test_on_the_cpu_nothing_is_recorded_unless_asked(plain, video, caplog):
    assert plain.fast is None and not plain._tracker.uses_recordings
    vos = build_sam2_video_predictor(
        "configs/sam2.1/sam2.1_hiera_t.yaml",
        None,
        device="cpu",
        vos_optimized=True,
        hydra_overrides_extra=["++model.image_size=64"],
    )
    assert type(vos) is SAM2VideoPredictorVOS
    with caplog.at_level("INFO"):
        run(vos, video, lambda s: (s.points(0, 1, (60, 40, 1)), s.propagate(max_frame_num_to_track=1)))
    assert "nothing to record on cpu" in caplog.text


def test_where_it_is_safe(plain, monkeypatch):
    """Asked for by name, it is not left out silently."""
    fast = copy.deepcopy(plain)
    fast.fast = True
    monkeypatch.setattr(type(fast), "device", torch.device("cuda"))
    monkeypatch.setattr(graphs, "why_no_triton", lambda device: None)
    assert graphs.why_eager(fast.device, None) is None
    monkeypatch.setattr(graphs, "why_no_triton", lambda device: "needs triton 3.6")
    with pytest.raises(RuntimeError, match=r"fast is True, but needs triton 3\.6"):
        assert fast._tracker.uses_recordings
    fast.fast = None
    assert not fast._tracker.uses_recordings
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert "AMD" in graphs.why_eager(fast.device, None)


def test_training_mode_is_refused_as_ever(fast, video):
    s = begun(fast, video)
    fast.train()
    with pytest.raises(RuntimeError, match="evaluation mode"):
        s.propagate()


@pytest.mark.parametrize("owner", ["class", "instance"])
def test_options_take_effect_wherever_they_are_set(fast, monkeypatch, owner):
    """On the class, on an instance, and again when they are taken away."""
    target = type(fast) if owner == "class" else fast
    if owner == "class":
        del fast.fast
    with monkeypatch.context() as patch:
        patch.setattr(target, "fast", False)
        assert fast.fast is False and fast._tracker.steps.why_eager() is not None
    assert fast.fast is (None if owner == "class" else True)

"""Objects of one video on several devices: what is returned is what one predictor returns."""

import os
import signal
import sys

import numpy as np
import parallel_jobs
import pytest
import torch
import track_films
from thread_workers import ThreadWorker, instead_of_processes

from sam2fast.kernels.mask_ops import unpack_masks
from sam2fast.parallel import SpreadPredictor, WorkerError
from sam2fast.parallel.object_share import ObjectShare
from sam2fast.reproducibility import deterministic
from sam2fast.testing import mismatch_ratio
from sam2fast.tracking.saved_state import StateError
from sam2fast.video_io import Frames

# A batch of other objects rounds otherwise; the rest is the same arithmetic.
TOLERANCE = 1e-4
CLICK = {"points": [[16, 19]], "labels": [1]}
BOX = [42, 26, 58, 42]


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    return track_films.pictures(7)


@pytest.fixture
def one():
    return parallel_jobs.build_mini("cpu")


def assert_same(found, expected) -> None:
    """Answers of any nesting; logits to :data:`TOLERANCE`, everything else exactly."""
    if isinstance(expected, torch.Tensor):
        assert found.shape == expected.shape and found.dtype == expected.dtype
        if expected.is_floating_point():
            distance = (found - expected).abs().max() if expected.numel() else torch.zeros(())
            assert distance <= TOLERANCE * (1 + expected.abs().mean())
        else:
            assert mismatch_ratio(found, expected) <= 1e-3
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert_same(a, b)
    else:
        assert found == expected


def prompted(predictor, frames):
    """Three objects, of which the second and the last overlap; and the answers to their prompts."""
    state = predictor.init_state(frames)
    answers = [
        predictor.add_new_points_or_box(state, 1, "first", **CLICK),
        predictor.add_new_points_or_box(state, 0, 2, box=BOX),
        predictor.add_new_mask(state, 2, 7, np.pad(np.ones((20, 30), bool), ((20, 8), (24, 10)))),
    ]
    return state, answers


def test_a_session(one, spread, frames):
    """Prompts, both directions, a correction, a removal, a new object, prompts taken back."""
    found, expected = (list(map(_kept, _session(predictor, frames))) for predictor in (spread, one))
    assert_same(found, expected)
    assert [len(step[1]) for step in expected if step is not None and isinstance(step[0], int)][:3] == [1, 2, 3]


def _kept(answer):
    """An answer whose list of ids does not change with the state."""
    return answer if answer is None else tuple(list(x) if isinstance(x, list) else x for x in answer)


def _session(predictor, frames):
    state, answers = prompted(predictor, frames)
    yield from answers
    assert list(state.obj_ids) == ["first", 2, 7]
    yield from predictor.propagate_in_video(state, progress=False)
    yield from predictor.propagate_in_video(state, reverse=True, progress=False)
    yield predictor.add_new_points_or_box(state, 4, 2, points=[[44, 30]], labels=[1])
    yield predictor.remove_object(state, "first")
    yield predictor.remove_object(state, "nobody")
    yield predictor.add_new_points_or_box(state, 3, "late", points=[[20, 22]], labels=[1])
    for frame, ids, masks, scores in predictor.propagate_in_video(
        state, start_frame_idx=1, max_frame_num_to_track=3, progress=False, return_scores=True, encode_ahead=2
    ):
        yield frame, ids, masks, *scores
    yield predictor.clear_all_prompts_in_frame(state, 3, "late")
    yield predictor.clear_all_prompts_in_frame(state, 3, "nobody", need_output=False)
    predictor.reset_state(state)
    assert list(state.obj_ids) == []
    yield predictor.add_new_points_or_box(state, 5, "again", box=BOX)
    yield from predictor.propagate_in_video(state, progress=False, lag=1)


def test_objects_are_dealt_out(spread, frames):
    state, _ = prompted(spread, frames)
    assert state.owners == {"first": 0, 2: 1, 7: 0}
    spread.remove_object(state, "first")
    spread.remove_object(state, 7)
    spread.add_new_points_or_box(state, 0, "more", box=BOX)
    assert state.owners == {2: 1, "more": 0}


@pytest.mark.parametrize("settled", [False, True], ids=["overlaps", "no overlaps"])
@pytest.mark.parametrize("output", ["logits", "bool", "bits", "low_res"])
def test_forms_of_masks(output, settled, one, monkeypatch, frames):
    """Overlaps are settled among the objects of both processes."""
    instead_of_processes(monkeypatch)

    def build(device):
        predictor = parallel_jobs.build_mini(device)
        predictor.non_overlap_masks = settled
        return predictor

    monkeypatch.setattr(parallel_jobs, "build_settled", build, raising=False)
    build.__module__, build.__qualname__ = "parallel_jobs", "build_settled"
    one.non_overlap_masks = settled
    with SpreadPredictor(build, "cpu,cpu") as spread:
        found, expected = [], []
        for predictor, answers in ((spread, found), (one, expected)):
            state, first = prompted(predictor, frames)
            answers += first
            options = {"progress": False, "max_frame_num_to_track": 3, "output": output}
            answers += predictor.propagate_in_video(state, **options)
    assert_same(found, expected)
    masks = expected[-1][2]
    if output != "low_res":
        shown = masks > 0 if output == "logits" else unpack_masks(masks, 64) if output == "bits" else masks
        assert (int(shown.sum(0).max()) > 1) != settled


def test_prompts_and_removals_amid_a_pass(one, spread, frames):
    """As with one predictor: who is removed drops out, who is added takes part in the next pass."""
    found, expected = [], []
    for predictor, answers in ((spread, found), (one, expected)):
        state, _ = prompted(predictor, frames)
        for frame, ids, masks in predictor.propagate_in_video(state, progress=False):
            answers.append((frame, list(ids), masks))
            if frame == 2:
                predictor.remove_object(state, 2)
                predictor.add_new_points_or_box(state, 2, "late", **CLICK)
            if frame == 4:
                break
        answers += predictor.propagate_in_video(state, start_frame_idx=5, progress=False)
    assert_same(found, expected)
    assert [step[1] for step in expected][2:4] == [["first", 2, 7], ["first", 7]]


def test_states_go_between_one_and_several(one, spread, frames, tmp_path):
    state, _ = prompted(spread, frames)
    list(spread.propagate_in_video(state, max_frame_num_to_track=3, progress=False))
    spread.save_state(state, tmp_path / "spread.safetensors")
    loaded = one.load_state(tmp_path / "spread.safetensors", frames)
    assert loaded.obj_ids == ["first", 2, 7]
    one.save_state(loaded, tmp_path / "one.safetensors")
    again = spread.load_state(tmp_path / "one.safetensors", frames)
    assert again.obj_ids == ["first", 2, 7] and set(again.owners.values()) == {0, 1}
    passes = [
        list(p.propagate_in_video(s, start_frame_idx=4, progress=False))
        for p, s in ((one, loaded), (spread, again), (spread, state))
    ]
    assert_same(passes[1], passes[0])
    assert_same(passes[2], passes[0])
    with pytest.raises(StateError, match="another video"):
        spread.load_state(tmp_path / "one.safetensors", frames[:3])


def test_errors_are_those_of_the_predictor(spread, frames):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        spread.init_state("nowhere.mp4")
    with pytest.raises(ValueError, match="max_history is 1; this model looks back"):
        spread.init_state(frames, max_history=1)
    state = spread.init_state(frames)
    with pytest.raises(RuntimeError, match="no object to track"):
        next(spread.propagate_in_video(state))
    with pytest.raises(IndexError, match="frame 9 is not in this video of 7 frames"):
        spread.add_new_points_or_box(state, 9, 1, **CLICK)
    with pytest.raises(ValueError, match="label") as caught:
        spread.add_new_points_or_box(state, 0, 1, points=[[3, 4]])
    assert "add_new_points_or_box" in str(caught.value.__cause__)
    assert state.obj_ids == []
    with pytest.raises(RuntimeError, match="no object 1 to remove"):
        spread.remove_object(state, 1, strict=True)
    spread.add_new_points_or_box(state, 0, 1, **CLICK)
    with pytest.raises(ValueError, match="output is 'bytes'"):
        next(spread.propagate_in_video(state, output="bytes"))
    with pytest.raises(ValueError, match="encode_ahead is 0"):
        next(spread.propagate_in_video(state, encode_ahead=0, progress=False))
    with pytest.raises(TypeError, match="cannot go to another process"):
        spread.add_new_mask(state, 0, 2, lambda: 0)
    assert [frame for frame, *_ in spread.propagate_in_video(state, progress=False)] == list(range(7))
    spread.close_state(state)
    spread.close_state(state)


def test_videos_are_closed_in_the_end(monkeypatch, frames):
    """So that the threads that decode them end before the process does."""
    instead_of_processes(monkeypatch)
    closed, close = [], Frames.close
    monkeypatch.setattr(Frames, "close", lambda self: (closed.append(self), close(self))[1])
    with SpreadPredictor(parallel_jobs.build_mini, "cpu,cpu") as spread:
        state = spread.init_state(frames, async_loading_frames=True)
        assert not closed
    assert len(closed) == 2 and state.frames not in closed


def test_progress_of_the_callers_own(spread, frames):
    state, _ = prompted(spread, frames)
    shown: list[int] = []

    def progress(numbers):
        for number in numbers:
            shown.append(number)
            yield number

    assert [t for t, *_ in spread.propagate_in_video(state, progress=progress)] == shown == list(range(7))


def test_a_process_that_is_lost_ends_the_predictor(spread, frames, monkeypatch):
    state, _ = prompted(spread, frames)
    passes = spread.propagate_in_video(state, progress=False)
    next(passes)
    monkeypatch.setattr(ObjectShare, "next", lambda self, *numbers: sys.exit())
    with pytest.raises(WorkerError, match="on cpu has ended"):
        list(passes)
    with pytest.raises(WorkerError, match="has ended"):
        spread.init_state(frames)


def test_a_process_that_cannot_begin(monkeypatch):
    instead_of_processes(monkeypatch)
    workers: list[ThreadWorker] = []
    made = ThreadWorker.__init__
    monkeypatch.setattr(ThreadWorker, "__init__", lambda self, *args: (workers.append(self), made(self, *args))[1])
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        SpreadPredictor(parallel_jobs.square, "cpu,cpu")
    assert len(workers) == 2 and all(worker.connection.closed for worker in workers)


@pytest.mark.long
def test_real_processes(one, frames):
    """Two of them, with a thread each, deterministic as the one that makes them, and not minding Ctrl-C."""
    build = parallel_jobs.build_mini_when_deterministic
    with deterministic(), SpreadPredictor(build, "cpu,cpu", threads=1) as spread:
        pids = [worker.pid for worker in spread._workers]
        for pid in pids:
            os.kill(pid, signal.SIGINT)  # which the terminal sends to all; it is for the parent to decide
        found, expected = [], []
        for predictor, answers in ((spread, found), (one, expected)):
            state, first = prompted(predictor, frames)
            answers += [*first, *predictor.propagate_in_video(state, progress=False, output="bool")]
    assert_same(found, expected)
    assert len(set(pids)) == 2 and not any(worker._process.is_alive() for worker in spread._workers)

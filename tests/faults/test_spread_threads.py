"""Several threads with a video that processes share: they take turns, and a session is one thread's at a time."""

from functools import partial
from typing import Any

import pytest
from at_once import Held, at_once
from comparable import plain
from disturbed_calls import pictures
from thread_work import answers, session, track
from thread_workers import ThreadWorker

from sam2fast.exclusive import ConcurrentUseError
from sam2fast.parallel import objects


def test_threads_take_turns_with_the_processes_that_share_a_video(spread, often):
    expected = [track(spread, number) for number in range(2)]
    assert expected[0] != expected[1]
    assert at_once(*(partial(track, spread, number) for number in range(2))) == expected


def test_a_spread_session_is_one_threads_at_a_time(spread, monkeypatch, tmp_path):
    state, other = session(spread), session(spread)
    passing = spread.propagate_in_video(state, progress=False)
    held = Held(lambda: next(passing)[0])
    with held.within(monkeypatch, objects, "returned"):
        for call in (
            lambda: spread.add_new_points_or_box(state, 2, "b", [[15, 18]], [1]),
            lambda: spread.add_new_mask(state, 2, "b", pictures(1)[0][..., 0] > 100),
            lambda: spread.clear_all_prompts_in_frame(state, 0, "a"),
            lambda: spread.remove_object(state, "a"),
            lambda: spread.reset_state(inference_state=state),
            lambda: next(spread.propagate_in_video(state, progress=False)),
            lambda: spread.save_state(state, tmp_path / "state"),
            lambda: spread.close_state(state),
        ):
            with pytest.raises(ConcurrentUseError, match="SpreadState is being used by another thread"):
                call()
        assert spread.add_new_points_or_box(other, 1, "b", [[15, 18]], [1])[1] == ["a", "b"]
    assert [held.result, *(frame for frame, *_ in passing)] == [0, 1, 2, 3, 4]


def test_a_pass_that_is_collected_amid_another_call_takes_no_answers(spread, monkeypatch):
    expected = plain(spread.add_new_points_or_box(session(spread), 1, "b", [[30, 18]], [1]))
    state = session(spread)
    passing, real = spread.propagate_in_video(session(spread), progress=False), ThreadWorker.reply
    next(passing)

    def collected(worker: Any) -> Any:
        passing.close()
        return real(worker)

    with monkeypatch.context() as patch:
        patch.setattr(ThreadWorker, "reply", collected)
        assert plain(spread.add_new_points_or_box(state, 1, "b", [[30, 18]], [1])) == expected
    assert len(answers(spread, state)) == 5

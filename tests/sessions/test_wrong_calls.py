"""What the video predictor refuses, it refuses in any state, in words, and nothing has changed."""

from typing import Any

import pytest
from mini_model import mini_predictor
from video import clip, snapshot
from wrong_video_calls import WRONG_CALLS


@pytest.fixture(scope="module")
def session() -> tuple[Any, Any]:
    """Something of everything: tracked, corrected and newly prompted."""
    predictor = mini_predictor(("++model.image_size=64",))
    state = predictor.init_state(clip(5, 33, 44))
    predictor.add_new_points_or_box(state, 0, "a", [[20, 20]], [1])
    list(predictor.propagate_in_video(state, max_frame_num_to_track=2, progress=False))
    predictor.add_new_points_or_box(state, 1, "a", [[5, 5]], [0])
    predictor.add_new_points_or_box(state, 3, "b", box=[2, 2, 20, 20])
    return predictor, state


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_a_wrong_call_changes_nothing(name: str, session: tuple[Any, Any]) -> None:
    predictor, state = session
    call, error, message = WRONG_CALLS[name]
    before = snapshot(state)
    with pytest.raises(error) as caught:
        call(predictor, state)
    assert message in str(caught.value)
    assert snapshot(state) == before and state.obj_ids == ["a", "b"]


def test_wrong_numbers_when_a_session_is_opened(session: tuple[Any, Any]) -> None:
    predictor, _ = session
    for number in (20.5, "20", [20]):
        with pytest.raises(TypeError, match="max_history is .*; expected an integer"):
            predictor.init_state(clip(2, 33, 44), max_history=number)
        for name in ("num_frames", "max_cond_frames"):
            with pytest.raises(TypeError, match=f"{name} is .*; expected an integer"):
                predictor.open_stream(**{name: number})


@pytest.mark.parametrize("lag", [0, 2])
def test_the_last_prompt_is_taken_back_during_a_pass(session: tuple[Any, Any], lag: int) -> None:
    """The pass ends with an error that says of which object; what it has tracked stays, and another prompt helps."""
    predictor, state = session[0], session[0].move_state(session[1])
    coming = predictor.propagate_in_video(state, progress=False, lag=lag)
    assert next(coming)[0] == 0
    predictor.clear_all_prompts_in_frame(state, 3, "b")
    for t in range(1, 1 + lag):
        assert next(coming)[0] == t
    before = snapshot(state)
    with pytest.raises(RuntimeError, match="object 'b' has no points, box or mask to track it from"):
        next(coming)
    assert snapshot(state) == before
    predictor.add_new_points_or_box(state, 2, "b", [[10, 10]], [1])
    assert [t for t, *_ in predictor.propagate_in_video(state, progress=False)] == [0, 1, 2, 3, 4]


def test_a_correction_is_not_the_first_to_be_forgotten() -> None:
    """The next frames attend to it, so ``max_history`` forgets what was written before."""
    few = ("++model.image_size=64", "++model.num_maskmem=3", "++model.max_obj_ptrs_in_encoder=4")
    predictor = mini_predictor(few)
    state = predictor.init_state(clip(8, 33, 44), max_history=4)
    predictor.add_new_points_or_box(state, 0, "a", [[20, 20]], [1])
    list(predictor.propagate_in_video(state, progress=False))
    tracked = state.objects["a"].tracked
    assert list(tracked) == [4, 5, 6, 7]
    for frame in (4, 2):  # the oldest that is remembered, and one that is not any more
        predictor.add_new_points_or_box(state, frame, "a", [[5, 5]], [0])
    list(predictor.propagate_in_video(state, 5, 0, progress=False))
    assert list(tracked) == [7, 4, 2, 5]

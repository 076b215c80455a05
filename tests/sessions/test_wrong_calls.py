"""What the video predictor refuses, it refuses in any state, in words, and nothing has changed."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from comparable import snapshot
from mini_model import mini_predictor
from video import clip
from wrong_video_calls import WRONG_CALLS

from sam2fast.modeling import model_identity
from sam2fast.modeling.model_identity import model_facts


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


@pytest.mark.parametrize(
    ("name", "number"),
    [
        *((name, x) for name in ("max_history", "num_frames", "max_cond_frames") for x in (20.5, "20", [20])),
        *(("max_history", 5), ("num_frames", 0), ("num_frames", 2**70), ("max_cond_frames", 1)),
    ],
)
def test_wrong_numbers_when_a_session_is_opened(session: tuple[Any, Any], name: str, number: Any) -> None:
    with pytest.raises(ValueError if isinstance(number, int) else TypeError, match=f"{name} is "):
        if name == "max_history":
            session[0].init_state(clip(2, 33, 44), max_history=number)
        else:
            session[0].open_stream(**{name: number})


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


ANY_CALL = {
    "points": lambda p, s: p.add_new_points_or_box(s, 2, "c", [[1, 1]], [1]),
    "mask": lambda p, s: p.add_new_mask(s, 2, "c", torch.eye(9)),
    "taken back": lambda p, s: p.clear_all_prompts_in_frame(s, 0, "a"),
    "removed": lambda p, s: p.remove_object(s, "a"),
    "reset": lambda p, s: p.reset_state(s),
    "preflight": lambda p, s: p.propagate_in_video_preflight(s),
    "pass": lambda p, s: next(p.propagate_in_video(s, progress=False)),
    "by keyword": lambda p, s: p.reset_state(inference_state=s),
}


@pytest.mark.parametrize("name", ANY_CALL)
def test_a_session_of_another_model_is_refused(name: str, session: tuple[Any, Any]) -> None:
    """Also where it has the same shapes, and would be computed with; another one with the same weights may go on."""
    predictor, state = session
    other = copy.deepcopy(predictor)
    weight = next(other.parameters())
    with torch.no_grad():
        weight += 1
    before = snapshot(state)
    with pytest.raises(ValueError, match="opened with another model.*move_state"):
        ANY_CALL[name](other, state)
    assert snapshot(state) == before
    with torch.no_grad():
        weight.copy_(next(predictor.parameters()))
    ANY_CALL[name](other, predictor.move_state(state))


def test_weights_are_compared_once_until_they_change(session: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, compared = session[0], []
    state, others = predictor.move_state(session[1]), [copy.deepcopy(predictor) for _ in range(2)]
    monkeypatch.setattr(model_identity, "model_facts", lambda model: compared.append(model) or model_facts(model))

    def call(other: Any) -> int:
        compared.clear()
        other.clear_all_prompts_in_frame(state, 4, "a", need_output=False)
        return len(compared)

    assert [call(other) for other in (*others, predictor, others[1], others[1])] == [2, 2, 0, 0, 0]
    for changed in (others[1], predictor):
        *_, last = changed.parameters()
        with torch.no_grad():
            last.add_(1)
            with pytest.raises(ValueError, match="opened with another model"):
                call(others[1])
            last.sub_(1)
        assert [call(others[1]), call(others[1])] == [2, 0]
    with torch.inference_mode():
        last = next(others[1].parameters())
        last.data = last.clone()  # whose changes nobody counts
    assert [call(others[1]), call(others[1])] == [2, 2]
    monkeypatch.setattr(model_identity, "_versions", lambda model: None)  # as where another's memory is used again
    assert [call(other) for other in (others[0], others[0], others[1])] == [2, 0, 2]


def test_restored_and_moved_sessions_have_the_model_that_took_them(session: tuple[Any, Any], tmp_path: Path) -> None:
    predictor, state = session
    predictor.save_state(state, tmp_path / "state")
    other = copy.deepcopy(predictor)
    for taken in (other.load_state(tmp_path / "state", clip(5, 33, 44)), other.move_state(state)):
        with torch.no_grad():
            next(other.parameters()).add_(1)  # trained on meanwhile: it is still its own
        other.reset_state(taken)
        with torch.no_grad():
            next(other.parameters()).copy_(next(predictor.parameters()))

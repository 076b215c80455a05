"""Sessions whose objects are spread over processes, in calls that cross one another, beside one predictor."""

from typing import Any

import parallel_jobs
import pytest
import torch
import track_films

from sam2fast.parallel import SpreadPredictor

FRAMES = 6
WRONG_PASSES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"start_frame_idx": FRAMES + 1}, IndexError, "frame 7 is not in this video of 6 frames"),
    ({"start_frame_idx": 0.5}, TypeError, "start_frame_idx is 0.5; expected an integer"),
    ({"max_frame_num_to_track": -1}, ValueError, "max_frame_num_to_track is -1; expected 0 or more"),
    ({"encode_ahead": 0}, ValueError, "encode_ahead is 0; expected 1 or more"),
    ({"lag": 1.5}, TypeError, "lag is 1.5; expected an integer"),
]


def prompted(predictor: Any) -> Any:
    state = predictor.init_state(track_films.pictures(FRAMES))
    predictor.add_new_points_or_box(state, 0, "first", [[16, 19]], [1])
    predictor.add_new_points_or_box(state, 2, "second", [[40, 30]], [1])
    return state


def crossing(predictor: Any, state: Any) -> list[tuple[int, list[Any], torch.Tensor]]:
    """Two passes in turn; one is abandoned, the other goes on."""
    forwards = predictor.propagate_in_video(state, 0, progress=False)
    found = [next(forwards), next(forwards)]
    backwards = predictor.propagate_in_video(state, FRAMES - 1, reverse=True, progress=False)
    found += [next(backwards), next(forwards), next(backwards)]
    forwards.close()
    return [(t, list(ids), masks) for t, ids, masks in (*found, *backwards)]


def test_two_passes_at_a_time(spread: SpreadPredictor) -> None:
    one = parallel_jobs.build_mini("cpu")
    expected, actual = (crossing(predictor, prompted(predictor)) for predictor in (one, spread))
    assert [t for t, *_ in actual] == [0, 1, 5, 2, 4, 3, 2, 1, 0]
    for a, b in zip(expected, actual, strict=True):
        assert a[:2] == b[:2]
        torch.testing.assert_close(a[2], b[2], rtol=1e-4, atol=1e-4)


def test_a_pass_ends_with_its_video(spread: SpreadPredictor) -> None:
    state = prompted(spread)
    coming = spread.propagate_in_video(state, progress=False)
    next(coming)
    spread.close_state(state)
    assert list(coming) == []


@pytest.mark.parametrize(("options", "error", "message"), WRONG_PASSES, ids=lambda x: str(x)[:30])
def test_a_wrong_pass_changes_nothing(
    spread: SpreadPredictor, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    state = prompted(spread)
    with pytest.raises(error) as caught:
        next(spread.propagate_in_video(state, progress=False, **options))
    assert message in str(caught.value)
    assert still_new(spread, state) == [True, True]


def test_a_pass_without_a_prompt_changes_nothing(spread: SpreadPredictor) -> None:
    """Not in the process either whose objects have theirs."""
    state = prompted(spread)
    spread.clear_all_prompts_in_frame(state, 2, "second")
    with pytest.raises(RuntimeError, match="object 'second' has no points, box or mask to track it from"):
        next(spread.propagate_in_video(state, progress=False))
    assert still_new(spread, state) == [True, False]


def still_new(spread: SpreadPredictor, state: Any) -> list[bool]:
    """Whether the prompts of each process have not become memories yet."""
    found = [spread._group.call(spread._workers, "has_new_conditioning", state.number, frame) for frame in (0, 2)]
    return [any(each) for each in zip(*found, strict=True)]

"""Sessions of predictors with recorded steps, and comparisons of their answers."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from video import Record, Session

from sam2fast.engine import replay
from sam2fast.utils.testing import relative_error

TOLERANCE = 1e-5


def begun(predictor: Any, video: Path, more: int | None = None) -> Session:
    """A session with one clicked object, tracked for so many frames after the first."""
    s = Session(predictor, video)
    s.points(0, 1, (60, 40, 1))
    if more is not None:
        s.propagate(max_frame_num_to_track=more)
    return s


def assert_same(expected: list[Record], actual: list[Record], tolerance: float = TOLERANCE) -> None:
    assert [r[:3] for r in expected] == [r[:3] for r in actual]
    for a, b in zip(expected, actual, strict=True):
        assert relative_error(a.masks, b.masks) < tolerance, (a.step, a.frame)


def counting(function: Callable[..., Any], counted: Counter[str]) -> Callable[..., Any]:
    """The function, whose calls are counted by its name."""

    def call(*args: Any, **kwargs: Any) -> Any:
        counted[function.__name__] += 1
        return function(*args, **kwargs)

    return call


def recorded_steps(predictor: Any, s: Session) -> replay.GraphCalls:
    """The recorded steps on the pools of a session."""
    return predictor._tracker.steps.graph_calls(s.state.bank, predictor._tracker.rules(s.state))


def has_recorded(predictor: Any) -> bool:
    """Whether steps or encodings were recorded since the last release."""
    return predictor._tracker.steps._made_for is not None


def failures(predictor: Any) -> list[str]:
    """Why something could not be recorded."""
    return [why for each in replay._by_model[predictor].values() for why in each.pool.failures.values()]

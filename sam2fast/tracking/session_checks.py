"""Checks of the session that a method is given: its kind, its model, and one call at a time."""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.tracking.state import VideoState
from sam2fast.utils.thread_guard import exclusive_session

Method = TypeVar("Method", bound=Callable[..., Any])


def check_kind(session: object) -> None:
    """
    Raises:
        TypeError: ``session`` is no session.
    """
    if not isinstance(session, VideoState):
        kind = "None" if session is None else f"a {type(session).__name__}"
        raise TypeError(f"inference_state is {kind}; expected the session that init_state() returned")


def check_session(model: SAM2Base, session: Any) -> None:
    """Checks that a session was opened with this model, or with another one with the same weights on the same device.

    Raises:
        TypeError: it is no session.
        ValueError: it belongs to another model.
    """
    check_kind(session)
    if not session.opened_with.accepts(model):
        raise ValueError(
            "inference_state was opened with another model, or on another device; use the predictor whose init_state() "
            "returned it, or, where the weights are the same, move_state()"
        )


def checked_session(method: Method) -> Method:
    """``exclusive_session`` after :func:`check_session`, which a generator calls when it starts."""
    guarded = exclusive_session(method)

    def check(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if len(args) > 1 or "inference_state" in kwargs:  # otherwise the method reports the missing argument
            check_session(args[0], args[1] if len(args) > 1 else kwargs["inference_state"])

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        check(args, kwargs)
        return guarded(*args, **kwargs)

    @functools.wraps(method)
    def generate(*args: Any, **kwargs: Any) -> Iterator[Any]:
        check(args, kwargs)
        yield from guarded(*args, **kwargs)

    return cast(Method, generate if inspect.isgeneratorfunction(method) else call)

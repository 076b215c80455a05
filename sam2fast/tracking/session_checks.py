"""Checks of the session that a method is given: its kind, its model, and one call at a time."""

import functools
import inspect
from collections.abc import Callable, Iterator, MutableMapping
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


def check_session(model: SAM2Base, session: Any) -> VideoState:
    """The session, which was opened with this model, or with another one with the same weights on the same device.

    A caller's own dict with the original's keys names no model, and is a session of any.

    Raises:
        TypeError: it is no session.
        ValueError: it belongs to another model.
    """
    if isinstance(session, MutableMapping) and not isinstance(session, VideoState):
        return VideoState.of_dict(session)
    check_kind(session)
    if session.opened_with is not None and not session.opened_with.accepts(model):
        raise ValueError(
            "inference_state was opened with another model, or on another device; use the predictor whose init_state() "
            "returned it, or, where the weights are the same, move_state()"
        )
    return cast(VideoState, session)


def checked_session(method: Method) -> Method:
    """``exclusive_session`` after :func:`check_session`, which a generator calls when it starts."""
    guarded = exclusive_session(method)

    def check(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if len(args) > 1:
            args = (args[0], check_session(args[0], args[1]), *args[2:])
        elif "inference_state" in kwargs:  # otherwise the method reports the missing argument
            kwargs = {**kwargs, "inference_state": check_session(args[0], kwargs["inference_state"])}
        return args, kwargs

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = check(args, kwargs)
        return guarded(*args, **kwargs)

    @functools.wraps(method)
    def generate(*args: Any, **kwargs: Any) -> Iterator[Any]:
        args, kwargs = check(args, kwargs)
        yield from guarded(*args, **kwargs)

    return cast(Method, generate if inspect.isgeneratorfunction(method) else call)

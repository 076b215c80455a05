"""A session is for the model that it was opened with; with another one its memories would mean something else."""

import functools
import inspect
import weakref
from collections.abc import Callable, Hashable, Iterator
from typing import Any, TypeVar, cast

from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.tracking.saved_state import check_kind, model_facts
from sam2fast.utils.thread_guard import exclusive_session

Method = TypeVar("Method", bound=Callable[..., Any])


def own_session(method: Method) -> Method:
    """:func:`~sam2fast.utils.thread_guard.exclusive_session`, and refused with a session of another model.

    The method raises what :func:`check_session` does, a generator with its first answer.
    """
    guarded = exclusive_session(method)

    def check(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if len(args) > 1 or "inference_state" in kwargs:  # otherwise the method says what is missing
            check_session(args[0], args[1] if len(args) > 1 else kwargs["inference_state"])

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        check(args, kwargs)
        return guarded(*args, **kwargs)

    @functools.wraps(method)
    def steps(*args: Any, **kwargs: Any) -> Iterator[Any]:
        check(args, kwargs)
        yield from guarded(*args, **kwargs)

    return cast(Method, steps if inspect.isgeneratorfunction(method) else call)


def check_session(predictor: SAM2Base, session: Any) -> None:
    """That a session is one, of this predictor or of another with the same weights on the same device.

    Raises:
        TypeError: it is something else.
        ValueError: it is another model's.
    """
    check_kind(session)
    model = session.bank.model
    if model is predictor:
        return
    marks = _marks(model), _marks(predictor)
    if session.accepted is not None and session.accepted[0]() is predictor and session.accepted[1] == marks:
        return
    if model.device != predictor.device or model_facts(model) != model_facts(predictor):
        raise ValueError(
            "inference_state was opened with another model, or on another device; use the predictor whose init_state() "
            "returned it, or, where the weights are the same, move_state()"
        )
    session.accepted = weakref.ref(predictor), marks


def _marks(model: SAM2Base) -> Hashable:
    """By which changed weights are noticed without a look at their values, but for what is written past torch's own
    count, as through ``.data``."""
    # Inference tensors have no count: those are compared every time.
    return tuple((p.data_ptr(), object() if p.is_inference() else p._version) for p in model.parameters())

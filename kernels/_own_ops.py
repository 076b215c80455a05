"""Implementations of ops that a user registers under the name of a backend of their own."""

import importlib
import inspect
import threading
from collections.abc import Callable, Mapping
from typing import Any

BUILT_IN = ("auto", "torch", "triton")
# Op -> the module of its public function, which is named like the op.
OPS = {
    "memory_attention": "sam2fast.kernels.memory_attention",
    "rope_attention": "sam2fast.kernels.memory_attention",
    "window_attention": "sam2fast.kernels.window_attention",
}

Implementation = Callable[..., Any]

# Backend -> op -> implementation. Changed by putting another mapping in its place: whoever reads it needs no lock.
registered: Mapping[str, Mapping[str, Implementation]] = {}
# How often it was changed, so that what was recorded with an implementation is not taken for another one's.
changes = 0
_lock = threading.Lock()


def register_op(op: str, implementation: Implementation, name: str) -> None:
    """Gives an op an implementation that runs wherever the backend ``name`` is in force, in every thread.

    ``backend(name)`` and ``SAM2FAST_BACKEND`` know the name from then on. Ops without an implementation of that name
    run as under ``auto``.

    Args:
        op: ``memory_attention``, ``rope_attention`` or ``window_attention``.
        implementation: takes what the op's public function takes by position, after its checks, and returns what
            that returns. A graph by ``torch.compile`` holds what can be traced of it, or the node that it is if it is a
            ``torch.library.custom_op``.
        name: of the backend, which may have implementations of other ops already.

    Raises:
        ValueError: there is no such op, the name is that of a built-in backend or has this op already, or the
            implementation does not take the op's arguments; nothing is registered then.
    """
    global registered, changes
    _check_op(op)
    if not name or name in BUILT_IN:
        raise ValueError(f"{name!r} cannot name a backend of your own; give one other than {', '.join(BUILT_IN)}")
    _check_signature(op, implementation)
    with _lock:
        ops = registered.get(name, {})
        if op in ops:
            raise ValueError(f"the backend {name!r} has {op} already; unregister_op({op!r}, {name!r}) takes it away")
        registered = {**registered, name: {**ops, op: implementation}}
        changes += 1


def unregister_op(op: str, name: str) -> None:
    """Takes away what :func:`register_op` gave; a backend without ops is unknown again.

    Where the backend is in force meanwhile, the op runs as under ``auto``.

    Raises:
        ValueError: the backend has no implementation of this op.
    """
    global registered, changes
    with _lock:
        ops = registered.get(name, {})
        if op not in ops:
            raise ValueError(f"the backend {name!r} has no {op} to unregister")
        left = {other: implementation for other, implementation in ops.items() if other != op}
        others = {other: ops for other, ops in registered.items() if other != name}
        registered = {**others, name: left} if left else others
        changes += 1


def _check_op(op: str) -> None:
    if op not in OPS:
        raise ValueError(f"no op {op!r} takes an implementation; those that do are {', '.join(OPS)}")


def _check_signature(op: str, implementation: Implementation) -> None:
    if not callable(implementation):
        raise ValueError(f"the implementation of {op} is no function but {type(implementation).__name__}")
    parameters = inspect.signature(getattr(importlib.import_module(OPS[op]), op)).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind is not parameter.KEYWORD_ONLY]
    try:
        inspect.signature(implementation).bind(*names)
    except TypeError as error:
        wanted = ", ".join(names)
        raise ValueError(f"the implementation of {op} must take ({wanted}) by position: {error}") from error

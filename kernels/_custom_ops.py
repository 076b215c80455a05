"""Registers users' custom implementations of ops under the name of a backend."""

import importlib
import inspect
import threading
from collections.abc import Callable, Mapping
from typing import Any

BUILT_IN = ("auto", "torch", "triton")
# Maps each op to the module of its public function. The function has the op's name.
OPS = {
    "memory_attention": "sam2fast.kernels.memory_attention",
    "rope_attention": "sam2fast.kernels.memory_attention",
    "window_attention": "sam2fast.kernels.window_attention",
}

Implementation = Callable[..., Any]

# Maps the name of each custom backend and op to an implementation. Changes replace the whole mapping, so readers need
# no lock.
registered: Mapping[str, Mapping[str, Implementation]] = {}
# Number of changes that register_op and unregister_op made to ``registered``. The keys of CUDA graphs contain this
# number, since graphs contain implementations.
changes = 0
_lock = threading.Lock()


def register_op(op: str, implementation: Implementation, name: str) -> None:
    """Registers an implementation of an op. Threads with the active backend ``name`` run this implementation.

    Afterwards ``backend(name)`` and ``SAM2FAST_BACKEND`` accept the name. Ops without an implementation for this
    backend run as with ``auto``.

    Args:
        op: ``memory_attention``, ``rope_attention`` or ``window_attention``.
        implementation: Function with the positional arguments and results of the op's public function. Arguments are
            checked before the call. ``torch.compile`` traces the function, or keeps a ``torch.library.custom_op`` as
            one node.
        name: Name of the backend. The backend may already have implementations of other ops.

    Raises:
        ValueError: If the op does not exist, the name is a built-in backend, the backend already implements this op, or
            the implementation does not take the op's arguments. Nothing is registered.
    """
    global registered, changes
    if op not in OPS:
        raise ValueError(f"the op {op!r} has no custom implementations; expected one of {', '.join(OPS)}")
    if not name or name in BUILT_IN:
        raise ValueError(f"{name!r} cannot name a custom backend; use a name other than {', '.join(BUILT_IN)}")
    _check_signature(op, implementation)
    with _lock:
        ops = registered.get(name, {})
        if op in ops:
            raise ValueError(f"the backend {name!r} already has {op}; call unregister_op({op!r}, {name!r}) first")
        registered = {**registered, name: {**ops, op: implementation}}
        changes += 1


def unregister_op(op: str, name: str) -> None:
    """Removes an implementation that :func:`register_op` registered. A backend without implementations is removed too.

    If the backend is still active, the op runs as with ``auto``.

    Raises:
        ValueError: If the backend has no implementation of this op.
    """
    global registered, changes
    with _lock:
        ops = registered.get(name, {})
        if op not in ops:
            raise ValueError(f"the backend {name!r} has no implementation of {op}")
        left = {other: implementation for other, implementation in ops.items() if other != op}
        others = {other: ops for other, ops in registered.items() if other != name}
        registered = {**others, name: left} if left else others
        changes += 1


def _check_signature(op: str, implementation: Implementation) -> None:
    if not callable(implementation):
        raise ValueError(f"expected a function as the implementation of {op}, got {type(implementation).__name__}")
    parameters = inspect.signature(getattr(importlib.import_module(OPS[op]), op)).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind is not parameter.KEYWORD_ONLY]
    try:
        inspect.signature(implementation).bind(*names)
    except TypeError as error:
        expected = ", ".join(names)
        raise ValueError(f"the implementation of {op} must accept ({expected}) by position: {error}") from error

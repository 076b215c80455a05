"""Overrides ops inside a ``with`` block."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sam2fast.kernels._custom_ops import register_op, unregister_op
from sam2fast.kernels._dispatch import backend


@contextmanager
def override_op(op: str, implementation: Callable[..., Any], name: str = "own") -> Iterator[None]:
    """Context manager that makes ``implementation`` compute ``op`` in this thread. Other ops run as with ``auto``.

    Inside ``with backend("auto")``, the implementation may call the op's public function, for example to observe or
    change arguments and results.

    Raises:
        ValueError: See :func:`register_op`.
    """
    register_op(op, implementation, name)
    try:
        with backend(name):
            yield
    finally:
        unregister_op(op, name)

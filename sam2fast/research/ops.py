"""An op of one's own for the length of a block."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sam2fast.kernels._dispatch import backend
from sam2fast.kernels._own_ops import register_op, unregister_op


@contextmanager
def own_op(op: str, implementation: Callable[..., Any], name: str = "own") -> Iterator[None]:
    """Inside, ``op`` is computed by ``implementation`` in this thread; other ops run as under ``auto``.

    The implementation may call the op's public function inside ``with backend("auto")``, to look on or to change
    something.

    Raises:
        ValueError: as :func:`register_op`.
    """
    register_op(op, implementation, name)
    try:
        with backend(name):
            yield
    finally:
        unregister_op(op, name)

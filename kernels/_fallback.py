"""Runs the reference implementation where a kernel does not compile for the GPU or does not fit on it."""

import functools
import logging
import subprocess
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from sam2fast.kernels._dispatch import backend, current_backend, interpreting

_log = logging.getLogger(__name__)

# Kernels that failed in this process, by op, device, dtypes and kind of shape. They are not tried again.
refused: set[Hashable] = set()


def with_fallback(
    op: str,
    kernel: Callable[..., Any],
    reference: Callable[..., Any] | None = None,
    kind: Callable[..., Hashable] | None = None,
) -> Callable[..., Any]:
    """A function that computes by ``kernel``, and where that fails by ``reference``, with one warning.

    With the backend ``triton`` errors are raised.

    Args:
        op: its name in the warning.
        kernel: the op; what it raises while Triton compiles and launches a kernel is an obstacle of this GPU.
        reference: takes the same arguments. None for a ``kernel`` that chooses its implementation when it runs.
        kind: returns the sizes that kernels are compiled for. Kernels are refused for each of them.
    """

    @functools.wraps(kernel)
    def compute(*arguments: Any) -> Any:
        if current_backend() == "triton":
            return kernel(*arguments)
        if not refused or _key(op, kind, arguments) not in refused:
            try:
                return kernel(*arguments)
            except Exception as error:
                if not (_may_launch(arguments) and _is_obstacle(error)):
                    raise
                refused.add(_key(op, kind, arguments))
                _log.warning(
                    "the kernel of %s does not run on this GPU, so that its reference implementation in torch does: "
                    "%s: %s", op, type(error).__name__, error,
                )  # fmt: skip
        if reference is not None:
            return reference(*arguments)
        with backend("torch"):
            return kernel(*arguments)

    return compute


def _may_launch(arguments: tuple[Any, ...]) -> bool:
    """Whether a kernel can have run for these; elsewhere the error is that of the reference implementation."""
    return interpreting() or any(isinstance(x, Tensor) and x.is_cuda for x in arguments)


def _key(op: str, kind: Callable[..., Hashable] | None, arguments: tuple[Any, ...]) -> Hashable:
    tensors = [x for x in arguments if isinstance(x, Tensor)]
    return op, tensors[0].device, tuple(x.dtype for x in tensors), kind and kind(*arguments)


def _is_obstacle(error: Exception) -> bool:
    """Whether Triton, its compilers or the driver raised this for a kernel; without memory everything fails."""
    if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error):
        return False
    # Triton's own errors, as of a compilation or too little shared memory, have no public base class. Passes of the
    # compiler and launches raise RuntimeError, the build of a launcher the other two.
    is_of_triton = type(error).__module__.partition(".")[0] == "triton"
    return is_of_triton or isinstance(error, RuntimeError | OSError | subprocess.SubprocessError)

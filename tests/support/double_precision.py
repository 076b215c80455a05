"""Runs code that insists on fp32 in fp64.

Gradients of a ReLU or a threshold jump: those of two correct fp32 networks differ by a thousandth here and there.
"""

import contextlib
from collections.abc import Iterator
from unittest.mock import patch

import torch


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """Returns a context manager in which ``torch.float32``, ``Tensor.float`` and the default dtype are fp64."""
    default = torch.get_default_dtype()
    dtypes = patch.multiple(torch, float32=torch.float64, float=torch.float64)
    with dtypes, patch.object(torch.Tensor, "float", torch.Tensor.double):
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(default)

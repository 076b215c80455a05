"""Runs code that insists on fp32 in fp64.

Gradients of a ReLU or a threshold jump: those of two correct fp32 networks differ by a thousandth here and there.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """Inside, ``torch.float32``, ``Tensor.float`` and the default dtype are fp64."""
    torch_: Any = torch
    kept = torch_.float32, torch_.float, torch.Tensor.float, torch.get_default_dtype()
    torch_.float32 = torch_.float = torch.float64
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch_.float32, torch_.float = kept[:2]
        torch.Tensor.float = kept[2]  # type: ignore[method-assign]
        torch.set_default_dtype(kept[3])

"""Compares results, for tests and benchmarks."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


def relative_error(expected: Any, actual: Any) -> float:
    """Computes the parity metric ``max |a - b| / (mean |a| + std a)``, or 0 for empty inputs.

    Raises:
        ValueError: If shapes differ.
    """
    a, b = _float64(expected), _float64(actual)
    if a.shape != b.shape:
        raise ValueError(f"shapes {tuple(a.shape)} and {tuple(b.shape)} differ")
    if a.numel() == 0:
        return 0.0
    scale = a.abs().mean() + a.std(correction=0)
    # Unlike Python's max(), torch's max() propagates NaN, and NaN fails every comparison.
    return float((a - b).abs().max() / scale)


def _float64(x: Any) -> Tensor:
    return x.detach().double() if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x)).double()


def mask_iou(a: Any, b: Any) -> float:
    """Computes the IoU of two masks, or 1 for two empty masks."""
    a, b = torch.as_tensor(a) > 0, torch.as_tensor(b) > 0
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0


def assert_as_accurate_as(
    reference: Callable[..., Tensor], out: Tensor, *inputs: Tensor, slack: float = 2.0, floor: float = 1e-6
) -> None:
    """Asserts that the error of ``out`` is at most ``slack`` times the error of ``reference``, plus ``floor``.

    Errors are maximum differences from the result of ``reference`` in fp64. The error of ``reference`` is the error of
    its result in the dtype of inputs.
    """
    exact = reference(*(x.double() for x in inputs))
    allowed = slack * (reference(*inputs).double() - exact).abs().max() + floor
    error = (out.double() - exact).abs().max()
    if not error <= allowed:  # python -O would remove an assert statement
        raise AssertionError(f"max error {error:.2e}, allowed {allowed:.2e}")

"""Comparisons shared by tests and benchmarks."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


def relative_error(expected: Any, actual: Any) -> float:
    """``max |a - b| / (mean |a| + std a)``, the parity metric; 0 of empty ones. Raises ValueError if shapes differ."""
    a, b = _float64(expected), _float64(actual)
    if a.shape != b.shape:
        raise ValueError(f"shapes {tuple(a.shape)} and {tuple(b.shape)} differ")
    if a.numel() == 0:
        return 0.0
    scale = a.abs().mean() + a.std(correction=0)
    # Not Python's max(): a NaN must stay NaN, which fails every comparison.
    return float((a - b).abs().max() / scale)


def _float64(x: Any) -> Tensor:
    return x.detach().double() if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x)).double()


def mask_iou(a: Any, b: Any) -> float:
    """Intersection over union of two masks; 1 if both are empty."""
    a, b = torch.as_tensor(a) > 0, torch.as_tensor(b) > 0
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0


def assert_as_accurate_as(
    reference: Callable[..., Tensor], out: Tensor, *inputs: Tensor, slack: float = 2.0, floor: float = 1e-6
) -> None:
    """``out`` may be at most ``slack`` times as far from float64 as ``reference`` is at the inputs' own dtype."""
    exact = reference(*(x.double() for x in inputs))
    allowed = slack * (reference(*inputs).double() - exact).abs().max() + floor
    error = (out.double() - exact).abs().max()
    if not error <= allowed:  # no assert statement, which python -O leaves out
        raise AssertionError(f"max error {error:.2e}, allowed {allowed:.2e}")

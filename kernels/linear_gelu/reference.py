"""Reference implementation of a linear layer followed by GELU."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.kernels._cpu import linear


def linear_gelu_reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Reference implementation of :func:`linear_gelu`: a matrix multiplication, then GELU of its rounded result."""
    hidden = linear(x, weight, bias)
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.gelu(hidden)
    return torch.ops.aten.gelu_(hidden)

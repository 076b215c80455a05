"""Computes MLPs of three layers, one per token: the heads of a mask decoder, and the object pointers."""

import torch
from torch import Tensor

from sam2fast.kernels._dispatch import FLOATS
from sam2fast.kernels._launch import is_hopper
from sam2fast.kernels._op import Op

__all__ = ["grouped_mlp", "grouped_mlp_reference"]

WIDEST = 512  # channels, of which a program holds whole rows


def grouped_mlp(
    x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, weight3: Tensor, bias3: Tensor
) -> Tensor:
    """Computes three linear layers with ReLU between them, with separate weights for each of G tokens.

    Args:
        x: ``(B, G, K)``, any float dtype.
        weight1, bias1: ``(G, L, K)`` and ``(G, L)``.
        weight2, bias2: ``(G, M, L)`` and ``(G, M)``.
        weight3, bias3: ``(G, N, M)`` and ``(G, N)``, all weights of one dtype.

    Returns:
        ``(B, G, N)`` in the dtype of the weights, to which each layer's result is rounded.

    Raises:
        ValueError: If the shapes do not fit together.
    """
    layers = (weight1, bias1), (weight2, bias2), (weight3, bias3)
    G, width = x.shape[1:] if x.ndim == 3 else (-1, -1)
    for weight, bias in layers:
        if weight.ndim != 3 or bias.shape != weight.shape[:2] or (weight.shape[0], weight.shape[2]) != (G, width):
            shapes = ", ".join(f"{tuple(w.shape)} and {tuple(b.shape)}" for w, b in layers)
            raise ValueError(
                f"expected x (B, G, K) and layers (G, L, K) and (G, L), (G, M, L) and (G, M), (G, N, M) and (G, N), "
                f"got {tuple(x.shape)} and {shapes}"
            )
        width = weight.shape[1]
    return _grouped_mlp(x, weight1, bias1, weight2, bias2, weight3, bias3)


# ---- reference implementation ----


def grouped_mlp_reference(
    x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, weight3: Tensor, bias3: Tensor
) -> Tensor:
    """Reference implementation of :func:`grouped_mlp`: each layer is a batch of matrix multiplications."""
    y = x.to(weight1.dtype).transpose(0, 1)
    y = torch.baddbmm(bias1.unsqueeze(1), y, weight1.mT).relu()
    y = torch.baddbmm(bias2.unsqueeze(1), y, weight2.mT).relu()
    return torch.baddbmm(bias3.unsqueeze(1), y, weight3.mT).transpose(0, 1)


# ---- operator ----


def _prefers_torch(x: Tensor, *parameters: Tensor) -> bool:
    """Returns True if one program would read all weights: on an H100 in fp32, 27 us instead of torch's 17."""
    is_single = x.shape[0] * x.shape[1] == 1
    return is_single and parameters[0].dtype == torch.float32 and is_hopper(x.device)


def _unsupported(x: Tensor, *parameters: Tensor) -> str | None:
    if torch.is_autocast_enabled(x.device.type):
        return "leaves products under autocast to torch"
    if len({each.dtype for each in parameters}) > 1:
        return "takes weights of one dtype"
    if wrong := [each.dtype for each in (x, parameters[0]) if each.dtype not in FLOATS]:
        return f"does not take {wrong[0]}"
    widest = max(x.shape[2], parameters[2].shape[1])
    return f"takes at most {WIDEST} channels, and got {widest}" if widest > WIDEST else None


_grouped_mlp = Op(
    "grouped_mlp",
    grouped_mlp_reference,
    "grouped_mlp_triton.grouped_mlp_triton",
    unsupported=_unsupported,
    prefers_torch=_prefers_torch,
    kind=lambda x, _1, _2, weight2, *_: (x.shape[2], weight2.shape[1]),
)

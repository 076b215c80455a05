"""MLPs of three layers, one for each token: the heads of a mask decoder, and the object pointers."""

import torch
from torch import Tensor

from sam2fast.kernels._dispatch import FLOATS
from sam2fast.kernels._op import Op

__all__ = ["grouped_mlp", "grouped_mlp_reference"]

WIDEST = 512  # channels, of which a program holds whole rows


def grouped_mlp(
    x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, weight3: Tensor, bias3: Tensor
) -> Tensor:
    """Three linear layers with ReLU between them, with weights of its own for each of G tokens.

    Args:
        x: ``(B, G, K)`` of any float dtype.
        weight1, bias1: ``(G, L, K)`` and ``(G, L)``.
        weight2, bias2: ``(G, M, L)`` and ``(G, M)``.
        weight3, bias3: ``(G, N, M)`` and ``(G, N)``, all weights of one dtype.

    Returns:
        ``(B, G, N)`` in the dtype of the weights, to which each layer's result is rounded.

    Raises:
        ValueError: the shapes do not fit together.
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
    kind=lambda x, _1, _2, weight2, *_: (x.shape[2], weight2.shape[1]),
)

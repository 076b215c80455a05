"""Computes a three-layer MLP per token, for the heads of a mask decoder and for object pointers."""

import torch
from torch import Tensor

from sam2fast.kernels._launch import is_hopper
from sam2fast.kernels._op import op, why_unsupported

__all__ = ["grouped_mlp", "grouped_mlp_reference"]

WIDEST = 512  # maximum number of channels: a program of the kernel processes all channels of a token


def _prefers_torch(x: Tensor, *parameters: Tensor) -> bool:
    """Returns True for a single token in fp32 on Hopper.

    For one token, a single program of the kernel reads all weights. On an H100, the kernel takes 27 us, torch 17 us.
    """
    is_single = x.shape[0] * x.shape[1] == 1
    return is_single and parameters[0].dtype == torch.float32 and is_hopper(x.device)


def _unsupported(x: Tensor, *parameters: Tensor) -> str | None:
    channels = max(x.shape[2], parameters[2].shape[1])
    return why_unsupported(x, *parameters, leaves="products", alike=parameters, channels=channels, widest=WIDEST)


@op(
    shapes=(
        "x (B, G, K) and layers weight1 (G, L, K), bias1 (G, L), weight2 (G, M, L), bias2 (G, M), weight3 (G, N, M), "
        "bias3 (G, N)"
    ),
    unsupported=_unsupported,
    prefers_torch=_prefers_torch,
    compile_key=lambda x, _1, _2, weight2, *_: (x.shape[2], weight2.shape[1]),
)
def grouped_mlp(
    x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, weight3: Tensor, bias3: Tensor
) -> Tensor:
    """Computes three linear layers with ReLU between them, with separate weights for each of G tokens.

    All weights and biases share one dtype. The outputs of the first two layers are rounded to the weights' dtype.

    Args:
        x: Tokens ``(B, G, K)`` of any float dtype.
        weight1, bias1: Weight ``(G, L, K)`` and bias ``(G, L)`` of the first layer.
        weight2, bias2: Weight ``(G, M, L)`` and bias ``(G, M)`` of the second layer.
        weight3, bias3: Weight ``(G, N, M)`` and bias ``(G, N)`` of the third layer.

    Returns:
        Tensor ``(B, G, N)`` in fp32 (fp64 for fp64 weights).

    Raises:
        ValueError: If the shapes do not match.
    """
    y = x.to(weight1.dtype).transpose(0, 1)
    y = torch.baddbmm(bias1.unsqueeze(1), y, weight1.mT).relu()
    y = torch.baddbmm(bias2.unsqueeze(1), y, weight2.mT).relu()
    y = torch.baddbmm(bias3.unsqueeze(1), y, weight3.mT).transpose(0, 1)
    return y.to(torch.promote_types(torch.float32, y.dtype))


grouped_mlp_reference = grouped_mlp.reference

"""Embeds image patches as tokens: computes Hiera's 7x7 convolution with stride 4, and adds position embeddings."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sam2fast.kernels._cpu import conv2d
from sam2fast.kernels._op import op, why_unsupported
from sam2fast.kernels.preprocess import resize_and_normalise_reference

__all__ = ["embed_patches", "embed_patches_reference"]

SIDE, STRIDE, PADDING = 7, 4, 3  # kernel size, stride and padding of the convolution
WHITE = 255.0
WIDEST = 256  # maximum number of output channels: a program of the kernel computes all channels of a token


def _fits(
    pixels: Tensor, weight: object, bias: object, position: Tensor, mean: Sequence[float], std: Sequence[float]
) -> bool:
    count = 3 if pixels.dtype == torch.uint8 else 0
    if not len(mean) == len(std) == count:
        raise ValueError(
            f"expected {count} numbers in mean and in std for {pixels.dtype}, got {len(mean)} and {len(std)}"
        )
    return all(n == -(-side // STRIDE) for n, side in zip(position.shape, pixels.shape[1:3], strict=False))


def _unsupported(pixels: Tensor, weight: Tensor, *rest: object) -> str | None:
    H, W, C = pixels.shape[1], pixels.shape[2], weight.shape[-1]
    floats = [weight, *rest] if pixels.dtype == torch.uint8 else [pixels, weight, *rest]
    reason = why_unsupported(*floats, leaves="products", channels=C, widest=WIDEST)
    if reason is None and (H % STRIDE or W % STRIDE):
        return f"supports only sides that are multiples of {STRIDE}, got {H} and {W}"
    return reason


@op(
    shapes=(
        f"pixels (B, H, W, 3), weight ({SIDE}, {SIDE}, 3, C), bias (C) and position (H / {STRIDE}, W / {STRIDE}, C)"
    ),
    fits=_fits,
    unsupported=_unsupported,
    fake=lambda pixels, weight, bias, position, *_: weight.new_empty(len(pixels), *position.shape),
    compile_key=lambda pixels, weight, *_: weight.shape[-1],
)
def embed_patches(
    pixels: Tensor,
    weight: Tensor,
    bias: Tensor,
    position: Tensor,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> Tensor:
    """Normalizes pixels, computes a convolution with padding 3 and stride 4, and adds a position embedding.

    Images are padded with zeros after normalization.

    Args:
        pixels: Pixels ``(B, H, W, 3)``, either uint8, or normalized pixels of any float dtype.
        weight: Weight of the convolution, permuted to ``(7, 7, 3, C)``.
        bias: Bias ``(C)`` of the convolution.
        position: Position embedding ``(h, w, C)`` with ``h = ceil(H / 4)`` and ``w = ceil(W / 4)``.
        mean, std: For uint8 ``pixels``, three means and three standard deviations of pixels / 255. For other dtypes,
            empty.

    Returns:
        Tokens ``(B, h, w, C)`` in the dtype of ``weight``.

    Raises:
        ValueError: If the shapes do not match, or ``mean`` and ``std`` have the wrong length.
    """
    if pixels.dtype == torch.uint8:
        images = resize_and_normalise_reference(pixels, (pixels.shape[1], pixels.shape[2]), mean, std, WHITE)
    else:
        images = pixels.permute(0, 3, 1, 2)
    kernel = weight.permute(3, 2, 0, 1).contiguous()
    x = conv2d(images.to(weight.dtype, memory_format=torch.channels_last), kernel, bias, STRIDE, PADDING)
    return (x.permute(0, 2, 3, 1) + position).to(weight.dtype).contiguous()


embed_patches_reference = embed_patches.reference

"""Embeds the patches of an image as tokens: Hiera's 7x7 convolution of stride 4, and the position embedding."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sam2fast.kernels._cpu import conv2d
from sam2fast.kernels._dispatch import FLOATS
from sam2fast.kernels._op import Op
from sam2fast.kernels.preprocess import resize_and_normalise_reference

__all__ = ["embed_patches", "embed_patches_reference"]

SIDE, STRIDE, PADDING = 7, 4, 3  # of the convolution
WHITE = 255.0
WIDEST = 256  # channels, all of which a program computes


def embed_patches(
    pixels: Tensor,
    weight: Tensor,
    bias: Tensor,
    position: Tensor,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> Tensor:
    """Normalizes pixels, convolves them with padding 3 and stride 4, and adds a position embedding.

    Padding is zero after normalization.

    Args:
        pixels: ``(B, H, W, 3)``, either uint8, or normalized and of any float dtype.
        weight: ``(7, 7, 3, C)``, the weight ``(C, 3, 7, 7)`` of a convolution with its axes in another order.
        bias: ``(C)``.
        position: ``(h, w, C)`` with ``h = ceil(H / 4)`` and ``w = ceil(W / 4)``.
        mean, std: Three numbers each for uint8 pixels, which are divided by 255 first; otherwise none.

    Returns:
        Tokens ``(B, h, w, C)`` in the dtype of ``weight``.

    Raises:
        ValueError: If the shapes do not fit together, or there are no numbers to normalize uint8 pixels.
    """
    h, w = (-(-side // STRIDE) for side in pixels.shape[1:3]) if pixels.ndim == 4 else (0, 0)
    C = bias.shape[-1] if bias.ndim else 0
    fits = (*pixels.shape[3:], *bias.shape) == (3, C) and weight.shape == (SIDE, SIDE, 3, C)
    if not fits or position.shape != (h, w, C):
        shapes = ", ".join(str(tuple(each.shape)) for each in (pixels, weight, bias, position))
        raise ValueError(
            f"expected pixels (B, H, W, 3), weight ({SIDE}, {SIDE}, 3, C), bias (C) and position (H / {STRIDE}, "
            f"W / {STRIDE}, C), got {shapes}"
        )
    count = 3 if pixels.dtype == torch.uint8 else 0
    if not len(mean) == len(std) == count:
        raise ValueError(
            f"expected {count} numbers in mean and in std for {pixels.dtype}, got {len(mean)} and {len(std)}"
        )
    return _embed_patches(pixels, weight, bias, position, list(mean), list(std))


# ---- reference implementation ----


def embed_patches_reference(
    pixels: Tensor, weight: Tensor, bias: Tensor, position: Tensor, mean: list[float], std: list[float]
) -> Tensor:
    """Reference implementation of :func:`embed_patches`: one operation after the other."""
    if pixels.dtype == torch.uint8:
        images = resize_and_normalise_reference(pixels, (pixels.shape[1], pixels.shape[2]), mean, std, WHITE)
    else:
        images = pixels.permute(0, 3, 1, 2)
    kernel = weight.permute(3, 2, 0, 1).contiguous()
    x = conv2d(images.to(weight.dtype, memory_format=torch.channels_last), kernel, bias, STRIDE, PADDING)
    return (x.permute(0, 2, 3, 1) + position).to(weight.dtype).contiguous()


# ---- operator ----


def _fake(
    pixels: Tensor, weight: Tensor, bias: Tensor, position: Tensor, mean: list[float], std: list[float]
) -> Tensor:
    return weight.new_empty(len(pixels), *position.shape)


def _unsupported(pixels: Tensor, weight: Tensor, *rest: object) -> str | None:
    floats = [each.dtype for each in (pixels, weight, *rest) if isinstance(each, Tensor) and each.dtype != torch.uint8]
    if torch.is_autocast_enabled(pixels.device.type):
        return "leaves products under autocast to torch"
    if wrong := [dtype for dtype in floats if dtype not in FLOATS]:
        return f"does not take {wrong[0]}"
    H, W, C = pixels.shape[1], pixels.shape[2], weight.shape[-1]
    if H % STRIDE or W % STRIDE:
        return f"takes sides that are multiples of {STRIDE}, and got {H} and {W}"
    return f"takes at most {WIDEST} channels, and got {C}" if C > WIDEST else None


_embed_patches = Op(
    "embed_patches",
    embed_patches_reference,
    "embed_patches_triton.embed_patches_triton",
    unsupported=_unsupported,
    fake=_fake,
    kind=lambda pixels, weight, *_: weight.shape[-1],
)

"""Upscales image tokens to mask logits at four times their resolution."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from sam2fast.kernels._cpu import is_cpu_inference, linear
from sam2fast.modeling.constants import TensorCache
from sam2fast.modeling.layers import LayerNorm2d, as_computed, computed_dtype, is_normed_gelu


class Upscaling:
    """The mask decoder's ``output_upscaling`` for the prompts of one call.

    A transposed convolution whose kernel size equals its stride is a matrix multiplication at every position with a
    block of 2x2 results. Blocks stay contiguous, ``(H, W, 2, 2, C)`` and then ``(H, W, 2, 2, 2, 2, C)``, until the
    masks are made.

    Args:
        layers: convolution C to C/4, norm, activation, convolution to C/8, activation.
        size: H and W of the image tokens.
        finer: features added after the convolutions, ``(B or 1, C/4, 2H, 2W)`` and ``(B or 1, C/8, 4H, 4W)``, or
            none.
        prompts: number of prompts.
        products: keeps the convolutions' weights as matrices.
    """

    def __init__(
        self,
        layers: nn.Sequential,
        size: tuple[int, int],
        finer: Sequence[Tensor],
        prompts: int,
        products: TensorCache[tuple[Tensor, ...]],
    ) -> None:
        self._size = size
        first, self._norm, self._act1, second, self._act2 = layers
        parameters = tuple(x for layer in (first, second) for x in layer.parameters())
        found = products(None, parameters, lambda: (*_as_product(first), *_as_product(second)))
        self._first, self._second = found[:2], found[2:]
        blocks = [_in_blocks(x, size) for x in finer]
        # Contiguous if all prompts read it; a copy does not pay for a single prompt.
        self._finer = [x.contiguous() if len(x) == 1 < prompts else x for x in blocks]

    def masks(self, tokens: Tensor, weights: Tensor, prompts: slice) -> Tensor:
        """Logits ``(b, M, 4H, 4W)`` fp32 of some of the prompts.

        Args:
            tokens: ``(b, HW, C)``.
            weights: ``(b, M, C/8)`` fp32, of each mask.
        """
        finer = [x if len(x) == 1 else x[prompts] for x in self._finer]
        x = _expand(tokens.unflatten(1, self._size), self._first)
        x = add_into(x, finer[0]) if finer else x
        if is_normed_gelu(self._norm, self._act1):
            hidden = cast(LayerNorm2d, self._norm).normalize(x, computed_dtype(self._second[0]), gelu=True)
        else:
            hidden = self._act1(self._norm(x.flatten(1, 3).movedim(-1, 1)).movedim(1, -1)).reshape(x.shape)
        x = _expand(hidden, self._second)
        x = self._act2(add_into(x, finer[1]) if finer else x)
        with torch.autocast(x.device.type, enabled=False):
            return _in_rows(weights @ x.float().flatten(1, -2).mT, self._size)


def add_into(fresh: Tensor, x: Tensor) -> Tensor:
    """``fresh + x``, in place if ``fresh`` has the dtype of the sum; nobody else may use ``fresh``."""
    return fresh.add_(x) if fresh.dtype == torch.promote_types(fresh.dtype, x.dtype) else fresh + x


def _as_product(convolution: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight ``(4 * C_out, C)`` and bias ``(4 * C_out)`` of a block of 2x2."""
    assert isinstance(convolution, nn.ConvTranspose2d) and convolution.bias is not None
    return convolution.weight.permute(2, 3, 1, 0).flatten(0, 2), convolution.bias.repeat(4)


def _expand(x: Tensor, product: tuple[Tensor, ...]) -> Tensor:
    """``(..., C)`` to ``(..., 2, 2, C_out)``."""
    weight, bias = product
    return linear(as_computed(x, weight), weight, bias).unflatten(-1, (2, 2, -1))


def _in_blocks(x: Tensor, size: tuple[int, int]) -> Tensor:
    """A view of ``(b, C, sH, sW)``, s a power of two, as ``(b, H, W, 2, 2, ..., C)``, the coarsest blocks first."""
    levels = (x.shape[2] // size[0]).bit_length() - 1
    x = x.unflatten(3, (size[1], *[2] * levels)).unflatten(2, (size[0], *[2] * levels))
    rows, columns = range(2, 3 + levels), range(3 + levels, 4 + 2 * levels)
    pairs = [axis for pair in zip(rows, columns, strict=True) for axis in pair]
    return x.permute(0, *pairs, 1)


def _in_rows(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """``(b, M, H * W * 16)`` in blocks to ``(b, M, 4H, 4W)``."""
    b, M, _ = masks.shape
    x = masks.unflatten(2, (*size, 2, 2, 2, 2))
    if is_cpu_inference(masks):
        # Pairs of neighbours move as one complex number, in half the time.
        x = torch.view_as_real(torch.view_as_complex(x).permute(0, 1, 2, 4, 6, 3, 5).contiguous())
    else:
        x = x.permute(0, 1, 2, 4, 6, 3, 5, 7)
    return x.reshape(b, M, 4 * size[0], 4 * size[1])

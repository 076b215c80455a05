"""Attention between the many positions of an image and a few tokens, usually without projecting the image.

With an image ``x (P, C)``, tokens ``y (T, C)`` and heads of width d, scores are ``(W_q y) . (W_k x)`` head by head.
With few tokens it is cheaper to fold ``W_k`` into the tokens, ``(W_k^T W_q y) . x``: one product of x with ``heads *
T`` vectors of width C instead of a projection of every position. In the same way, weighted sums are taken of x itself
and projected afterwards. In the other direction, tokens' values pass through the output projection before they are
summed.

Images are split into chunks ``(b, P, C)`` that are computed one after the other: see :func:`image_chunks`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.grad import conv2d_weight

from sam2fast.kernels._cpu import is_cpu_inference, linear
from sam2fast.modeling.attention import Attention
from sam2fast.modeling.layers import project
from sam2fast.modeling.standard import standard

# Up to this exponent, sums of thousands of exponentials are far from fp32's limits.
SAFE_EXPONENT = 64.0


class FoldedTokens(NamedTuple):
    """Tokens with the image's projections folded into them: one row for each token of each head."""

    keys: Tensor  # (B, heads * T, C), or (B, heads * T, D) for an image projected to the inner dimension
    offsets: Tensor  # (B, heads * T), the scores' part from the bias of the image's projection
    values: Tensor  # (B, heads * T, C), after the output projection

    def split(self, count: int) -> list["FoldedTokens"]:
        """The same for each of ``count`` chunks of images."""
        size = len(self.keys) // count
        return [FoldedTokens(*parts) for parts in zip(*(x.split(size) for x in self), strict=True)]


@standard
class CrossAttention(Attention):
    """:class:`Attention` with images on its many side; its results are those of ``forward`` but for rounding."""

    def should_fold(self, tokens: int) -> bool:
        """Whether folded projections need fewer multiplications per image position.

        Folded, each head of each token is a vector of the outer dimension. Otherwise the position is projected once,
        and a token is a vector of the inner dimension. On GPUs nothing is folded: there the time is that of starting
        kernels, of which folding needs three times as many, since attention itself is one.
        """
        if not is_on_cpu(self.q_proj.weight):
            return False
        if self.training and self.dropout_p:
            return False
        if not isinstance(tokens, int):  # symbolic in a graph for export, which must choose once for any number
            return False
        inner, outer = self.q_proj.weight.shape
        return tokens * self.num_heads * outer < inner * outer + tokens * inner

    def tokens_to_image(self, tokens: Tensor, images: Sequence[Tensor], pe: Tensor) -> Tensor:
        """``forward(tokens, image + pe, image)``, folded, for ``tokens (B, T, C)``."""
        query = self._separate_heads(project(self.q_proj, tokens), self.num_heads) * self._scale  # (B, heads, T, d)
        folded = (query @ self._by_head(self.k_proj.weight)).flatten(1, 2)  # (B, heads * T, C)
        offsets = (query @ self._by_head(self.k_proj.bias)[..., None])[..., 0].flatten(1)
        size = len(folded) // len(images)
        parts = zip(images, folded.split(size), offsets.split(size), strict=True)
        sums = torch.cat([self._sums(x, pe, *part) for x, *part in parts])  # (B, heads * T, C)
        out = sums.unflatten(1, (self.num_heads, -1)) @ self._by_head(self.v_proj.weight).mT
        return self.out_proj(self._recombine_heads(out + self._by_head(self.v_proj.bias)[:, None]))

    def _sums(self, image: Tensor, pe: Tensor, keys: Tensor, offsets: Tensor) -> Tensor:
        # Offsets add the same to all scores of a token, so softmax ignores them. They only have a gradient, of zero.
        scores = _product((image + pe).to(keys.dtype), keys, offsets if torch.is_grad_enabled() else None)
        return _weighted_sums(scores.float().softmax(dim=1).to(keys.dtype), image.to(keys.dtype))

    def fold(self, keys: Tensor, values: Tensor, projected: bool = False) -> FoldedTokens:
        """Tokens ``keys, values (B, T, C)`` for :meth:`read` by an image, or by ``q_proj`` of one if ``projected``."""
        keys = self._separate_heads(project(self.k_proj, keys), self.num_heads) * self._scale  # (B, heads, T, d)
        if projected:
            head_mask = torch.eye(self.num_heads, dtype=keys.dtype, device=keys.device)[:, None, :, None]
            folded, offsets = (keys[:, :, :, None] * head_mask).flatten(3), torch.zeros_like(keys[..., 0])
        else:
            folded = keys @ self._by_head(self.q_proj.weight)
            offsets = (keys @ self._by_head(self.q_proj.bias)[..., None])[..., 0]
        values = self._separate_heads(project(self.v_proj, values), self.num_heads)
        values = values @ self._by_head(self.out_proj.weight.t())
        return FoldedTokens(folded.flatten(1, 2), offsets.flatten(1), values.flatten(1, 2))

    def read(self, image: Tensor, tokens: FoldedTokens) -> Tensor:
        """``forward(image, keys, values)``, ``(b, P, C)``, of folded tokens and an image ``(b or 1, P, .)``."""
        scores = _product(image.to(tokens.keys.dtype), tokens.keys, tokens.offsets).float()
        weights = _softmax_of_few(scores.unflatten(2, (self.num_heads, -1))).flatten(2)
        return _product(weights.to(tokens.values.dtype), tokens.values.mT, self.out_proj.bias[None])

    def _by_head(self, parameter: Tensor) -> Tensor:
        return parameter.unflatten(0, (self.num_heads, -1))

    @property
    def _scale(self) -> float:
        return float((self.internal_dim // self.num_heads) ** -0.5)


def is_on_cpu(weight: Tensor) -> bool:
    """Whether attention of few tokens is computed from products, rather than by a kernel."""
    return weight.is_cpu


def image_chunks(images: Tensor, prompts: int) -> list[Tensor]:
    """Splits images ``(B or 1, P, C)`` of B prompts into chunks to be computed one after the other.

    On the CPU a chunk is one prompt's image, whose intermediate results fit the cache. Elsewhere, and for autograd and
    compilers, it is all of them.
    """
    if prompts == 0 or not is_cpu_inference(images):
        return [images]
    return [images] * prompts if len(images) == 1 else list(images.split(1))


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x (b or 1, P, K)`` times ``weight (b, N, K)``, transposed, plus ``bias (b or 1, N)``: ``(b, P, N)``."""
    if len(weight) == 1 and is_cpu_inference(x):
        return linear(x, weight[0], None if bias is None else bias[0])
    out = x @ weight.mT
    return out if bias is None else out + bias[:, None]


def _weighted_sums(weights: Tensor, x: Tensor) -> Tensor:
    """``weights (b, P, N)``, transposed, times ``x (b or 1, P, K)``: ``(b, N, K)``.

    On the CPU in fp32 it is computed as the weight gradient of a 1x1 convolution, in half the time of torch's matrix
    multiplication, for the same reason as in :func:`linear`.
    """
    positions = x.shape[1]
    simple = len(weights) != 1 or x.dtype != torch.float32 or positions % 16 or torch.is_autocast_enabled("cpu")
    if simple or not is_cpu_inference(x):
        return weights.mT @ x
    # As in `linear`: with one thread torch uses oneDNN only for batches of 16 or more.
    maps, gradients = (y.reshape(16, 1, positions // 16, -1).permute(0, 3, 1, 2) for y in (x, weights))
    shape = (weights.shape[2], x.shape[2], 1, 1)
    return conv2d_weight(maps, shape, gradients)[None, :, :, 0, 0]


def _softmax_of_few(scores: Tensor) -> Tensor:
    """Softmax over the last dimension; in place on the CPU, where torch's is slow for a handful of values."""
    if not is_cpu_inference(scores):
        return scores.softmax(dim=-1)
    if scores.numel() and not torch.stack(scores.aminmax()).abs().amax() <= SAFE_EXPONENT:
        scores.sub_(scores.amax(dim=-1, keepdim=True))
    scores.exp_()
    return scores.div_(scores.sum(dim=-1, keepdim=True))

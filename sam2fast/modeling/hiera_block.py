"""The transformer block of Hiera, and of plain vision transformers with attention in windows."""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2fast.kernels._cpu import is_cpu_inference
from sam2fast.kernels.layer_norm import shifted_layer_norm
from sam2fast.kernels.linear_gelu import linear_gelu
from sam2fast.kernels.window_attention import window_attention
from sam2fast.modeling.layers import (
    MLP,
    DropPath,
    add_product,
    as_computed,
    chunked,
    computed_dtype,
    is_gelu,
    is_gpu_inference,
    normalize,
    normed_sum,
    project,
)
from sam2fast.modeling.standard import has_standard_parts, standard


@standard
class MultiScaleAttention(nn.Module):
    """Attention of windows ``(B, H, W, dim)`` to themselves: ``(B, H', W', dim_out)``.

    Source: ``sam2.modeling.backbones.hieradet.MultiScaleAttention``.

    Args:
        q_pool: pools the queries, and so the result; None for as many queries as keys.
    """

    def __init__(self, dim: int, dim_out: int, num_heads: int, q_pool: nn.Module | None = None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_pool = q_pool
        self.qkv = nn.Linear(dim, 3 * dim_out)
        self.proj = nn.Linear(dim_out, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, dim)`` to ``(B, H', W', dim_out)``."""
        B, H, W, _ = x.shape
        q, k, v = project(self.qkv, x).reshape(B, H * W, 3, self.num_heads, -1).unbind(2)
        if self.q_pool is not None:
            q = _pooled(q.reshape(B, H, W, -1), self.q_pool)
            H, W = q.shape[1:3]
            q = q.reshape(B, H * W, self.num_heads, -1)
        out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return project(self.proj, out.transpose(1, 2).reshape(B, H, W, -1))

    def fused(self, x: Tensor, window_size: int, q_stride: tuple[int, int] | None) -> Tensor:
        """:meth:`forward` of each window of a map ``(B, H, W, dim)``; the result is a map, too."""
        return self._project_out(self.attended(x, window_size, q_stride))

    def attended(self, x: Tensor, window_size: int, q_stride: tuple[int, int] | None) -> Tensor:
        """:meth:`fused` without the projection at the end."""
        return window_attention(self._project_in(x), self.qkv.bias, self.num_heads, window_size, q_stride)

    def _project_in(self, x: Tensor) -> Tensor:
        return project(self.qkv, x)

    def _project_out(self, x: Tensor) -> Tensor:
        return project(self.proj, x)


@standard
class MultiScaleBlock(nn.Module):
    """One transformer block; the first of a stage doubles the channels and pools queries and residual.

    Source: ``sam2.modeling.backbones.hieradet.MultiScaleBlock``.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        q_stride: tuple[int, int] | None = None,
        window_size: int = 0,
    ) -> None:
        super().__init__()
        self.dim_out = dim_out
        self.window_size = window_size
        self.q_stride = q_stride
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.pool = nn.MaxPool2d(q_stride, q_stride) if q_stride else None
        self.attn = MultiScaleAttention(dim, dim_out, num_heads, self.pool)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim_out, eps=1e-6)
        self.mlp = MLP(dim_out, int(dim_out * mlp_ratio), dim_out, num_layers=2, activation=nn.GELU)
        self.proj = nn.Linear(dim, dim_out) if dim != dim_out else None

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``(B, H, W, dim)`` to ``(B, H', W', dim_out)``."""
        if has_standard_parts(self):
            return self.fused(x) if is_cpu_inference(x) else self._block(x)
        shortcut, x = x, normalize(self.norm1, x)
        if self.proj is not None:
            shortcut = project(self.proj, x)
            shortcut = shortcut if self.pool is None else _pooled(shortcut, self.pool)
        if self.window_size:
            windows, grid = _cut(x, self.window_size)
            x = _joined(self.attn(windows), grid, shortcut.shape[1:3])
        else:
            x = self.attn(x)
        x = shortcut + self.drop_path(x)
        return x + self.drop_path(self.mlp(normalize(self.norm2, x)))

    def fused(self, x: Tensor) -> Tensor:
        """:meth:`forward` by fewer and larger operations; the map is computed in chunks that fit the cache."""
        if self.window_size and not (self.q_stride and self.window_size % self.q_stride[0]):
            return chunked(self._block, x, rows=self.window_size)
        x, attended = self._attend(*self.normed_input(x, None))
        return chunked(self._feed_forward, x + attended, rows=1)

    def normed_input(self, x: Tensor, delta: Tensor | None) -> tuple[Tensor, Tensor]:
        """``x + delta`` and its norm, which :meth:`branches` takes."""
        return normed_sum(self.norm1, x, delta, computed_dtype(self.attn.qkv.weight))

    def branches(self, x: Tensor, normed: Tensor) -> tuple[Tensor, Tensor]:
        """The block for ``x`` with its norm; the result is the sum of the two, which the next norm adds."""
        x, attended = self._attend(x, normed)
        x, normed = normed_sum(self.norm2, x, attended, computed_dtype(self.attn.proj.weight))
        return x, self.drop_path(self.mlp(normed))

    def can_add_in_place(self, dtype: torch.dtype) -> bool:
        """Whether :meth:`add_in_place` computes this block for a map of this dtype, if it is standard."""
        ends = cast(Sequence[nn.Linear], (self.attn.proj, self.mlp.layers[-1]))
        is_gelu_mlp = self.mlp.is_transformers and is_gelu(self.mlp.act)
        have_biases = all(layer.bias is not None and layer.weight.dtype == dtype for layer in ends)
        return is_gelu_mlp and have_biases and not self.drop_path.training

    def norm_with_bias(self, x: Tensor, bias: Tensor) -> Tensor:
        """The norm of ``x + bias``, which :meth:`add_in_place` takes; the sum is not written."""
        norm = self.norm1
        return shifted_layer_norm(x, bias, norm.weight, norm.bias, norm.eps, computed_dtype(self.attn.qkv.weight))

    def add_in_place(self, x: Tensor, normed: Tensor, bias: Tensor, adds_bias: bool) -> Tensor:
        """:meth:`branches` and their sum, in place, but for the biases of the last layer of each branch.

        Args:
            x: ``(B, H, W, dim)``, contiguous; the block's residual if that is not projected.
            normed: the norm of the map.
            bias: ``(dim_out)``, the deferred biases after the first branch.
            adds_bias: adds them to the map then, so that only the bias of the second branch is deferred.
        """
        x, norm = self._residual(x, normed), self.norm2
        self._add_attended(x, self.attn.attended(normed, self.window_size, self.q_stride))
        dtype = computed_dtype(self.attn.proj.weight)
        if adds_bias:
            x, normed = normed_sum(norm, x, bias, dtype)
        else:
            normed = shifted_layer_norm(x, bias, norm.weight, norm.bias, norm.eps, dtype)
        self._add_mlp(x, normed)
        return x

    def _add_attended(self, x: Tensor, attended: Tensor) -> None:
        add_product(x, attended, self.attn.proj.weight)

    def _add_mlp(self, x: Tensor, normed: Tensor) -> None:
        first, last = cast(Sequence[nn.Linear], self.mlp.layers)
        add_product(x, linear_gelu(as_computed(normed, first.weight), first.weight, first.bias), last.weight)

    def _block(self, x: Tensor) -> Tensor:
        x, delta = self.branches(*self.normed_input(x, None))
        return x + delta

    def _attend(self, x: Tensor, normed: Tensor) -> tuple[Tensor, Tensor]:
        attended = self.attn.fused(normed, self.window_size, self.q_stride)
        return self._residual(x, normed), self.drop_path(attended)

    def _residual(self, x: Tensor, normed: Tensor) -> Tensor:
        return x if self.proj is None else _max_pool(self._project_residual(self.proj, normed), self.q_stride)

    def _project_residual(self, layer: nn.Linear, x: Tensor) -> Tensor:
        return project(layer, x)

    def _feed_forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.mlp(normed_sum(self.norm2, x, None)[1]))


def _max_pool(x: Tensor, stride: tuple[int, int] | None) -> Tensor:
    if stride is None:
        return x
    H, W = (n // s * s for n, s in zip(x.shape[1:3], stride, strict=True))
    if is_gpu_inference(x):  # pooling would write indices of eight bytes, too
        return x[:, :H, :W].unflatten(2, (-1, stride[1])).unflatten(1, (-1, stride[0])).amax((2, 4))
    return F.max_pool2d(x.permute(0, 3, 1, 2), stride).permute(0, 2, 3, 1)


def _pooled(x: Tensor, pool: nn.Module) -> Tensor:
    """``pool`` of ``(B, H, W, C)``."""
    pooled: Tensor = pool(x.permute(0, 3, 1, 2))
    return pooled.permute(0, 2, 3, 1)


def _cut(x: Tensor, size: int) -> tuple[Tensor, tuple[int, int]]:
    """Windows ``(B * rows * columns, size, size, C)`` of ``(B, H, W, C)``, padded by zeros, and (rows, columns)."""
    _, H, W, _ = x.shape
    x = F.pad(x, (0, 0, 0, -W % size, 0, -H % size))
    x = x.unflatten(2, (-1, size)).unflatten(1, (-1, size))  # (B, rows, size, columns, size, C)
    grid = x.shape[1], x.shape[3]
    return x.transpose(2, 3).flatten(0, 2), grid


def _joined(windows: Tensor, grid: tuple[int, int], size: Sequence[int]) -> Tensor:
    """The map ``(B, *size, C)`` of windows that :func:`_cut` made; they may have been pooled since."""
    x = windows.unflatten(0, (-1, *grid)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return x[:, : size[0], : size[1]]

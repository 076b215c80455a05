"""The transformer block of Hiera, and of plain vision transformers with attention in windows."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from sam2fast.modeling.layers import MLP, DropPath


class MultiScaleAttention(nn.Module):
    """Attention of windows ``(B, H, W, dim)`` to themselves: ``(B, H', W', dim_out)``.

    Source: ``sam2.modeling.backbones.hieradet.MultiScaleAttention``.

    Args:
        q_pool: pools the queries, and so the result; None for as many queries as keys.
    """

    def __init__(self, dim: int, dim_out: int, num_heads: int, q_pool: nn.Module | None = None) -> None:
        super().__init__()
        self.dim = dim
        self.dim_out = dim_out
        self.num_heads = num_heads
        self.q_pool = q_pool
        self.qkv = nn.Linear(dim, 3 * dim_out)
        self.proj = nn.Linear(dim_out, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, dim)`` to ``(B, H', W', dim_out)``."""
        B, H, W, _ = x.shape
        q, k, v = self.qkv(x).reshape(B, H * W, 3, self.num_heads, -1).unbind(2)
        if self.q_pool is not None:
            q = _pooled(q.reshape(B, H, W, -1), self.q_pool)
            H, W = q.shape[1:3]
            q = q.reshape(B, H * W, self.num_heads, -1)
        out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        projected: Tensor = self.proj(out.transpose(1, 2).reshape(B, H, W, -1))
        return projected


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
        self.dim = dim
        self.dim_out = dim_out
        self.window_size = window_size
        self.q_stride = q_stride
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.pool = nn.MaxPool2d(q_stride, q_stride) if q_stride else None
        self.attn = MultiScaleAttention(dim, dim_out, num_heads, self.pool)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.LayerNorm(dim_out, eps=1e-6)
        self.mlp = MLP(dim_out, int(dim_out * mlp_ratio), dim_out, num_layers=2, activation=nn.GELU)
        if dim != dim_out:
            self.proj = nn.Linear(dim, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``(B, H, W, dim)`` to ``(B, H', W', dim_out)``."""
        shortcut, x = x, self.norm1(x)
        if self.dim != self.dim_out:
            shortcut = self.proj(x)
            shortcut = shortcut if self.pool is None else _pooled(shortcut, self.pool)
        if self.window_size:
            windows, grid = _window_partition(x, self.window_size)
            x = _window_unpartition(self.attn(windows), grid, shortcut.shape[1:3])
        else:
            x = self.attn(x)
        x = shortcut + self.drop_path(x)
        return x + self.drop_path(self.mlp(self.norm2(x)))


def _pooled(x: Tensor, pool: nn.Module) -> Tensor:
    """``pool`` of ``(B, H, W, C)``."""
    pooled: Tensor = pool(x.permute(0, 3, 1, 2))
    return pooled.permute(0, 2, 3, 1)


def _window_partition(x: Tensor, size: int) -> tuple[Tensor, tuple[int, int]]:
    """Windows ``(B * rows * columns, size, size, C)`` of ``(B, H, W, C)``, padded by zeros, and (rows, columns)."""
    _, H, W, _ = x.shape
    x = F.pad(x, (0, 0, 0, -W % size, 0, -H % size))
    x = x.unflatten(2, (-1, size)).unflatten(1, (-1, size))  # (B, rows, size, columns, size, C)
    grid = x.shape[1], x.shape[3]
    return x.transpose(2, 3).flatten(0, 2), grid


def _window_unpartition(windows: Tensor, grid: tuple[int, int], size: Sequence[int]) -> Tensor:
    """The map ``(B, *size, C)`` of windows of :func:`_window_partition`, which may have been pooled since."""
    x = windows.unflatten(0, (-1, *grid)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return x[:, : size[0], : size[1]]

"""The transformer block of Hiera and of plain vision transformers with window attention."""

import torch.nn.functional as F
from torch import Tensor, nn

from sam2fast.kernels.memory_attention import apply_rope
from sam2fast.modeling.layers import MLP, DropPath
from sam2fast.modeling.position_encoding import WindowRotations


class MultiScaleAttention(nn.Module):
    """Self-attention over all positions, from ``(B, H, W, dim)`` to ``(B, H', W', dim_out)``.

    If ``q_pool`` is set, pools the queries, so the output is smaller. ``rotations`` rotates queries and keys.

    Source: ``sam2.modeling.backbones.hieradet.MultiScaleAttention``.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int,
        num_heads: int,
        q_pool: nn.Module | None = None,
        rotations: WindowRotations | None = None,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.dim_out = dim_out
        self.num_heads = num_heads
        self.q_pool = q_pool
        self.rotations = rotations
        self.qkv = nn.Linear(dim, 3 * dim_out)
        self.proj = nn.Linear(dim_out, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, _ = x.shape
        q, k, v = self.qkv(x).reshape(B, H * W, 3, self.num_heads, -1).unbind(2)
        if self.q_pool is not None:
            q = do_pool(q.reshape(B, H, W, -1), self.q_pool)
            H, W = q.shape[1:3]
            q = q.reshape(B, H * W, self.num_heads, -1)
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))
        if self.rotations is not None:
            tables = self.rotations(H, x.device)
            q, k = apply_rope(q, *tables), apply_rope(k, *tables)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(B, H, W, -1))


class MultiScaleBlock(nn.Module):
    """Transformer block, from ``(B, H, W, dim)`` to ``(B, H', W', dim_out)``.

    The first block of a stage doubles the channels, and may pool queries and residual.

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
        rotations: WindowRotations | None = None,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.dim_out = dim_out
        self.window_size = window_size
        self.q_stride = q_stride
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.pool = nn.MaxPool2d(q_stride, q_stride) if q_stride else None
        self.attn = MultiScaleAttention(dim, dim_out, num_heads, self.pool, rotations)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.LayerNorm(dim_out, eps=norm_eps)
        self.mlp = MLP(dim_out, int(dim_out * mlp_ratio), dim_out, num_layers=2, activation=nn.GELU)
        if dim != dim_out:
            self.proj = nn.Linear(dim, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        shortcut, x = x, self.norm1(x)
        if self.dim != self.dim_out:
            shortcut = do_pool(self.proj(x), self.pool)
        if self.window_size:
            windows, padded = window_partition(x, self.window_size)
            x = window_unpartition(self.attn(windows), self.window_size, padded, (shortcut.shape[1], shortcut.shape[2]))
        else:
            x = self.attn(x)
        x = shortcut + self.drop_path(x)
        return x + self.drop_path(self.mlp(self.norm2(x)))


def do_pool(x: Tensor, pool: nn.Module | None, norm: nn.Module | None = None) -> Tensor:
    """Pools a map ``(B, H, W, C)`` and applies ``norm``, if given. If ``pool`` is None, returns the map unchanged."""
    if pool is None:
        return x
    x = pool(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return x if norm is None else norm(x)


def window_partition(x: Tensor, window_size: int) -> tuple[Tensor, tuple[int, int]]:
    """Zero-pads ``(B, H, W, C)``. Returns windows ``(B * windows, w, w, C)`` and the padded size (H, W)."""
    w = window_size
    x = F.pad(x, (0, 0, 0, -x.shape[2] % w, 0, -x.shape[1] % w))
    _, height, width, _ = x.shape
    windows = x.unflatten(2, (-1, w)).unflatten(1, (-1, w)).transpose(2, 3)  # (B, rows, columns, w, w, C)
    return windows.flatten(0, 2), (height, width)


def window_unpartition(windows: Tensor, window_size: int, pad_hw: tuple[int, int], hw: tuple[int, int]) -> Tensor:
    """Joins (pooled) windows to a map ``(B, *hw, C)`` without padding. Inverts :func:`window_partition`."""
    rows, columns = (side // window_size for side in pad_hw)
    x = windows.unflatten(0, (-1, rows, columns)).transpose(2, 3)  # (B, rows, w, columns, w, C)
    return x.flatten(3, 4).flatten(1, 2)[:, : hw[0], : hw[1]]

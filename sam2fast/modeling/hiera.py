"""Hiera, the hierarchical vision transformer of SAM 2's image encoder."""

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2fast.kernels._cpu import is_cpu_inference
from sam2fast.kernels.window_attention import window_attention
from sam2fast.modeling.constants import TensorCache
from sam2fast.modeling.layers import (
    MLP,
    DropPath,
    chunked,
    computed_dtype,
    convolve,
    normalize,
    normed_sum,
    project,
)
from sam2fast.modeling.standard import has_standard_parts, is_standard, standard


@standard
class PatchEmbed(nn.Module):
    """Image ``(B, 3, H, W)`` to tokens ``(B, H / 4, W / 4, C)`` by a convolution, 7x7 of stride 4 in all models."""

    def __init__(
        self,
        kernel_size: tuple[int, ...] = (7, 7),
        stride: tuple[int, ...] = (4, 4),
        padding: tuple[int, ...] = (3, 3),
        in_chans: int = 3,
        embed_dim: int = 768,
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=kernel_size, stride=stride, padding=padding)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """An image ``(B, in_chans, H, W)`` to tokens ``(B, H', W', embed_dim)``."""
        return convolve(self.proj, x.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)


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
        return self._project_out(
            window_attention(self._project_in(x), self.qkv.bias, self.num_heads, window_size, q_stride)
        )

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

    def _block(self, x: Tensor) -> Tensor:
        x, delta = self.branches(*self.normed_input(x, None))
        return x + delta

    def _attend(self, x: Tensor, normed: Tensor) -> tuple[Tensor, Tensor]:
        if self.proj is not None:
            x = _max_pool(self._project_residual(self.proj, normed), self.q_stride)
        return x, self.drop_path(self.attn.fused(normed, self.window_size, self.q_stride))

    def _project_residual(self, layer: nn.Linear, x: Tensor) -> Tensor:
        return project(layer, x)

    def _feed_forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.mlp(normed_sum(self.norm2, x, None)[1]))


def _max_pool(x: Tensor, stride: tuple[int, int] | None) -> Tensor:
    return F.max_pool2d(x.permute(0, 3, 1, 2), stride).permute(0, 2, 3, 1) if stride else x


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


@standard
class BlockTrunk(nn.Module):
    """A trunk of blocks: patches, their positions, and the maps after some of the blocks."""

    patch_embed: PatchEmbed
    blocks: nn.ModuleList
    stage_ends: list[int]
    return_interm_layers = False  # whether the maps of all stages are results, or the last alone

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps ``(B, C_i, H_i, W_i)`` of each stage for an image ``(B, 3, H, W)``, finest first."""
        x = self.patch_embed(x)
        # On the CPU a block computes the map in chunks that fit the cache. Elsewhere its last addition is fused with
        # the next block's norm.
        fuse, is_chunked = is_standard(self), is_cpu_inference(x)
        in_branches = fuse and not is_chunked
        delta: Tensor | None = None
        if in_branches and not torch.is_grad_enabled():
            delta = self._get_pos_embed((x.shape[1], x.shape[2]), x.dtype).expand_as(x)
        else:
            x = x + self._get_pos_embed((x.shape[1], x.shape[2]))
        outputs: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            if in_branches:
                x, normed = block.normed_input(x, delta)  # type: ignore[operator]
            if i - 1 in self.stage_ends and self.return_interm_layers:
                outputs.append(x.permute(0, 3, 1, 2))
            if in_branches:
                x, delta = block.branches(x, normed)  # type: ignore[operator]
            else:
                x = block.fused(x) if fuse else block(x)  # type: ignore[operator]
        outputs.append((x if delta is None else x + delta).permute(0, 3, 1, 2))
        return outputs

    def get_num_layers(self) -> int:
        """Number of blocks, for layer-wise learning rates."""
        return len(self.blocks)

    def get_layer_id(self, layer_name: str) -> int:
        """Depth of a parameter for layer-wise learning rates: 0 for the embeddings, i + 1 for block i."""
        if "rel_pos" in layer_name:
            return self.get_num_layers() + 1
        if "pos_embed" in layer_name or "patch_embed" in layer_name:
            return 0
        if "blocks" in layer_name:
            return int(layer_name.split("blocks")[1].split(".")[1]) + 1
        return self.get_num_layers() + 1

    def _get_pos_embed(self, hw: tuple[int, int], dtype: torch.dtype | None = None) -> Tensor:
        """What is added to the map of patches: ``(1, H, W, C)``, fp32 if there is no ``dtype``."""
        raise NotImplementedError


@standard
class Hiera(BlockTrunk):
    """Four stages of windowed and a few global blocks.

    Source: ``sam2.modeling.backbones.hieradet.Hiera``; https://arxiv.org/abs/2306.00989, with the window position
    embedding of https://arxiv.org/abs/2311.05613.
    """

    def __init__(
        self,
        embed_dim: int = 96,
        num_heads: int = 1,
        drop_path_rate: float = 0.0,
        q_pool: int = 3,
        q_stride: Sequence[int] = (2, 2),
        stages: Sequence[int] = (2, 3, 16, 3),
        dim_mul: float = 2.0,
        head_mul: float = 2.0,
        window_pos_embed_bkg_spatial_size: Sequence[int] = (14, 14),
        window_spec: Sequence[int] = (8, 4, 14, 7),
        global_att_blocks: Sequence[int] | None = (12, 16, 20),
        return_interm_layers: bool = True,
    ) -> None:
        super().__init__()
        if len(stages) != len(window_spec):
            raise ValueError(f"{len(stages)} stages need as many windows, got window_spec={list(window_spec)}")
        if not 0 <= q_pool < len(stages):
            raise ValueError(f"q_pool must be between 0 and {len(stages) - 1}, got {q_pool}")
        depth = sum(stages)
        self.stage_ends = [end - 1 for end in accumulate(stages)]
        self.return_interm_layers = return_interm_layers
        stage_starts = [end + 1 for end in self.stage_ends[:-1]]
        pooling_blocks = stage_starts[:q_pool]

        self.patch_embed = PatchEmbed(embed_dim=embed_dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, embed_dim, *window_pos_embed_bkg_spatial_size))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, embed_dim, window_spec[0], window_spec[0]))
        self._position: TensorCache[Tensor] = TensorCache()

        drop_rates = torch.linspace(0, drop_path_rate, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList()
        dim, stage = embed_dim, 0
        for i in range(depth):
            # The first block of a stage attends in the previous stage's windows and pools inside them.
            window = 0 if i in (global_att_blocks or ()) else window_spec[stage]
            dim_out = dim
            if i in stage_starts:
                dim_out, num_heads = int(dim * dim_mul), int(num_heads * head_mul)
                stage += 1
            stride = (q_stride[0], q_stride[1]) if i in pooling_blocks else None
            self.blocks.append(
                MultiScaleBlock(dim, dim_out, num_heads, drop_path=drop_rates[i], q_stride=stride, window_size=window)
            )
            dim = dim_out
        ends = self.stage_ends[::-1] if return_interm_layers else self.stage_ends[-1:]
        self.channel_list = [self.blocks[i].dim_out for i in ends]

    def _get_pos_embed(self, hw: tuple[int, int], dtype: torch.dtype | None = None) -> Tensor:
        """``(1, H, W, C)``: a coarse map interpolated to the image plus one window's map, tiled."""
        H, W = hw

        def compute() -> Tensor:
            window = self.pos_embed_window.float()
            whole = F.interpolate(self.pos_embed.float(), size=(H, W), mode="bicubic")
            w = window.shape[-1]
            tiled = whole.unflatten(3, (-1, w)).unflatten(2, (-1, w)) + window[:, :, None, :, None]
            return tiled.flatten(4, 5).flatten(2, 3).permute(0, 2, 3, 1).contiguous().to(dtype or whole.dtype)

        return self._position((H, W, dtype), (self.pos_embed, self.pos_embed_window), compute)

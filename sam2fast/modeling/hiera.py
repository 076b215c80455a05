"""Hiera, the hierarchical vision transformer of SAM 2's image encoder."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2fast.modeling.hiera_block import MultiScaleAttention, MultiScaleBlock  # noqa: F401  (official import path)
from sam2fast.modeling.tables import specialize


class PatchEmbed(nn.Module):
    """Embeds patches of images ``(B, in_chans, H, W)`` as tokens ``(B, H', W', embed_dim)``. Hiera's stride is 4."""

    def __init__(
        self,
        kernel_size: tuple[int, ...] = (7, 7),
        stride: tuple[int, ...] = (4, 4),
        padding: tuple[int, ...] = (3, 3),
        in_chans: int = 3,
        embed_dim: int = 768,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size, stride, padding, bias=bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).permute(0, 2, 3, 1)


class BlockTrunk(nn.Module):
    """Base class of trunks. Embeds patches, adds position embeddings, runs blocks, and returns the maps of stages."""

    patch_embed: PatchEmbed
    pos_embed: nn.Parameter
    blocks: Any  # nn.ModuleList of MultiScaleBlock
    stage_ends: list[int]
    return_interm_layers = False  # True returns the maps of all stages; False returns the map of the last stage

    def forward(self, x: Tensor) -> list[Tensor]:
        """Converts images ``(B, 3, H, W)`` to maps ``(B, C_i, H_i, W_i)`` after each stage, finest first."""
        specialize(x)
        x = self._embed(x)
        ends = self.stage_ends if self.return_interm_layers else self.stage_ends[-1:]
        outputs: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if any(i == end for end in ends):  # with symbolic numbers, `in` is False in torch 2.6
                outputs.append(x.permute(0, 3, 1, 2))
        return outputs

    def get_num_layers(self) -> int:
        """Returns the number of blocks, for layer-wise learning rates."""
        return len(self.blocks)

    def get_layer_id(self, layer_name: str) -> int:
        """Returns the layer index of a parameter for layer-wise learning rates: 0 for embeddings, i + 1 for block i."""
        if "rel_pos" not in layer_name:
            if any(name in layer_name for name in ("pos_embed", "patch_embed", "ln_pre")):
                return 0
            if "blocks" in layer_name:
                return int(layer_name.split("blocks")[1].split(".")[1]) + 1
        return self.get_num_layers() + 1

    def _embed(self, images: Tensor) -> Tensor:
        """Returns the first block's input ``(B, H, W, C)``."""
        x = self.patch_embed(images)
        return x + self._get_pos_embed((x.shape[1], x.shape[2]))

    def _get_pos_embed(self, hw: tuple[int, int], dtype: torch.dtype | None = None) -> Tensor:
        """Computes position embeddings ``(1, H, W, C)`` for size ``hw`` in ``dtype``. None uses the weights' dtype."""
        raise NotImplementedError


class Hiera(BlockTrunk):
    """Trunk of SAM 2: four stages of blocks. Most blocks attend inside windows.

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
            raise ValueError(f"{len(stages)} stages need {len(stages)} windows, got window_spec={list(window_spec)}")
        if not 0 <= q_pool < len(stages):
            raise ValueError(f"q_pool must be between 0 and {len(stages) - 1}, got {q_pool}")
        self.window_spec, self.q_stride = window_spec, q_stride
        self.stage_ends = [end - 1 for end in accumulate(stages)]
        stage_starts = [end + 1 for end in self.stage_ends[:-1]]
        self.q_pool_blocks = stage_starts[:q_pool]
        self.return_interm_layers = return_interm_layers
        self.global_att_blocks = global_att_blocks
        self.window_pos_embed_bkg_spatial_size = window_pos_embed_bkg_spatial_size

        self.patch_embed = PatchEmbed(embed_dim=embed_dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, embed_dim, *window_pos_embed_bkg_spatial_size))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, embed_dim, window_spec[0], window_spec[0]))

        drop_rates = torch.linspace(0, drop_path_rate, sum(stages), device="cpu").tolist()
        self.blocks = nn.ModuleList()
        dim, stage = embed_dim, 0
        for i, drop_rate in enumerate(drop_rates):
            # The first block of a stage attends and pools inside windows of the previous stage's size.
            window = 0 if i in (global_att_blocks or ()) else window_spec[stage]
            dim_out = dim
            if i in stage_starts:
                dim_out, num_heads = int(dim * dim_mul), int(num_heads * head_mul)
                stage += 1
            stride = (q_stride[0], q_stride[1]) if i in self.q_pool_blocks else None
            self.blocks.append(
                MultiScaleBlock(dim, dim_out, num_heads, drop_path=drop_rate, q_stride=stride, window_size=window)
            )
            dim = dim_out
        ends = self.stage_ends[::-1] if return_interm_layers else self.stage_ends[-1:]
        self.channel_list = [self.blocks[i].dim_out for i in ends]

    def _get_pos_embed(self, hw: tuple[int, int], dtype: torch.dtype | None = None) -> Tensor:
        # Sum of the interpolated coarse embedding and the tiled window embedding.
        (H, W), side = hw, self.pos_embed_window.shape[-1]
        coarse = F.interpolate(self.pos_embed.to(dtype=dtype), size=(H, W), mode="bicubic")
        return (coarse + self.pos_embed_window.to(dtype=dtype).tile(1, 1, H // side, W // side)).permute(0, 2, 3, 1)

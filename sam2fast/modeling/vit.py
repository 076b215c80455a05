"""The plain vision transformer of EfficientTAM: one map of one size, in windows and a few global blocks."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2fast.modeling.hiera import BlockTrunk, PatchEmbed
from sam2fast.modeling.hiera_block import MultiScaleBlock

PRETRAINED = 14  # side of the map of position embeddings: 224 pixels in patches of 16


class ViT(BlockTrunk):
    """Trunk of EfficientTAM.

    Windows at the right and the bottom are padded, and padding takes part in attention: see
    :func:`sam2fast.kernels.window_attention.window_attention`.

    Args:
        patch_size: Side of a patch in pixels, and stride of the map.
        embed_dim: Channels of the map.
        mlp_ratio: Hidden channels of a block's MLP, divided by ``embed_dim``.
        drop_path_rate: Drop rate of the last block. The first block has none, and the others are in between.
        window_size: Side of a window.
        window_block_indexes: Blocks with attention inside windows. The others attend to the whole map.

    Source: ``efficient_track_anything.modeling.backbones.vitdet.ViT``; https://arxiv.org/abs/2203.16527.

    Raises:
        ValueError: If ``qkv_bias`` is False or ``use_rel_pos`` is True, unlike in published models.
    """

    def __init__(
        self,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.0,
        use_rel_pos: bool = False,
        window_size: int = 14,
        window_block_indexes: Sequence[int] = (0, 1, 3, 4, 6, 7, 9, 10),
    ) -> None:
        super().__init__()
        if use_rel_pos or not qkv_bias:
            raise ValueError("the trunk ViT is available with qkv_bias=true and use_rel_pos=false alone")
        self.patch_embed = PatchEmbed((patch_size, patch_size), (patch_size, patch_size), (0, 0), embed_dim=embed_dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + PRETRAINED**2, embed_dim))  # first that of a class token
        rates = torch.linspace(0, drop_path_rate, depth, device="cpu").tolist()
        windows = [window_size if i in window_block_indexes else 0 for i in range(depth)]
        self.blocks = nn.ModuleList(
            MultiScaleBlock(embed_dim, embed_dim, num_heads, mlp_ratio, rate, window_size=window)
            for rate, window in zip(rates, windows, strict=True)
        )
        self.stage_ends = [depth - 1]
        self.channel_list = [embed_dim]

    def _get_pos_embed(self, hw: tuple[int, int]) -> Tensor:
        side = math.isqrt(self.pos_embed.shape[1])
        whole = self.pos_embed[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        return F.interpolate(whole, size=hw, mode="bicubic").permute(0, 2, 3, 1)

"""Plain vision transformers of EfficientTAM and SAM 3. Most blocks use window attention, a few global attention."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2fast.modeling.hiera import BlockTrunk, PatchEmbed
from sam2fast.modeling.hiera_block import MultiScaleBlock
from sam2fast.modeling.position_encoding import WindowRotations

PRETRAINED = 14  # side of the position embedding map: 224 pixels in patches of 16


class ViT(BlockTrunk):
    """Trunk of EfficientTAM.

    Windows at the right and bottom borders are padded, and attention includes the padding. See
    :func:`sam2fast.kernels.window_attention.window_attention`.

    Args:
        patch_size: Side of a patch in pixels, equal to the stride of the map.
        embed_dim: Channels of the map.
        mlp_ratio: Ratio of the MLP's hidden channels to ``embed_dim``.
        drop_path_rate: Drop rate of the last block. The rate increases linearly from 0 in the first block.
        window_size: Side of a window.
        window_block_indexes: Indices of blocks with window attention. Other blocks attend to the whole map.

    Source: ``efficient_track_anything.modeling.backbones.vitdet.ViT``; https://arxiv.org/abs/2203.16527.

    Raises:
        ValueError: If ``qkv_bias`` is False or ``use_rel_pos`` is True. No published model has these values.
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
            raise ValueError("the trunk ViT requires qkv_bias=true and use_rel_pos=false")
        self.patch_embed = PatchEmbed((patch_size, patch_size), (patch_size, patch_size), (0, 0), embed_dim=embed_dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + PRETRAINED**2, embed_dim))  # row 0: class token
        rates = torch.linspace(0, drop_path_rate, depth, device="cpu").tolist()
        windows = [window_size if i in window_block_indexes else 0 for i in range(depth)]
        self.blocks = nn.ModuleList(
            MultiScaleBlock(embed_dim, embed_dim, num_heads, mlp_ratio, rate, window_size=window)
            for rate, window in zip(rates, windows, strict=True)
        )
        self.stage_ends = [depth - 1]
        self.channel_list = [embed_dim]

    def _get_pos_embed(self, hw: tuple[int, int], dtype: torch.dtype | None = None) -> Tensor:
        side = math.isqrt(self.pos_embed.shape[1])
        embedding = self.pos_embed[:, 1:].to(dtype=dtype).unflatten(1, (side, side)).permute(0, 3, 1, 2)
        return F.interpolate(embedding, size=hw, mode="bicubic").permute(0, 2, 3, 1)


class RoPEViT(BlockTrunk):
    """Trunk of SAM 3: rotary positions in every block, and a norm before the first block.

    Position embeddings of a smaller map are tiled to the size of the map. Windows are padded as in :class:`ViT`.

    Args:
        patch_size: Side of a patch in pixels, equal to the stride of the map.
        embed_dim: Channels of the map.
        mlp_ratio: Ratio of the MLP's hidden channels to ``embed_dim``.
        window_size: Side of a window. In global attention, rotary positions are scaled to this side.
        global_att_blocks: Indices of blocks that attend to the whole map. Other blocks attend inside windows.
        pretrained_size: Side of the position embedding map.
        rope_theta: Base of the rotary frequencies.
        norm_eps: Epsilon of the norms.

    Source: ``Sam3ViTModel`` of transformers.
    """

    def __init__(
        self,
        patch_size: int = 14,
        embed_dim: int = 1024,
        depth: int = 32,
        num_heads: int = 16,
        mlp_ratio: float = 4.625,
        window_size: int = 24,
        global_att_blocks: Sequence[int] = (7, 15, 23, 31),
        pretrained_size: int = 24,
        rope_theta: float = 10000.0,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        sides = (patch_size, patch_size)
        self.patch_embed = PatchEmbed(sides, sides, (0, 0), embed_dim=embed_dim, bias=False)
        self.pos_embed = nn.Parameter(torch.zeros(1, pretrained_size**2, embed_dim))
        self.ln_pre = nn.LayerNorm(embed_dim, eps=norm_eps)
        rotations = WindowRotations(embed_dim // num_heads, window_size, rope_theta)
        windows = [0 if i in global_att_blocks else window_size for i in range(depth)]
        self.blocks = nn.ModuleList(
            MultiScaleBlock(
                *(embed_dim, embed_dim, num_heads, mlp_ratio),
                window_size=window,
                rotations=rotations,
                norm_eps=norm_eps,
            )
            for window in windows
        )
        self.stage_ends = [depth - 1]
        self.channel_list = [embed_dim]

    def _embed(self, images: Tensor) -> Tensor:
        return self.ln_pre(super()._embed(images))

    def _get_pos_embed(self, hw: tuple[int, int], dtype: torch.dtype | None = None) -> Tensor:
        side = math.isqrt(self.pos_embed.shape[1])
        embedding = self.pos_embed.to(dtype=dtype).unflatten(1, (side, side))
        return embedding.tile(1, -(-hw[0] // side), -(-hw[1] // side), 1)[:, : hw[0], : hw[1]]

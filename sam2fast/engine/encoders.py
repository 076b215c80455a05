"""Selects the plan of an image encoder, and has the plans of plain vision transformers."""

import math
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2fast.engine.derived import TensorCache
from sam2fast.engine.plan import (
    EncoderPlan,
    ImagePlan,
    are_plain,
    block_of,
    conv_of,
    is_gelu,
    is_plain,
    is_plain_fpn,
    is_pointwise,
    is_usual,
    norm_of,
    plan_image,
    scaled_level_of,
)
from sam2fast.engine.repvit import RepViTPlan, are_foldable
from sam2fast.modeling.image_encoder import ImageEncoder, ScaledNeck, ViTDetNeck
from sam2fast.modeling.layers import LayerNorm2d
from sam2fast.modeling.repvit import RepViT
from sam2fast.modeling.vit import RoPEViT, ViT


class ViTPlan(EncoderPlan):
    """A plain vision transformer, and its neck for one level, for a decoder without heads of finer levels."""

    def __init__(self, encoder: ImageEncoder, heads: Mapping[int, nn.Conv2d]) -> None:  # none; as other encoders
        trunk, layers = cast(ViT, encoder.trunk), list(cast(nn.Sequential, encoder.neck.convs[0]))
        self.patches = conv_of(trunk.patch_embed.proj)
        last = len(trunk.blocks) - 1
        self.blocks = [block_of(block, i == last) for i, block in enumerate(trunk.blocks)]
        norms = [norm_of(layer) for layer in layers if isinstance(layer, LayerNorm2d)]
        convolutions = [conv_of(layer) for layer in layers if isinstance(layer, nn.Conv2d)]
        self.neck = list(zip_longest(convolutions, norms))  # each with its norm, or none with one
        self.scalp, self._positions, self._position = encoder.scalp, trunk.pos_embed, TensorCache[Tensor]()

    def position(self, H: int, W: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """What is added to the map of patches: ``(1, H, W, C)``."""

        def compute() -> Tensor:
            side = math.isqrt(self._positions.shape[1])
            whole = self._positions[:, 1:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
            return F.interpolate(whole, size=(H, W), mode="bicubic").permute(0, 2, 3, 1).contiguous().to(dtype)

        return self._position((H, W, dtype), (self._positions,), compute)


class RoPEViTPlan(EncoderPlan):
    """SAM 3's vision transformer, and the neck that scales its map."""

    def __init__(self, encoder: ImageEncoder, heads: Mapping[int, nn.Conv2d]) -> None:
        trunk, neck = cast(RoPEViT, encoder.trunk), cast(ScaledNeck, encoder.neck)
        self.patches, self.first_norm = conv_of(trunk.patch_embed.proj), norm_of(trunk.ln_pre)
        last = len(trunk.blocks) - 1
        self.blocks = [block_of(block, i == last) for i, block in enumerate(trunk.blocks)]
        computed = [layers for layers, factor in zip(neck.convs, neck.scale_factors, strict=True) if factor >= 1]
        self.scaled = [scaled_level_of(layers, heads.get(i)) for i, layers in enumerate(computed)]
        self.scalp, self._trunk, self._position = encoder.scalp, trunk, TensorCache[Tensor]()

    def position(self, H: int, W: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Returns the positions ``(1, H, W, C)`` that are added to the patches."""
        trunk = self._trunk
        return self._position((H, W, dtype), (trunk.pos_embed,), lambda: trunk._get_pos_embed((H, W)).to(dtype))


# Plans with blocks of a transformer.
TransformerPlan = ImagePlan | ViTPlan | RoPEViTPlan


def plan_encoder(model: Any) -> EncoderPlan | None:
    """Returns the plan of a model's unmodified image encoder, or None if no published model has one of its kind."""
    encoder, heads = model.image_encoder, model._level_heads()
    if type(encoder) is not ImageEncoder:
        return None
    if type(encoder.trunk) is RepViT and is_plain_fpn(encoder.neck, heads) and are_foldable(encoder.trunk):
        return RepViTPlan(encoder, heads)
    if type(encoder.trunk) is ViT and type(encoder.neck) is ViTDetNeck and not heads:
        is_known = are_plain(encoder.trunk) and all(map(is_usual, encoder.trunk.blocks))
        is_known = is_known and all(map(is_plain, encoder.neck.modules()))
        kinds = list(map(type, cast(nn.Sequential, encoder.neck.convs[0])))
        is_known = is_known and kinds in ([nn.Conv2d, LayerNorm2d] * 2, [nn.Conv2d] * 2)
        return ViTPlan(encoder, heads) if is_known else None
    if type(encoder.trunk) is RoPEViT and type(encoder.neck) is ScaledNeck:
        trunk, neck, patches = encoder.trunk, encoder.neck, encoder.trunk.patch_embed.proj
        is_known = are_plain(trunk.blocks, trunk.ln_pre, neck, *heads.values()) and is_plain(patches)
        is_known = is_known and all(map(is_pointwise, heads.values())) and all(map(is_usual, trunk.blocks))
        is_known = is_known and all(is_gelu(layer) for layer in neck.modules() if isinstance(layer, nn.GELU))
        return RoPEViTPlan(encoder, heads) if is_known else None
    return plan_image(encoder, heads)

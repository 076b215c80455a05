"""Selects the plan of an image encoder, and defines the plans of plain vision transformers."""

from collections.abc import Mapping
from itertools import zip_longest
from typing import Any, cast

from torch import nn

from sam2fast.engine.plans import (
    EncoderPlan,
    ImagePlan,
    ScaledLevel,
    TransformerPlan,
    conv_of,
    has_default_settings,
    have_default_settings,
    is_gelu,
    is_plain_fpn,
    is_pointwise,
    is_standard,
    linear_of,
    norm_of,
)
from sam2fast.engine.plans.repvit import RepViTPlan, are_foldable
from sam2fast.modeling.hiera import Hiera
from sam2fast.modeling.image_encoder import ImageEncoder, ScaledNeck, ViTDetNeck
from sam2fast.modeling.layers import LayerNorm2d
from sam2fast.modeling.repvit import RepViT
from sam2fast.modeling.vit import RoPEViT, ViT


class ViTPlan(TransformerPlan):
    """Plan of a plain vision transformer and a neck with one level. The decoder uses no high-resolution features."""

    def __init__(self, encoder: ImageEncoder) -> None:
        super().__init__(encoder)
        layers = list(cast(nn.Sequential, encoder.neck.convs[0]))
        norms = [norm_of(layer) for layer in layers if isinstance(layer, LayerNorm2d)]
        convolutions = [conv_of(layer) for layer in layers if isinstance(layer, nn.Conv2d)]
        self.neck = list(zip_longest(convolutions, norms))  # either all convolutions have a norm, or no convolution


class RoPEViTPlan(TransformerPlan):
    """Plan of SAM 3's vision transformer, and of the neck that scales the map of the transformer."""

    def __init__(self, encoder: ImageEncoder, heads: Mapping[int, nn.Conv2d]) -> None:
        super().__init__(encoder)
        neck, self.scaled = cast(ScaledNeck, encoder.neck), []
        self.first_norm = norm_of(encoder.trunk.ln_pre)
        levels = neck._computed[: len(neck._computed) - encoder.scalp]
        for i, layers in enumerate(levels):
            doublings = tuple(linear_of(layer) for layer in layers if isinstance(layer, nn.ConvTranspose2d))
            head = linear_of(heads[i]) if i in heads else None
            self.scaled.append(ScaledLevel(doublings, linear_of(layers.conv_1x1), conv_of(layers.conv_3x3), head))


def plan_encoder(model: Any) -> EncoderPlan | None:
    """Returns the plan of a model's unmodified image encoder, or None if plans do not support its layers."""
    encoder, heads = model.image_encoder, model._level_heads()
    if type(encoder) is not ImageEncoder:
        return None
    trunk, neck = encoder.trunk, encoder.neck
    if type(trunk) is RepViT:
        return RepViTPlan(encoder, heads) if is_plain_fpn(neck, heads) and are_foldable(trunk) else None
    if type(trunk) not in (Hiera, ViT, RoPEViT) or not all(map(is_standard, trunk.blocks)):
        return None
    if type(trunk) is Hiera and have_default_settings(trunk) and is_plain_fpn(neck, heads):
        return ImagePlan(encoder, heads)
    if type(trunk) is ViT and have_default_settings(trunk) and type(neck) is ViTDetNeck and not heads:
        types = [*map(type, cast(nn.Sequential, neck.convs[0]))]
        is_supported = types in ([nn.Conv2d, LayerNorm2d] * 2, [nn.Conv2d] * 2)
        return ViTPlan(encoder) if is_supported and all(map(has_default_settings, neck.modules())) else None
    if type(trunk) is RoPEViT and has_default_settings(trunk.patch_embed.proj) and type(neck) is ScaledNeck:
        is_supported = have_default_settings(trunk.blocks, trunk.ln_pre, neck, *heads.values())
        is_supported = is_supported and all(map(is_pointwise, heads.values()))
        if is_supported and all(is_gelu(layer) for layer in neck.modules() if isinstance(layer, nn.GELU)):
            return RoPEViTPlan(encoder, heads)
    return None

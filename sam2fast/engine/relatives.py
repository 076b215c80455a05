"""Plans of what SAM 2's relatives have in place of its parts: the image encoders of EdgeTAM and EfficientTAM, and the
perceiver that compresses EdgeTAM's memories."""

import math
from collections.abc import Mapping
from copy import copy
from itertools import zip_longest
from typing import Any, NamedTuple, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2fast.engine.constants import TensorCache
from sam2fast.engine.plan import (
    Conv,
    ImagePlan,
    Linear,
    Norm,
    PlanOfPart,
    block_of,
    conv_of,
    have_biases,
    is_gelu,
    is_plain_fpn,
    is_usual,
    levels_of,
    norm_of,
    plan_image,
)
from sam2fast.modeling.image_encoder import FpnNeck, ImageEncoder, ViTDetNeck
from sam2fast.modeling.layers import LayerNorm2d
from sam2fast.modeling.perceiver import PerceiverResampler
from sam2fast.modeling.repvit import WIDTHS, ConvNorm, RepViT
from sam2fast.modeling.vit import ViT

# ---- RepViT ----


class Folded:
    """A convolution and its batch norm as one convolution, computed again when their values change.

    Args:
        layer: the convolution with its norm.
        centre: another one, 1x1, of the same input, which is added to it together with the input itself; or None.
    """

    def __init__(self, layer: ConvNorm, centre: ConvNorm | None = None) -> None:
        layers = [layer] if centre is None else [layer, centre]
        self._like, self._eps = layer.c, [each.bn.eps for each in layers]
        self._sources = [_sources(each) for each in layers]
        self._dtype: torch.dtype | None = None  # that of the convolution's weight
        self._kept = TensorCache[tuple[Tensor, Tensor]]()

    def in_dtype(self, dtype: torch.dtype) -> "Folded":
        """The same, rounded to ``dtype``."""
        found = copy(self)
        found._dtype = dtype
        return found

    @property
    def dtype(self) -> torch.dtype:
        """Of its weight."""
        return self._dtype or self._like.weight.dtype

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """What :meth:`fold` reads."""
        return sum(self._sources, ())

    def conv(self) -> Conv:
        """As one convolution."""
        return self.like(*self._folded())

    def like(self, weight: Tensor, bias: Tensor) -> Conv:
        """The convolution with another weight and bias."""
        return Conv(weight, bias, self._like.stride, cast(tuple[int, ...], self._like.padding), self._like.groups)

    def linear(self) -> Linear:
        """The same for a 1x1 convolution."""
        weight, bias = self._folded()
        return Linear(weight.flatten(1), bias)

    def _folded(self) -> tuple[Tensor, Tensor]:
        return self._kept(self.dtype, self.sources, lambda: self.fold(self.dtype))

    def fold(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Weight and bias, computed in fp32 and rounded."""
        (weight, bias), *centres = map(_fold, self._sources, self._eps)
        for centre, other in centres:  # what meets one pixel is part of the centre of a 3x3 weight
            weight, bias = weight + F.pad(centre + 1, (1, 1, 1, 1)), bias + other
        return weight.to(dtype), bias.to(dtype)


class ConvBlock(NamedTuple):
    """A block of RepViT."""

    positions: Folded  # mixes neighbours
    scales: tuple[Conv, Conv] | None  # of channels, from their means
    mlp: tuple[Folded, Folded]


class Downsample(NamedTuple):
    """What a stage of RepViT starts with, apart from the first."""

    block: ConvBlock
    positions: Folded  # of stride 2
    channels: Folded
    mlp: tuple[Folded, Folded]


class Stage(NamedTuple):
    """Blocks of RepViT at one size."""

    downsample: Downsample | None
    blocks: list[ConvBlock]


class RepViTPlan(PlanOfPart):
    """RepViT and the neck."""

    def __init__(self, encoder: ImageEncoder, heads: Mapping[int, nn.Conv2d]) -> None:
        body, neck = cast(RepViT, encoder.trunk).body, cast(FpnNeck, encoder.neck)
        self.stem = Folded(body.stem.conv1), Folded(body.stem.conv2)
        self.stages = [_stage(getattr(body, f"stages_{i}")) for i in range(len(WIDTHS))]
        self.levels = levels_of(neck, heads)
        self.scalp, self.interpolation = encoder.scalp, neck.fpn_interp_model
        convolutions = [x for x in body.modules() if isinstance(x, nn.Conv2d) and x.bias is not None]
        norms = [x for x in body.modules() if isinstance(x, ConvNorm)]
        self.sources = sum(map(_sources, norms), sum(((x.weight, x.bias) for x in convolutions), ()))
        self.folded: Any = None  # what `gpu` computes from them


def _are_folded(trunk: RepViT) -> bool:
    """Whether all its norms have a scale, a shift and statistics, and all other convolutions a bias."""
    norms = [module for module in trunk.modules() if isinstance(module, ConvNorm)]
    folded = {layer.c for layer in norms}
    others = [x for x in trunk.modules() if isinstance(x, nn.Conv2d) and x not in folded]
    are_whole = all(isinstance(x, Tensor) for layer in norms for x in _sources(layer))
    return are_whole and have_biases(*others) and all(layer.bias is None for layer in folded)


def _sources(layer: ConvNorm) -> tuple[Tensor, ...]:
    norm = layer.bn
    return layer.c.weight, norm.weight, norm.bias, cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)


def _fold(sources: tuple[Tensor, ...], eps: float) -> tuple[Tensor, Tensor]:
    """Weight and bias, fp32, of a convolution whose results are normalised by stored statistics."""
    weight, scale, shift, mean, variance = (x.float() for x in sources)
    scale = scale * torch.rsqrt(variance + eps)
    return weight * scale[:, None, None, None], shift - mean * scale


def _stage(stage: Any) -> Stage:
    down = stage.downsample
    downsample = None
    if not isinstance(down, nn.Identity):
        steps = Folded(down.spatial_downsample), Folded(down.channel_downsample)
        downsample = Downsample(_repvit_block(down.pre_block), *steps, _channel_mlp(down.ffn))
    return Stage(downsample, list(map(_repvit_block, stage.blocks)))


def _repvit_block(block: Any) -> ConvBlock:
    mixer, squeeze = block.token_mixer, block.se
    scales = None if isinstance(squeeze, nn.Identity) else (conv_of(squeeze.fc1), conv_of(squeeze.fc2))
    return ConvBlock(Folded(mixer.conv, mixer.conv1), scales, _channel_mlp(block.channel_mixer))


def _channel_mlp(mixer: Any) -> tuple[Folded, Folded]:
    return Folded(mixer.conv1), Folded(mixer.conv2)


# ---- the plain transformer ----


class ViTPlan(PlanOfPart):
    """A plain vision transformer, and its neck for one level."""

    def __init__(self, encoder: ImageEncoder) -> None:
        trunk, layers = cast(ViT, encoder.trunk), list(cast(nn.Sequential, encoder.neck.convs[0]))
        self.patches = conv_of(trunk.patch_embed.proj)
        last = len(trunk._blocks) - 1
        self.blocks = [block_of(block, i == last) for i, block in enumerate(trunk._blocks)]
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


EncoderPlan: TypeAlias = ImagePlan | RepViTPlan | ViTPlan


def plan_encoder(model: Any) -> EncoderPlan | None:
    """The plan of a model's image encoder, which is as built; None for other kinds than those of the published
    models."""
    encoder, heads = model.image_encoder, model._level_heads()
    if type(encoder) is not ImageEncoder:
        return None
    if type(encoder.trunk) is RepViT and is_plain_fpn(encoder.neck, heads) and _are_folded(encoder.trunk):
        return RepViTPlan(encoder, heads)
    if type(encoder.trunk) is ViT and type(encoder.neck) is ViTDetNeck and not heads:
        is_known = have_biases(encoder.trunk) and all(map(is_usual, encoder.trunk._blocks))
        kinds = list(map(type, cast(nn.Sequential, encoder.neck.convs[0])))
        is_known = is_known and kinds in ([nn.Conv2d, LayerNorm2d] * 2, [nn.Conv2d] * 2)
        return ViTPlan(encoder) if is_known else None
    return plan_image(model)


# ---- the perceiver ----


class LatentAttention(NamedTuple):
    """Attention of latents to tokens, or to each other; its layers have no biases."""

    heads: int
    norm: Norm  # of the latents
    token_norm: Norm | None  # None where they attend to each other
    q: Tensor
    kv: Tensor
    out: Tensor

    def in_dtype(self, dtype: torch.dtype) -> "LatentAttention":
        """The same with the weights in ``dtype``."""
        return self._replace(q=self.q.to(dtype), kv=self.kv.to(dtype), out=self.out.to(dtype))


class LatentMLP(NamedTuple):
    """A norm and two layers without biases."""

    norm: Norm
    first: Tensor
    last: Tensor

    def in_dtype(self, dtype: torch.dtype) -> "LatentMLP":
        """The same with the weights in ``dtype``."""
        return self._replace(first=self.first.to(dtype), last=self.last.to(dtype))


class LatentLayer(NamedTuple):
    """A layer of the perceiver."""

    to_tokens: LatentAttention
    mlp: LatentMLP
    to_each_other: LatentAttention
    last_mlp: LatentMLP


class PerceiverPlan(NamedTuple):
    """What compresses memories."""

    latents: Tensor  # (L, C), which read the whole map
    local: Tensor  # (grid ** 2, C), which read a window each
    grid: int
    layers: list[LatentLayer]
    norm: Norm


def plan_perceiver(perceiver: nn.Module) -> PerceiverPlan | None:
    """The plan of a perceiver, which is as built; None for other kinds."""
    if type(perceiver) is not PerceiverResampler:
        return None
    activations = [layer for layer in perceiver.modules() if isinstance(layer, nn.GELU)]
    has_bias = any(layer.bias is not None for layer in perceiver.modules() if isinstance(layer, nn.Linear))
    if has_bias or not all(map(is_gelu, activations)):
        return None
    layers = list(map(_latent_layer, perceiver.layers))
    return PerceiverPlan(perceiver.latents, perceiver.latents_2d, perceiver.grid, layers, norm_of(perceiver.norm))


def _latent_layer(layer: Any) -> LatentLayer:
    return LatentLayer(
        _latent_attention(layer.attn, layer.attn.norm_latents, norm_of(layer.attn.norm_x)),
        _latent_mlp(layer.ff),
        _latent_attention(layer.self_attn, layer.self_attn.norm, None),
        _latent_mlp(layer.self_ff),
    )


def _latent_attention(layer: Any, norm: nn.Module, token_norm: Norm | None) -> LatentAttention:
    weights = layer.to_q.weight, layer.to_kv.weight, layer.to_out.weight
    return LatentAttention(layer.heads, norm_of(norm), token_norm, *weights)


def _latent_mlp(layers: Any) -> LatentMLP:
    norm, first, _, last = layers
    return LatentMLP(norm_of(norm), first.weight, last.weight)

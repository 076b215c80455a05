"""Defines the plan of EdgeTAM's image encoder, and computes the trunk of the encoder for ``cpu`` and ``static``."""

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2fast.engine.derived import TensorCache
from sam2fast.engine.plans import (
    Conv,
    EncoderPlan,
    Linear,
    conv_of,
    has_default_settings,
    have_default_settings,
    levels_of,
)
from sam2fast.modeling.image_encoder import FpnNeck, ImageEncoder
from sam2fast.modeling.repvit import WIDTHS, ConvNorm, RepViT


class ConvBlock(NamedTuple):
    """Weights of a block. Batch norms are folded into the layers."""

    token_mixer: Conv
    squeeze: tuple[Conv, Conv] | None  # layers of squeeze-and-excite
    mlp: tuple[Linear, Linear]


class Downsample(NamedTuple):
    """Weights of the downsampling at the start of a stage. The first stage has no downsampling."""

    block: ConvBlock
    spatial: Conv  # depthwise convolution with stride 2
    channels: Linear
    mlp: tuple[Linear, Linear]


class Stage(NamedTuple):
    """Weights of a stage."""

    downsample: Downsample | None
    blocks: list[ConvBlock]


class Trunk(NamedTuple):
    """Weights of the trunk in one dtype."""

    stem: tuple[Conv, Conv]
    stages: list[Stage]


class RepViTPlan(EncoderPlan):
    """Plan of RepViT and the neck."""

    def __init__(self, encoder: ImageEncoder, heads: Mapping[int, nn.Conv2d]) -> None:
        body, neck = cast(RepViT, encoder.trunk).body, cast(FpnNeck, encoder.neck)
        self.levels = levels_of(neck, heads)
        self.scalp, self.interpolation = encoder.scalp, neck.fpn_interp_model
        self._body, self._trunk = body, TensorCache[Trunk]()
        norms, others = _norms(body), _others(body)
        self._sources = sum(map(_sources, norms), sum(((x.weight, x.bias) for x in others), ()))

    def trunk(self, dtype: torch.dtype | None = None) -> Trunk:
        """Returns the trunk in ``dtype``, with norms folded into convolutions. None keeps the weights' dtype."""
        dtype = dtype or self.dtype or self._body.stem.conv1.c.weight.dtype
        return self._trunk(dtype, self._sources, lambda: _folded(self._body, dtype))


def are_foldable(trunk: RepViT) -> bool:
    """Returns True if norms have weights and running statistics, and all convolutions without a norm have a bias."""
    norms = _norms(trunk)
    are_complete = all(isinstance(x, Tensor) for layer in norms for x in _sources(layer))
    are_standard = all(layer.c.bias is None and has_default_settings(layer.c) for layer in norms)
    return are_complete and are_standard and have_default_settings(*_others(trunk))


def _norms(body: nn.Module) -> list[ConvNorm]:
    return [module for module in body.modules() if isinstance(module, ConvNorm)]


def _others(body: nn.Module) -> list[Any]:
    """Returns the convolutions without a norm."""
    normed = {layer.c for layer in _norms(body)}
    return [module for module in body.modules() if isinstance(module, nn.Conv2d) and module not in normed]


def _sources(layer: Any) -> tuple[Tensor, ...]:
    norm = layer.bn
    return layer.c.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var


# ---- folding ----


def _folded(body: Any, dtype: torch.dtype) -> Trunk:
    stem = _conv(dtype, body.stem.conv1), _conv(dtype, body.stem.conv2)
    return Trunk(stem, [_stage(dtype, getattr(body, f"stages_{i}")) for i in range(len(WIDTHS))])


def _stage(dtype: torch.dtype, stage: Any) -> Stage:
    down, downsample = stage.downsample, None
    if not isinstance(down, nn.Identity):
        steps = _conv(dtype, down.spatial_downsample), _linear(dtype, down.channel_downsample)
        downsample = Downsample(_block(dtype, down.pre_block), *steps, _mlp(dtype, down.ffn))
    return Stage(downsample, [_block(dtype, block) for block in stage.blocks])


def _block(dtype: torch.dtype, block: Any) -> ConvBlock:
    mixer, se, squeeze = block.token_mixer, block.se, None
    if not isinstance(se, nn.Identity):
        squeeze = conv_of(se.fc1).in_dtype(dtype), conv_of(se.fc2).in_dtype(dtype)
    return ConvBlock(_conv(dtype, mixer.conv, mixer.conv1), squeeze, _mlp(dtype, block.channel_mixer))


def _mlp(dtype: torch.dtype, mixer: Any) -> tuple[Linear, Linear]:
    return _linear(dtype, mixer.conv1), _linear(dtype, mixer.conv2)


def _linear(dtype: torch.dtype, layer: Any) -> Linear:
    """Folds a 1x1 convolution and its norm into one linear layer."""
    weight, bias = _fold(layer)
    return Linear(weight.flatten(1).to(dtype), bias.to(dtype))


def _conv(dtype: torch.dtype, layer: Any, pointwise: Any = None) -> Conv:
    """Folds a convolution and its norm into one convolution.

    Args:
        pointwise: 1x1 convolution with a norm. If given, the output of ``pointwise`` and the input are added to the
            output.
    """
    weight, bias = _fold(layer)
    if pointwise is not None:  # a 1x1 weight and the identity are added to the centre of the 3x3 weight
        centre, other_bias = _fold(pointwise)
        weight, bias = weight + F.pad(centre + 1, (1, 1, 1, 1)), bias + other_bias
    return conv_of(layer.c)._replace(weight=weight.to(dtype), bias=bias.to(dtype))


def _fold(layer: Any) -> tuple[Tensor, Tensor]:
    """Folds a batch norm into its convolution. Returns weight and bias in fp32."""
    weight, scale, shift, mean, variance = (x.float() for x in _sources(layer))
    scale = scale * torch.rsqrt(variance + layer.bn.eps)
    return weight * scale[:, None, None, None], shift - mean * scale


# ---- computation ----


def maps_of(ops: Any, trunk: Trunk, images: Tensor) -> list[Tensor]:
    """Returns the maps ``(B, H_i, W_i, C_i)`` of the stages. ``ops`` is ``cpu.ops`` or ``static.ops``."""
    first, second = trunk.stem
    x = torch.ops.aten.gelu_(ops.convolve(images.contiguous(memory_format=torch.channels_last), first))
    x, maps = ops.convolve(x, second), []
    for stage in trunk.stages:
        if stage.downsample is not None:
            x = _downsampled(ops, stage.downsample, x)
        for block in stage.blocks:
            x = _mix(ops, block, x)
        maps.append(x.permute(0, 2, 3, 1))
    return maps


def _downsampled(ops: Any, step: Downsample, x: Tensor) -> Tensor:
    """Downsamples a map ``(B, C, H, W)`` by a factor of 2."""
    x = ops.convolve(_mix(ops, step.block, x), step.spatial)
    rows = ops.chunked(lambda rows: ops.linear(rows, step.channels), x.permute(0, 2, 3, 1), 1)
    return _add_mlp(ops, step.mlp, rows)


def _mix(ops: Any, block: ConvBlock, x: Tensor) -> Tensor:
    """Returns a map ``(B, C, H, W)`` after a block."""
    x = ops.convolve(x, block.token_mixer)
    if block.squeeze is not None:
        first, last = block.squeeze
        x = x.mul_(ops.convolve(ops.convolve(x.mean((2, 3), keepdim=True), first).relu_(), last).sigmoid_())
    return _add_mlp(ops, block.mlp, x.permute(0, 2, 3, 1))


def _add_mlp(ops: Any, layers: tuple[Linear, Linear], rows: Tensor) -> Tensor:
    """Adds an MLP's output to its input ``rows (B, H, W, C)``. Returns ``(B, C, H, W)``."""
    out: Tensor = ops.chunked(lambda rows: ops.add_into(ops.gelu_mlp(rows, layers), rows), rows, 1)
    return out.permute(0, 3, 1, 2)

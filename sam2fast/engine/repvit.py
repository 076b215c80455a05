"""EdgeTAM's image encoder: its plan, and what both variants compute of it."""

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2fast.engine.common import add_into
from sam2fast.engine.derived import TensorCache
from sam2fast.engine.plan import Conv, EncoderPlan, Linear, are_plain, conv_of, is_plain, levels_of
from sam2fast.modeling.image_encoder import FpnNeck, ImageEncoder
from sam2fast.modeling.repvit import WIDTHS, ConvNorm, RepViT


class ConvBlock(NamedTuple):
    """A block, whose norms are parts of its layers."""

    positions: Conv  # mixes neighbours
    scales: tuple[Conv, Conv] | None  # of channels, from their means
    mlp: tuple[Linear, Linear]


class Downsample(NamedTuple):
    """What a stage starts with, apart from the first."""

    block: ConvBlock
    positions: Conv  # of stride 2
    channels: Linear
    mlp: tuple[Linear, Linear]


class Stage(NamedTuple):
    """Blocks at one size."""

    downsample: Downsample | None
    blocks: list[ConvBlock]


class Trunk(NamedTuple):
    """The layers of the trunk in one dtype."""

    stem: tuple[Conv, Conv]
    stages: list[Stage]


class RepViTPlan(EncoderPlan):
    """RepViT and the neck."""

    def __init__(self, encoder: ImageEncoder, heads: Mapping[int, nn.Conv2d]) -> None:
        body, neck = cast(RepViT, encoder.trunk).body, cast(FpnNeck, encoder.neck)
        self.levels = levels_of(neck, heads)
        self.scalp, self.interpolation = encoder.scalp, neck.fpn_interp_model
        self._body, self._trunk = body, TensorCache[Trunk]()
        norms, others = _norms(body), _others(body)
        self._sources = sum(map(_sources, norms), sum(((x.weight, x.bias) for x in others), ()))

    def trunk(self, dtype: torch.dtype | None = None) -> Trunk:
        """Its layers, whose norms are folded into convolutions, in ``dtype`` or that of the weights."""
        dtype = dtype or self.dtype or self._body.stem.conv1.c.weight.dtype
        return self._trunk(dtype, self._sources, lambda: _folded(self._body, dtype))


def are_foldable(trunk: RepViT) -> bool:
    """Whether all its norms have a scale, a shift and statistics, and all other convolutions a bias."""
    norms = _norms(trunk)
    are_whole = all(isinstance(x, Tensor) for layer in norms for x in _sources(layer))
    convolutions = [layer.c for layer in norms]
    return are_whole and are_plain(*_others(trunk)) and all(c.bias is None and is_plain(c) for c in convolutions)


def _norms(body: nn.Module) -> list[ConvNorm]:
    return [module for module in body.modules() if isinstance(module, ConvNorm)]


def _others(body: nn.Module) -> list[Any]:
    """The convolutions without a norm."""
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
    down, found = stage.downsample, None
    if not isinstance(down, nn.Identity):
        steps = _conv(dtype, down.spatial_downsample), _linear(dtype, down.channel_downsample)
        found = Downsample(_block(dtype, down.pre_block), *steps, _mlp(dtype, down.ffn))
    return Stage(found, [_block(dtype, block) for block in stage.blocks])


def _block(dtype: torch.dtype, block: Any) -> ConvBlock:
    mixer, squeeze, scales = block.token_mixer, block.se, None
    if not isinstance(squeeze, nn.Identity):
        scales = conv_of(squeeze.fc1).in_dtype(dtype), conv_of(squeeze.fc2).in_dtype(dtype)
    return ConvBlock(_conv(dtype, mixer.conv, mixer.conv1), scales, _mlp(dtype, block.channel_mixer))


def _mlp(dtype: torch.dtype, mixer: Any) -> tuple[Linear, Linear]:
    return _linear(dtype, mixer.conv1), _linear(dtype, mixer.conv2)


def _linear(dtype: torch.dtype, layer: Any) -> Linear:
    """A 1x1 convolution and its norm as one linear layer."""
    weight, bias = _fold(layer)
    return Linear(weight.flatten(1).to(dtype), bias.to(dtype))


def _conv(dtype: torch.dtype, layer: Any, centre: Any = None) -> Conv:
    """A convolution and its norm as one convolution; also a 1x1 one of the same input, which is added to it together
    with the input itself."""
    weight, bias = _fold(layer)
    if centre is not None:  # what meets one pixel is part of the centre of a 3x3 weight
        pixel, other = _fold(centre)
        weight, bias = weight + F.pad(pixel + 1, (1, 1, 1, 1)), bias + other
    return conv_of(layer.c)._replace(weight=weight.to(dtype), bias=bias.to(dtype))


def _fold(layer: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias, fp32, of a convolution whose results are normalised by stored statistics."""
    weight, scale, shift, mean, variance = (x.float() for x in _sources(layer))
    scale = scale * torch.rsqrt(variance + layer.bn.eps)
    return weight * scale[:, None, None, None], shift - mean * scale


# ---- computation ----


def maps_of(ops: Any, trunk: Trunk, images: Tensor) -> list[Tensor]:
    """The maps ``(B, H_i, W_i, C_i)`` at the ends of stages, by the operations of a variant."""
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
    """A map ``(B, C, H, W)`` at half the height and width, with more channels."""
    x = ops.convolve(_mix(ops, step.block, x), step.positions)
    rows = ops.chunked(lambda rows: ops.linear(rows, step.channels), x.permute(0, 2, 3, 1), 1)
    return _add_mlp(ops, step.mlp, rows)


def _mix(ops: Any, block: ConvBlock, x: Tensor) -> Tensor:
    """A map ``(B, C, H, W)`` after a block."""
    x = ops.convolve(x, block.positions)
    if block.scales is not None:
        first, last = block.scales
        x = x.mul_(ops.convolve(ops.convolve(x.mean((2, 3), keepdim=True), first).relu_(), last).sigmoid_())
    return _add_mlp(ops, block.mlp, x.permute(0, 2, 3, 1))


def _add_mlp(ops: Any, layers: tuple[Linear, Linear], rows: Tensor) -> Tensor:
    """``(B, C, H, W)`` of ``rows (B, H, W, C)`` plus an MLP of them."""
    found: Tensor = ops.chunked(lambda rows: add_into(ops.gelu_mlp(rows, layers), rows), rows, 1)
    return found.permute(0, 3, 1, 2)

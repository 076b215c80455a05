"""What SAM 2's relatives have in place of its parts, by few operations."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.engine.constants import TensorCache
from sam2fast.engine.gpu import image
from sam2fast.engine.gpu.image import ImageWeights
from sam2fast.engine.gpu.ops import (
    Prepared,
    add_into,
    compiled,
    convolve,
    gelu_mlp,
    heads_of,
    linear,
    normalize,
    without_autocast,
)
from sam2fast.engine.plan import Conv, Linear, Norm
from sam2fast.engine.relatives import (
    ConvBlock,
    EncoderPlan,
    Folded,
    LatentAttention,
    LatentLayer,
    LatentMLP,
    PerceiverPlan,
    RepViTPlan,
    Stage,
    ViTPlan,
)


def encode(plan: EncoderPlan, images: Tensor) -> list[Tensor]:
    """Levels ``(B, C_i, H_i, W_i)`` of normalised images ``(B, 3, S, S)``, finest first, the finer ones projected for
    the mask decoder."""
    if isinstance(plan, RepViTPlan):
        folded, weights = _folded(plan, images.device), image.neck_weights(plan, images.device)
        with without_autocast(images.device):
            return compiled(plan, _levels_of_repvit)(plan, folded, weights, images)
    if isinstance(plan, ViTPlan):
        found = _vit_weights(plan, images.device)
        with without_autocast(images.device):
            return compiled(plan, _levels_of_vit)(plan, found, images)
    return image.encode(plan, images)


# ---- RepViT ----


class FoldedBlock(NamedTuple):
    """A block whose norms are parts of its layers."""

    positions: Conv
    scales: tuple[Conv, Conv] | None
    mlp: tuple[Linear, Linear]


class FoldedDownsample(NamedTuple):
    """What a stage starts with, apart from the first."""

    block: FoldedBlock
    positions: Conv
    channels: Linear
    mlp: tuple[Linear, Linear]


class FoldedStage(NamedTuple):
    """Blocks at one size."""

    downsample: FoldedDownsample | None
    blocks: list[FoldedBlock]


class FoldedRepViT(NamedTuple):
    """The layers of the trunk in the dtype that products are computed in."""

    stem: tuple[Conv, Conv]
    stages: list[FoldedStage]


def _folded(plan: RepViTPlan, device: torch.device) -> FoldedRepViT:
    is_cast = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type) if is_cast else plan.stem[0].dtype

    def compute() -> FoldedRepViT:
        with without_autocast(device):
            first, second = (_conv(layer, dtype) for layer in plan.stem)
            return FoldedRepViT((first, second), [_stage(stage, dtype) for stage in plan.stages])

    if plan.folded is None:
        plan.folded = TensorCache[FoldedRepViT]()
    found: FoldedRepViT = plan.folded(dtype, plan.sources, compute)
    return found


def _stage(stage: Stage, dtype: torch.dtype) -> FoldedStage:
    down, found = stage.downsample, None
    if down is not None:
        steps = _conv(down.positions, dtype), _linear(down.channels, dtype)
        found = FoldedDownsample(_block(down.block, dtype), *steps, _mlp(down.mlp, dtype))
    return FoldedStage(found, [_block(block, dtype) for block in stage.blocks])


def _block(block: ConvBlock, dtype: torch.dtype) -> FoldedBlock:
    scales = None if block.scales is None else (block.scales[0].in_dtype(dtype), block.scales[1].in_dtype(dtype))
    return FoldedBlock(_conv(block.positions, dtype), scales, _mlp(block.mlp, dtype))


def _mlp(layers: tuple[Folded, Folded], dtype: torch.dtype) -> tuple[Linear, Linear]:
    first, last = layers
    return _linear(first, dtype), _linear(last, dtype)


def _conv(layer: Folded, dtype: torch.dtype) -> Conv:
    return layer.like(*layer.fold(dtype))


def _linear(layer: Folded, dtype: torch.dtype) -> Linear:
    weight, bias = layer.fold(dtype)
    return Linear(weight.flatten(1), bias)


def _levels_of_repvit(plan: RepViTPlan, folded: FoldedRepViT, weights: ImageWeights, images: Tensor) -> list[Tensor]:
    first, second = folded.stem
    x = F.gelu(convolve(images.contiguous(memory_format=torch.channels_last), first))
    x, maps = convolve(x, second), []
    for stage in folded.stages:
        if stage.downsample is not None:
            x = _downsampled(stage.downsample, x)
        for block in stage.blocks:
            x = _mix(block, x)
        maps.append(x.permute(0, 2, 3, 1))
    return image.neck(plan, weights, maps)


def _downsampled(step: FoldedDownsample, x: Tensor) -> Tensor:
    """A map ``(B, C, H, W)`` at half the height and width, with more channels."""
    x = convolve(_mix(step.block, x), step.positions)
    return _add_mlp(step.mlp, linear(x.permute(0, 2, 3, 1), step.channels))


def _mix(block: FoldedBlock, x: Tensor) -> Tensor:
    """A map ``(B, C, H, W)`` after a block."""
    x = convolve(x, block.positions)
    if block.scales is not None:
        first, last = block.scales
        x = x * convolve(convolve(x.mean((2, 3), keepdim=True), first).relu_(), last).sigmoid_()
    return _add_mlp(block.mlp, x.permute(0, 2, 3, 1))


def _add_mlp(layers: tuple[Linear, Linear], rows: Tensor) -> Tensor:
    """``(B, C, H, W)`` of ``rows (B, H, W, C)`` plus an MLP of them."""
    return add_into(gelu_mlp(rows, layers), rows).permute(0, 3, 1, 2)


# ---- the plain transformer ----


class ViTWeights(NamedTuple):
    """The layers in the dtype that products are computed in."""

    trunk: ImageWeights
    neck: list[tuple[Conv, Norm | None]]


def _vit_weights(plan: ViTPlan, device: torch.device) -> ViTWeights:
    if plan.prepared is None:
        plan.prepared = Prepared((plan.patches, plan.blocks, plan.neck), image.added_biases(plan.blocks))

    def compute(tree: Any, dtype: torch.dtype) -> ViTWeights:
        patches, blocks, neck = tree
        return ViTWeights(ImageWeights(patches, blocks, image.deferred_biases(plan.blocks), [], []), neck)

    found: ViTWeights = plan.prepared.of(device, compute)
    return found


def _levels_of_vit(plan: ViTPlan, weights: ViTWeights, images: Tensor) -> list[Tensor]:
    x = image.trunk(plan, weights.trunk, images)[-1].permute(0, 3, 1, 2)
    for layer, norm in weights.neck:
        x = convolve(x, layer)
        x = x if norm is None else normalize(x.permute(0, 2, 3, 1), norm, torch.float32).permute(0, 3, 1, 2)
    return [x][: 1 - plan.scalp]


# ---- the perceiver ----


def compress(plan: PerceiverPlan, memories: Tensor, position: Tensor) -> Tensor:
    """Memories ``(B, C, H, W)`` with their encoding as tokens ``(B, C, L, 1)``: latents that read the whole map, and
    latents that read a window each."""
    (B, C, H, W), g = memories.shape, plan.grid
    tokens, position = (x.flatten(2).transpose(1, 2) for x in (memories, position))
    windows = memories.reshape(B, C, g, H // g, g, W // g).permute(0, 2, 4, 3, 5, 1).reshape(B * g * g, -1, C)
    latents, local = plan.latents.expand(B, -1, -1), plan.local.expand(B, -1, -1).reshape(-1, 1, C)
    for layer in plan.layers:
        latents, local = _read(layer, latents, tokens, position), _read(layer, local, windows, None)
    compressed = torch.cat([latents, local.reshape(B, -1, C)], dim=1)
    return normalize(compressed, plan.norm, memories.dtype).transpose(1, 2)[..., None]


def _read(layer: LatentLayer, latents: Tensor, tokens: Tensor, position: Tensor | None) -> Tensor:
    """Latents ``(B, L, C)`` after a layer, in which they attend to tokens ``(B, M, C)``."""
    latents = latents + _attend(layer.to_tokens, latents, tokens, position)
    latents = latents + _feed_forward(layer.mlp, latents)
    latents = latents + _attend(layer.to_each_other, latents, None, None)
    return latents + _feed_forward(layer.last_mlp, latents)


def _attend(layer: LatentAttention, latents: Tensor, tokens: Tensor | None, position: Tensor | None) -> Tensor:
    dtype = layer.q.dtype
    read = normed = normalize(latents, layer.norm, dtype)
    if tokens is not None:
        assert layer.token_norm is not None
        read = normalize(tokens, layer.token_norm, dtype)
    q, kv = F.linear(normed, layer.q), F.linear(read, layer.kv)
    k, v = kv.chunk(2, dim=-1)
    if position is not None:
        placed = position.to(dtype)
        k, v = k + placed, v + placed
    q, k, v = (heads_of(x, layer.heads) for x in (q, k, v))
    return F.linear(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2), layer.out)


def _feed_forward(layer: LatentMLP, x: Tensor) -> Tensor:
    dtype = layer.first.dtype
    return F.linear(F.gelu(F.linear(normalize(x, layer.norm, dtype), layer.first)), layer.last)

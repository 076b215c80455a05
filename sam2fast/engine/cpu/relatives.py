"""What SAM 2's relatives have in place of its parts, on the CPU."""

import torch
from torch import Tensor

from sam2fast.engine.cpu import image
from sam2fast.engine.cpu.ops import add_into, attention, chunked, convolve, gelu_mlp, normalize
from sam2fast.engine.relatives import (
    ConvBlock,
    Downsample,
    EncoderPlan,
    Folded,
    LatentAttention,
    LatentLayer,
    LatentMLP,
    PerceiverPlan,
    RepViTPlan,
    ViTPlan,
)
from sam2fast.kernels._cpu import linear_in_inference


def encode(plan: EncoderPlan, images: Tensor) -> list[Tensor]:
    """Levels ``(B, C_i, H_i, W_i)`` of normalised images ``(B, 3, S, S)``, finest first, the finer ones projected for
    the mask decoder."""
    if isinstance(plan, RepViTPlan):
        return image.neck(plan, _repvit(plan, images))
    return _encode_by_vit(plan, images) if isinstance(plan, ViTPlan) else image.encode(plan, images)


def _repvit(plan: RepViTPlan, images: Tensor) -> list[Tensor]:
    """The maps ``(B, H_i, W_i, C_i)`` at the ends of stages."""
    first, second = (layer.conv() for layer in plan.stem)
    x = torch.ops.aten.gelu_(convolve(images.contiguous(memory_format=torch.channels_last), first))
    x, maps = convolve(x, second), []
    for stage in plan.stages:
        if stage.downsample is not None:
            x = _downsampled(stage.downsample, x)
        for block in stage.blocks:
            x = _mix(block, x)
        maps.append(x.permute(0, 2, 3, 1))
    return maps


def _downsampled(step: Downsample, x: Tensor) -> Tensor:
    """A map ``(B, C, H, W)`` at half the height and width, with more channels."""
    x = convolve(_mix(step.block, x), step.positions.conv())
    return _add_mlp(step.mlp, image.project(x.permute(0, 2, 3, 1), step.channels.linear()).permute(0, 3, 1, 2))


def _mix(block: ConvBlock, x: Tensor) -> Tensor:
    """A map ``(B, C, H, W)`` after a block."""
    x = convolve(x, block.positions.conv())
    if block.scales is not None:
        first, last = block.scales
        x.mul_(convolve(convolve(x.mean((2, 3), keepdim=True), first).relu_(), last).sigmoid_())
    return _add_mlp(block.mlp, x)


def _add_mlp(layers: tuple[Folded, Folded], x: Tensor) -> Tensor:
    """A map ``(B, C, H, W)`` plus an MLP of each position."""
    first, last = (layer.linear() for layer in layers)
    rows = chunked(lambda rows: add_into(gelu_mlp(rows, (first, last)), rows), x.permute(0, 2, 3, 1), 1)
    return rows.permute(0, 3, 1, 2)


def _encode_by_vit(plan: ViTPlan, images: Tensor) -> list[Tensor]:
    x = image.trunk(plan, images)[-1].permute(0, 3, 1, 2)
    for layer, norm in plan.neck:
        x = convolve(x, layer)
        x = x if norm is None else normalize(x.permute(0, 2, 3, 1), norm).permute(0, 3, 1, 2)
    return [x][: 1 - plan.scalp]


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
    latents = add_into(_attend(layer.to_tokens, latents, tokens, position), latents)
    latents = add_into(_feed_forward(layer.mlp, latents), latents)
    latents = add_into(_attend(layer.to_each_other, latents, None, None), latents)
    return add_into(_feed_forward(layer.last_mlp, latents), latents)


def _attend(layer: LatentAttention, latents: Tensor, tokens: Tensor | None, position: Tensor | None) -> Tensor:
    normed = normalize(latents, layer.norm, layer.q.dtype)
    if tokens is not None:
        assert layer.token_norm is not None
        tokens = normalize(tokens, layer.token_norm, layer.kv.dtype)
    q = linear_in_inference(normed, layer.q)
    k, v = linear_in_inference(normed if tokens is None else tokens, layer.kv).chunk(2, dim=-1)
    if position is not None:
        k, v = k.add_(position.to(k.dtype)), v.add_(position.to(v.dtype))
    q, k, v = (x.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for x in (q, k, v))
    return linear_in_inference(attention(q, k, v).transpose(1, 2).flatten(2), layer.out)


def _feed_forward(layer: LatentMLP, x: Tensor) -> Tensor:
    hidden = linear_in_inference(normalize(x, layer.norm, layer.first.dtype), layer.first)
    return linear_in_inference(torch.ops.aten.gelu_(hidden), layer.last)

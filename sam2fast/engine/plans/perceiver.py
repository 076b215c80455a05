"""Defines and computes the plan of EdgeTAM's perceiver for ``cpu`` and ``static``. Perceivers compress memories."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sam2fast.engine.plans import Linear, Norm, is_gelu, linear_of, norm_of
from sam2fast.modeling.perceiver import PerceiverResampler


class LatentAttention(NamedTuple):
    """Weights of cross-attention from latents to tokens, or of self-attention of latents. No layer has a bias."""

    heads: int
    norm: Norm  # norm of the latents
    token_norm: Norm | None  # norm of the tokens; None for self-attention
    q: Linear
    kv: Linear
    out: Linear


class LatentMLP(NamedTuple):
    """Weights of a norm and two linear layers without biases."""

    norm: Norm
    first: Linear
    last: Linear


class LatentLayer(NamedTuple):
    """Weights of a layer of the perceiver."""

    cross_attn: LatentAttention
    mlp: LatentMLP
    self_attn: LatentAttention
    last_mlp: LatentMLP


class PerceiverPlan(NamedTuple):
    """Plan of the perceiver."""

    latents: Tensor  # (L, C), latents that attend to the whole map
    local: Tensor  # (grid ** 2, C), latents that attend to one window each
    grid: int  # number of windows per side of the map
    layers: list[LatentLayer]
    norm: Norm


def plan_perceiver(perceiver: nn.Module) -> PerceiverPlan | None:
    """Returns the plan of an unmodified perceiver, or None if plans do not support its layers."""
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
    layers = map(linear_of, (layer.to_q, layer.to_kv, layer.to_out))
    return LatentAttention(layer.heads, norm_of(norm), token_norm, *layers)


def _latent_mlp(layers: Any) -> LatentMLP:
    norm, first, _, last = layers
    return LatentMLP(norm_of(norm), linear_of(first), linear_of(last))


def compress(ops: Any, plan: PerceiverPlan, memories: Tensor, position: Tensor) -> Tensor:
    """Compresses memories ``(B, C, H, W)`` with a position encoding to tokens ``(B, C, L, 1)``.

    Args:
        ops: Module ``cpu.ops`` or ``static.ops``.
    """
    (B, C, H, W), g = memories.shape, plan.grid
    tokens, position = (x.flatten(2).transpose(1, 2) for x in (memories, position))
    windows = memories.reshape(B, C, g, H // g, g, W // g).permute(0, 2, 4, 3, 5, 1).reshape(B * g * g, -1, C)
    latents, local = plan.latents.expand(B, -1, -1), plan.local.expand(B, -1, -1).reshape(-1, 1, C)
    for layer in plan.layers:
        latents, local = _read(ops, layer, latents, tokens, position), _read(ops, layer, local, windows, None)
    compressed = torch.cat([latents, local.reshape(B, -1, C)], dim=1)
    normed: Tensor = ops.normalize(compressed, plan.norm, memories.dtype)
    return normed.transpose(1, 2)[..., None]


def _read(ops: Any, layer: LatentLayer, latents: Tensor, tokens: Tensor, position: Tensor | None) -> Tensor:
    """Returns latents ``(B, L, C)`` after a layer with cross-attention to tokens ``(B, M, C)``."""
    latents = latents + _attend(ops, layer.cross_attn, latents, tokens, position)
    latents = latents + _feed_forward(ops, layer.mlp, latents)
    latents = latents + _attend(ops, layer.self_attn, latents, None, None)
    return latents + _feed_forward(ops, layer.last_mlp, latents)


def _attend(
    ops: Any, layer: LatentAttention, latents: Tensor, tokens: Tensor | None, position: Tensor | None
) -> Tensor:
    dtype = layer.q.weight.dtype
    source = normed = ops.normalize(latents, layer.norm, dtype)
    if tokens is not None:
        source = ops.normalize(tokens, layer.token_norm, dtype)
    q, (k, v) = ops.linear(normed, layer.q), ops.linear(source, layer.kv).chunk(2, dim=-1)
    if position is not None:
        position = position.to(dtype)
        k, v = k + position, v + position
    q, k, v = (x.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for x in (q, k, v))
    out: Tensor = ops.linear(ops.attention(q, k, v).transpose(1, 2).flatten(2), layer.out)
    return out


def _feed_forward(ops: Any, layer: LatentMLP, x: Tensor) -> Tensor:
    hidden = ops.linear(ops.normalize(x, layer.norm, layer.first.weight.dtype), layer.first)
    out: Tensor = ops.linear(torch.ops.aten.gelu_(hidden), layer.last)
    return out

"""Computes memory attention and memory encoder on the CPU."""

from functools import partial

import torch
from torch import Tensor

from sam2fast.engine.common import AttendHook, by_head, masks_for_memory, repeated
from sam2fast.engine.cpu import ops
from sam2fast.engine.cpu.ops import add_into, chunked, convolve, gelu_mlp, linear, mlp, normalize
from sam2fast.engine.plans.memory import AttendingLayer, AttentionPlan, FuserLayer, MemoryPlan, MemorySettings, Rotation
from sam2fast.engine.plans.perceiver import compress
from sam2fast.kernels.mask_ops import scaled_masks
from sam2fast.kernels.memory_attention import (
    LONG,
    AttendedMemory,
    Fp8,
    memory_attention_cpu,
    rope_attention_cpu,
    rope_attention_reference,
)


def attend(
    plan: AttentionPlan,
    features: Tensor,
    position: Tensor,
    memory: AttendedMemory,
    fp8: Fp8,
    hook: AttendHook | None = None,
) -> Tensor:
    """Conditions a frame's map ``(1, C, H, W)`` on the memories of B objects. Returns ``(B, C, H, W)``."""
    x, position = (y.flatten(2).transpose(1, 2) for y in (features, position))  # (1, P, C)
    x = x + 0.1 * position
    rotations = plan.rotations(x.shape[1], memory.pages.shape[1], x.device)
    for i, (layer, (self_rotation, rotation)) in enumerate(zip(plan.layers, rotations, strict=True)):
        x = add_into(_attend_to_itself(layer, x, self_rotation), x)
        operands = _query(layer, x), memory, *layer.cross.k, *layer.cross.v
        if hook is not None:
            hook(i, *operands, *rotation)
        out = memory_attention_cpu(*operands, *rotation, fp8=fp8, pooling=layer.pooling)
        x = add_into(linear(out, layer.cross.out), x)
        x = add_into(_feed_forward(layer, x), x)
    return normalize(x, plan.norm).transpose(1, 2).unflatten(2, features.shape[-2:])


def _attend_to_itself(layer: AttendingLayer, x: Tensor, rotation: Rotation) -> Tensor:
    attn = layer.self_attn
    tokens = normalize(x, layer.norm1, attn.q.weight.dtype)
    q, k, v = by_head(attn.heads, *(linear(tokens, projection) for projection in (attn.q, attn.k, attn.v)))
    rope_attention = rope_attention_cpu if x.shape[1] >= LONG else rope_attention_reference
    out = rope_attention(q, k, v, *rotation)
    return linear(out.transpose(1, 2).flatten(2), attn.out)


def _query(layer: AttendingLayer, x: Tensor) -> Tensor:
    """Returns queries ``(1 or B, heads, P, d)`` for attention to the memory."""
    cross = layer.cross
    query = linear(normalize(x, layer.norm2, cross.q.weight.dtype), cross.q)
    return query.unflatten(-1, (cross.heads, -1)).transpose(1, 2)


def _feed_forward(layer: AttendingLayer, x: Tensor) -> Tensor:
    tokens = normalize(x, layer.norm3, layer.mlp[0].weight.dtype)
    tokens = tokens.reshape(1, -1, 1, x.shape[-1])  # tokens of all objects as rows, so that chunks are contiguous
    return chunked(partial(mlp, layers=layer.mlp), tokens, 1).view(x.shape)


def encode(
    plan: MemoryPlan, settings: MemorySettings, features: Tensor, masks: Tensor, scores: Tensor, from_prompt: bool
) -> Tensor:
    """Encodes memories ``(B, C_mem, H, W)`` of masks on a frame. :meth:`Engine.encode_memory` lists the arguments."""
    is_binary, dtype = settings.binarizes and from_prompt, plan.downsampling[0][0].weight.dtype
    masks = masks_for_memory(settings, masks)
    x = scaled_masks(masks, settings.size, settings.scale, settings.bias, is_binary, dtype)
    for conv, norm in plan.downsampling:
        normed = normalize(convolve(x, conv).permute(0, 2, 3, 1), norm)
        x = torch.ops.aten.gelu_(normed).permute(0, 3, 1, 2)
    x = convolve(features, plan.pixels) + convolve(x, plan.downsampled)
    for layer in plan.fuser:
        x = _fuse(layer, x)
    x = x if plan.out is None else convolve(x, plan.out)
    if settings.no_obj_embed_spatial is not None:
        x = torch.addcmul(x, (scores <= 0)[..., None, None], settings.no_obj_embed_spatial[..., None, None]).to(x.dtype)
    return x if plan.perceiver is None else compress(ops, plan.perceiver, x, plan.position(x))


def _fuse(layer: FuserLayer, x: Tensor) -> Tensor:
    dtype = layer.mlp[0].weight.dtype
    y = normalize(convolve(x, layer.conv).permute(0, 2, 3, 1), layer.norm, dtype)
    y = chunked(partial(gelu_mlp, layers=layer.mlp), y, 1).permute(0, 3, 1, 2)
    return x + y if layer.gamma is None else torch.addcmul(x, layer.gamma[:, None, None], y).to(dtype)


def encode_distances(plan: MemoryPlan, settings: MemorySettings, distance: Tensor, num_frames: int) -> Tensor:
    """Computes :meth:`Engine.encode_distances`. Returns zeros if ``add_tpos_enc_to_obj_ptrs`` is False."""
    layer = plan.distances
    if not settings.add_tpos_enc_to_obj_ptrs:
        return distance.new_zeros(len(distance), distance.shape[1] * settings.tokens, settings.width)
    sines = plan.sines(settings, distance, num_frames, None if layer is None else layer.weight.dtype)
    return repeated(sines if layer is None else linear(sines, layer), settings.tokens)

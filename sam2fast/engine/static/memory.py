"""Computes memory attention and memory encoder with few operations."""

from collections.abc import Callable
from functools import partial
from itertools import starmap
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sam2fast.engine.common import AttendHook, by_head, masks_for_memory, repeated
from sam2fast.engine.plans import Conv, Linear, Norm, Projections
from sam2fast.engine.plans.memory import AttendingLayer, AttentionPlan, MemoryPlan, MemorySettings, Rotation
from sam2fast.engine.plans.perceiver import PerceiverPlan, compress
from sam2fast.engine.static import ops
from sam2fast.engine.static.ops import (
    Prepared,
    add_product,
    add_scaled,
    compiled,
    convolve,
    joined,
    linear,
    mlp,
    normalize,
    normalize_sum,
    parameters_of,
    pointwise,
    without_autocast,
)
from sam2fast.kernels.depthwise_norm import depthwise_norm
from sam2fast.kernels.layer_norm import shifted_layer_norm
from sam2fast.kernels.linear_gelu import linear_gelu
from sam2fast.kernels.mask_downsampler import downsample_logits, downsample_map
from sam2fast.kernels.memory_attention import (
    AttendedMemory,
    Fp8,
    add_memory_attention,
    add_rope_attention,
    memory_attention,
    rope_attention,
)

# ---- attention ----


class JoinedAttending(NamedTuple):
    """Layer of memory attention with joined linear layers.

    If an attention has one head, the value and output projections are composed to one linear layer.
    """

    layer: AttendingLayer
    qkv: Linear  # queries, keys and values of self-attention
    self_out: Linear | None  # output projection of self-attention; None if composed
    values: Linear  # value projection of cross-attention; may include the output projection
    cross_out: Linear | None  # output projection of cross-attention; None if composed


def attend(
    plan: AttentionPlan,
    features: Tensor,
    position: Tensor,
    memory: AttendedMemory,
    fp8: Fp8,
    hook: AttendHook | None = None,
) -> Tensor:
    """Conditions a frame's map ``(1, C, H, W)`` on the memories of B objects. Returns ``(B, C, H, W)``."""
    layers = _layers(plan, features.device)
    rotations = plan.rotations(features.shape[2] * features.shape[3], memory.pages.shape[1], features.device)
    attend_all = _attend_all if hook else compiled(plan, _attend_all)
    with without_autocast(features.device):
        return attend_all(plan, layers, rotations, features, position, memory, fp8, hook)


def _attend_all(
    plan: AttentionPlan,
    layers: list[JoinedAttending],
    rotations: list[tuple[Rotation, Rotation]],
    features: Tensor,
    position: Tensor,
    memory: AttendedMemory,
    fp8: Fp8,
    hook: AttendHook | None,
) -> Tensor:
    x, position = (y.flatten(2).transpose(1, 2) for y in (features, position))  # (1, P, C)
    # The map is x + delta. The next norm computes this sum.
    delta = plan.added(None, (position,), lambda: (0.1 * position).contiguous())
    for i, (layer, rotation) in enumerate(zip(layers, rotations, strict=True)):
        x, delta = _attend(layer, rotation, x, delta, memory, fp8, hook and partial(hook, i))
    out = shifted_layer_norm(x, delta, *plan.norm)
    return out.transpose(1, 2).unflatten(2, features.shape[-2:])


def _layers(plan: AttentionPlan, device: torch.device) -> list[JoinedAttending]:
    if plan.prepared is None:
        pairs = [(layer.self_attn, layer.cross) for layer in plan.layers]
        products = [layer for self_attn, cross in pairs for layer in (*self_attn[1:], cross.v, cross.out)]
        plan.prepared = Prepared(plan.layers, parameters_of(*products))

    def compute(layers: list[AttendingLayer], dtype: torch.dtype) -> list[JoinedAttending]:
        return [_joined(layer, in_dtype, dtype) for layer, in_dtype in zip(plan.layers, layers, strict=True)]

    return plan.prepared.of(device, compute)


def _joined(layer: AttendingLayer, in_dtype: AttendingLayer, dtype: torch.dtype) -> JoinedAttending:
    self_attn = in_dtype.self_attn
    self_values, self_out = _values(layer.self_attn, self_attn, dtype)
    cross_values, cross_out = _values(layer.cross, in_dtype.cross, dtype)
    return JoinedAttending(in_dtype, joined(self_attn.q, self_attn.k, self_values), self_out, cross_values, cross_out)


def _values(exact: Projections, in_dtype: Projections, dtype: torch.dtype) -> tuple[Linear, Linear | None]:
    """Returns the value and output projections. With one head, returns the two projections as one layer, and None."""
    if exact.heads > 1:
        return in_dtype.v, in_dtype.out
    out, values = exact.out, exact.v  # composed in fp32, before the cast to dtype
    bias = torch.addmv(out.bias.float(), out.weight.float(), values.bias.float())
    return Linear((out.weight.float() @ values.weight.float()).to(dtype), bias.to(dtype)), None


def _attend(
    joined_layer: JoinedAttending,
    rotations: tuple[Rotation, Rotation],
    x: Tensor,
    delta: Tensor,
    memory: AttendedMemory,
    fp8: Fp8,
    hook: Callable[..., None] | None,
) -> tuple[Tensor, Tensor]:
    """Applies a layer to tokens ``x + delta (1 or B, P, C)``. Returns ``(x, delta)``, each ``(B, P, C)``."""
    layer, cross, dtype = joined_layer.layer, joined_layer.layer.cross, joined_layer.qkv.weight.dtype
    x, normed = normalize_sum(x, delta, layer.norm1, dtype)
    self_rotation, rotation = rotations
    x, normed = _attend_to_itself(joined_layer, x, normed, self_rotation)
    query = linear(normed, cross.q).unflatten(-1, (cross.heads, -1)).transpose(1, 2)
    if hook is not None:
        hook(query, memory, *cross.k, *cross.v, *rotation)
    rest, pooling = (*cross.k, *joined_layer.values, *rotation), layer.pooling
    if joined_layer.cross_out is None:
        weight, bias, eps = layer.norm3
        x, normed = add_memory_attention(x, weight, bias, eps, query, memory, *rest, fp8=fp8, pooling=pooling)
    else:
        out = linear(memory_attention(query, memory, *rest, fp8=fp8, pooling=pooling), joined_layer.cross_out)
        x, normed = normalize_sum(x.expand_as(out), out, layer.norm3, dtype)
    return x, mlp(normed, layer.mlp)


def _attend_to_itself(layer: JoinedAttending, x: Tensor, normed: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
    """Adds self-attention of ``normed`` to tokens ``x``. Returns the sum and its norm."""
    heads, norm = layer.layer.self_attn.heads, layer.layer.norm2
    q, k, v = by_head(heads, *linear(normed, layer.qkv).chunk(3, dim=-1))
    if layer.self_out is None:
        return add_rope_attention(x, *norm, q, k, v, *rotation)
    out = rope_attention(q, k, v, *rotation).transpose(1, 2).flatten(2)
    x, normed = normalize_sum(x, linear(out, layer.self_out), norm, normed.dtype)
    return x, normed


# ---- encoder ----


class Downsampling(NamedTuple):
    """Strided convolution with a norm and GELU, on channels-last maps."""

    tensors: tuple[Tensor, Tensor, Tensor, Tensor]  # weight (N, k, k, C) and bias; weight and bias of the norm
    stride: int
    padding: int
    eps: float


class FusedBlock(NamedTuple):
    """ConvNeXt block on a channels-last map. The output bias is deferred, as part of ``shift`` of later blocks."""

    shift: Tensor | None  # (C), sum of the deferred biases of earlier blocks
    conv: Conv  # weight (k, k, C) if depthwise
    norm: Norm
    first: Linear
    last: Tensor  # (C, 4 C), multiplied by gamma


class MemoryWeights(NamedTuple):
    """Layers in the dtype of matrix multiplications, with weights for channels-last maps."""

    downsampling: list[Downsampling]
    pixels: Linear  # the bias includes the bias of the mask downsampler's last layer
    downsampled: Tensor  # (C, C, 1, 1)
    fuser: list[FusedBlock]
    shift: Tensor | None  # (C), sum of the biases of all blocks; None if the bias of ``out`` includes the sum
    out: Linear | None
    distances: Linear | None  # layer for distances, with repeated outputs for all tokens of a pointer
    perceiver: PerceiverPlan | None


def _weights(plan: MemoryPlan, device: torch.device) -> MemoryWeights:
    if plan.prepared is None:
        maps = plan.pixels, plan.downsampled, plan.out
        tree = plan.downsampling, maps, plan.fuser, plan.distances, plan.perceiver
        sources = [conv.weight for conv, _ in plan.downsampling]
        sources += [] if plan.distances is None else parameters_of(plan.distances)
        sources += [x for layer in maps if layer is not None for x in layer[:2] if x is not None]
        sources += [x for layer in plan.fuser for x in (layer.conv.weight, *layer.mlp[1], layer.gamma) if x is not None]
        plan.prepared = Prepared(tree, sources)

    def compute(tree: Any, dtype: torch.dtype) -> MemoryWeights:
        """Returns parameters and new tensors, but no views of parameters: ``Constants`` would write to the views."""
        downsampling, (pixels, downsampled, out), fuser, distances, perceiver = tree
        shift: Tensor | None = None
        blocks = []
        for layer, exact in zip(fuser, plan.fuser, strict=True):
            weight, bias = (x.float() for x in exact.mlp[1])  # multiplied by gamma in fp32
            if exact.gamma is not None:
                weight, bias = exact.gamma.float()[:, None] * weight, exact.gamma.float() * bias
            conv, before = layer.conv, None if shift is None else shift.to(dtype)
            if conv.groups > 1:
                conv = conv._replace(
                    weight=conv.weight[:, 0].permute(1, 2, 0).clone(memory_format=torch.contiguous_format)
                )
            blocks.append(FusedBlock(before, conv, layer.norm, layer.mlp[0], weight.to(dtype)))
            shift = bias if shift is None else shift + bias
        if out is not None:
            bias = out.bias
            if shift is not None:
                bias = torch.addmv(bias.float(), out.weight.flatten(1).float(), shift).to(dtype)
            out, shift = Linear(out.weight, bias), None
        return MemoryWeights(
            list(starmap(_downsampling_of, downsampling)),
            Linear(pixels.weight, pixels.bias + downsampled.bias),
            downsampled.weight,
            blocks,
            None if shift is None else shift.to(dtype),
            out,
            None if distances is None else joined(*[distances] * (len(pixels.bias) // len(distances.bias))),
            perceiver,
        )

    return plan.prepared.of(device, compute)


def _downsampling_of(conv: Any, norm: Norm) -> Downsampling:
    weight = conv.weight.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format)
    return Downsampling((weight, conv.bias, norm.weight, norm.bias), conv.stride[0], conv.padding[0], norm.eps)


def encode(
    plan: MemoryPlan, settings: MemorySettings, features: Tensor, masks: Tensor, scores: Tensor, from_prompt: bool
) -> Tensor:
    """Encodes memories ``(B, C_mem, H, W)`` of masks on a frame. :meth:`Engine.encode_memory` lists the arguments."""
    weights = _weights(plan, features.device)
    position = None if plan.perceiver is None else plan.position(features)
    with without_autocast(features.device):
        return compiled(plan, _encode)(weights, settings, features, position, masks, scores, from_prompt)


def _encode(
    weights: MemoryWeights,
    settings: MemorySettings,
    features: Tensor,
    position: Tensor | None,
    masks: Tensor,
    scores: Tensor,
    from_prompt: bool,
) -> Tensor:
    mask = _downsampled(weights.downsampling, settings, masks_for_memory(settings, masks), from_prompt)
    x = pointwise(features.permute(0, 2, 3, 1), weights.pixels).expand(len(mask), -1, -1, -1).contiguous()
    add_product(x, mask, weights.downsampled.flatten(1))
    for block in weights.fuser:
        add_product(x, linear_gelu(_convolved(block, x), *block.first), block.last)
    if weights.shift is not None:
        x = x + weights.shift
    x = x if weights.out is None else pointwise(x, weights.out)
    if settings.no_obj_embed_spatial is not None:
        absence, embedding = (scores <= 0)[..., None, None], settings.no_obj_embed_spatial[:, None, None]
        x = add_scaled(x, absence, embedding, x.dtype)
    x = x.permute(0, 3, 1, 2)
    return x if weights.perceiver is None or position is None else compress(ops, weights.perceiver, x, position)


def _convolved(block: FusedBlock, x: Tensor) -> Tensor:
    """Applies a block's convolution and norm to ``(B, H, W, C)``."""
    shift, conv, norm = block[:3]
    if conv.groups > 1:
        assert conv.bias is not None
        return depthwise_norm(x, shift, conv.weight, conv.bias, *norm)
    x = (x if shift is None else x + shift).permute(0, 3, 1, 2)
    return normalize(convolve(x, conv).permute(0, 2, 3, 1), norm, x.dtype)


def _downsampled(steps: list[Downsampling], settings: MemorySettings, masks: Tensor, from_prompt: bool) -> Tensor:
    """Downsamples mask logits to maps ``(B, H, W, C)``."""
    first, *others = steps
    mask = settings.size, settings.scale, settings.bias, settings.binarizes and from_prompt
    x = downsample_logits(masks, *first.tensors, *mask, first.stride, first.padding, first.eps)
    for step in others:
        x = downsample_map(x, *step.tensors, step.stride, step.padding, step.eps)
    return x


def encode_distances(plan: MemoryPlan, settings: MemorySettings, distance: Tensor, num_frames: int) -> Tensor:
    """Computes :meth:`Engine.encode_distances`. Returns zeros if ``add_tpos_enc_to_obj_ptrs`` is False."""
    layer = _weights(plan, distance.device).distances
    if not settings.add_tpos_enc_to_obj_ptrs:
        return distance.new_zeros(len(distance), distance.shape[1] * settings.tokens, settings.width)
    sines = plan.sines(settings, distance, num_frames, None if layer is None else layer.weight.dtype)
    with without_autocast(distance.device):
        if layer is None:
            return repeated(sines, settings.tokens)
        return linear(sines, layer).unflatten(-1, (settings.tokens, -1)).flatten(1, 2)

"""Memory attention, memory encoder and object pointers by few operations."""

from collections.abc import Callable
from functools import partial
from itertools import starmap
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sam2fast.engine.common import AttendHook, by_head, masks_for_memory, repeated
from sam2fast.engine.memory_plan import AttendingLayer, AttentionPlan, MemoryPlan, MemorySettings, Rotation
from sam2fast.engine.perceiver import PerceiverPlan, compress
from sam2fast.engine.plan import Conv, Linear, Norm, Projections
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
    mlps,
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
    """Stores a layer of memory attention, and products of its linear layers. With one head, values are projected to the
    output before they are attended to, and an attention needs no projection after it."""

    layer: AttendingLayer
    own: Linear  # queries, keys and values of the frame's attention to itself
    own_out: Linear | None  # the projection to the output where there are several heads
    values: Linear  # of the memory
    out: Linear | None  # as own_out


def attend(
    plan: AttentionPlan,
    features: Tensor,
    position: Tensor,
    memory: AttendedMemory,
    fp8: Fp8,
    hook: AttendHook | None = None,
) -> Tensor:
    """A frame's map ``(1, C, H, W)`` with its encoding for B objects, each conditioned on its own memory:
    ``(B, C, H, W)``."""
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
    # The sum of the two is the map so far, which the next norm adds.
    delta = plan.added(None, (position,), lambda: (0.1 * position).contiguous())
    for i, (each, rotation) in enumerate(zip(layers, rotations, strict=True)):
        x, delta = _attend(each, rotation, x, delta, memory, fp8, hook and partial(hook, i))
    found = shifted_layer_norm(x, delta, *plan.norm)
    return found.transpose(1, 2).unflatten(2, features.shape[-2:])


def _layers(plan: AttentionPlan, device: torch.device) -> list[JoinedAttending]:
    if plan.prepared is None:
        pairs = [(layer.own, layer.cross) for layer in plan.layers]
        products = [layer for own, cross in pairs for layer in (*own[1:], cross.v, cross.out)]
        plan.prepared = Prepared(plan.layers, parameters_of(*products))

    def compute(layers: list[AttendingLayer], dtype: torch.dtype) -> list[JoinedAttending]:
        return [_joined(layer, in_dtype, dtype) for layer, in_dtype in zip(plan.layers, layers, strict=True)]

    return plan.prepared.of(device, compute)


def _joined(layer: AttendingLayer, in_dtype: AttendingLayer, dtype: torch.dtype) -> JoinedAttending:
    own, (own_values, own_out) = in_dtype.own, _values(layer.own, in_dtype.own, dtype)
    values = _values(layer.cross, in_dtype.cross, dtype)
    return JoinedAttending(in_dtype, joined(own.q, own.k, own_values), own_out, *values)


def _values(exact: Projections, in_dtype: Projections, dtype: torch.dtype) -> tuple[Linear, Linear | None]:
    """Returns the layer of an attention's values and the projection to the output, or their product and None."""
    if exact.heads > 1:
        return in_dtype.v, in_dtype.out
    out, values = exact.out, exact.v  # multiplied in fp32
    bias = torch.addmv(out.bias.float(), out.weight.float(), values.bias.float())
    return Linear((out.weight.float() @ values.weight.float()).to(dtype), bias.to(dtype)), None


def _attend(
    each: JoinedAttending,
    rotations: tuple[Rotation, Rotation],
    x: Tensor,
    delta: Tensor,
    memory: AttendedMemory,
    fp8: Fp8,
    hook: Callable[..., None] | None,
) -> tuple[Tensor, Tensor]:
    """Tokens ``x + delta (1 or B, P, C)`` after a layer, as two tensors ``(B, P, C)`` whose sum they are."""
    layer, cross, dtype = each.layer, each.layer.cross, each.own.weight.dtype
    x, normed = normalize_sum(x, delta, layer.norm1, dtype)
    own_rotation, rotation = rotations
    x, normed = _attend_to_itself(each, x, normed, own_rotation)
    query = linear(normed, cross.q).unflatten(-1, (cross.heads, -1)).transpose(1, 2)
    if hook is not None:
        hook(query, memory, *cross.k, *cross.v, *rotation)
    rest, pooling = (*cross.k, *each.values, *rotation), layer.pooling
    if each.out is None:
        weight, bias, eps = layer.norm3
        x, normed = add_memory_attention(x, weight, bias, eps, query, memory, *rest, fp8=fp8, pooling=pooling)
    else:
        found = linear(memory_attention(query, memory, *rest, fp8=fp8, pooling=pooling), each.out)
        x, normed = normalize_sum(x.expand_as(found), found, layer.norm3, dtype)
    return x, mlp(normed, layer.mlp)


def _attend_to_itself(each: JoinedAttending, x: Tensor, normed: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
    """Returns tokens plus their attention to each other, and the norm of the sum."""
    own, norm = each.layer.own, each.layer.norm2
    q, k, v = by_head(own.heads, *linear(normed, each.own).chunk(3, dim=-1))
    if each.own_out is None:
        return add_rope_attention(x, *norm, q, k, v, *rotation)
    found = rope_attention(q, k, v, *rotation).transpose(1, 2).flatten(2)
    x, normed = normalize_sum(x, linear(found, each.own_out), norm, normed.dtype)
    return x, normed


# ---- encoder ----


class Downsampling(NamedTuple):
    """Stores a strided convolution on token-major maps, its norm and GELU."""

    tensors: tuple[Tensor, Tensor, Tensor, Tensor]  # weight (N, k, k, C) and bias, weight and bias of the norm
    stride: int
    padding: int
    eps: float


class FusedBlock(NamedTuple):
    """Stores a ConvNeXt block on a token-major map. The map gets the block's bias later, as part of a ``shift``."""

    shift: Tensor | None  # (C) sum of the biases of the blocks before it, which the map lacks
    conv: Conv  # weight (k, k, C) if it is depthwise
    norm: Norm
    first: Linear
    last: Tensor  # (C, 4 C), scaled


class MemoryWeights(NamedTuple):
    """The layers in the dtype that products are computed in, and in the order of token-major maps."""

    downsampling: list[Downsampling]
    pixels: Linear  # with the bias of downsampled
    downsampled: Tensor  # (C, C, 1, 1)
    fuser: list[FusedBlock]
    shift: Tensor | None  # (C) sum of the biases of all blocks, if there is no output layer
    out: Linear | None
    pointer: tuple[Linear, ...]
    mask_downsample: Conv | None
    distances: Linear | None  # once for each token of a pointer
    perceiver: PerceiverPlan | None


def _weights(plan: MemoryPlan, device: torch.device) -> MemoryWeights:
    if plan.prepared is None:
        ends = plan.pointer, plan.mask_downsample, plan.distances, plan.perceiver
        maps = plan.pixels, plan.downsampled, plan.out
        tree = plan.downsampling, maps, plan.fuser, ends
        sources = [conv.weight for conv, _ in plan.downsampling]
        sources += [] if plan.distances is None else parameters_of(plan.distances)
        sources += [x for layer in maps if layer is not None for x in layer[:2] if x is not None]
        sources += [x for layer in plan.fuser for x in (layer.conv.weight, *layer.mlp[1], layer.gamma) if x is not None]
        plan.prepared = Prepared(tree, sources)

    def compute(tree: Any, dtype: torch.dtype) -> MemoryWeights:
        """Returns parameters and new tensors, but no views of parameters, into which a refresh would write."""
        downsampling, (pixels, downsampled, out), fuser, (pointer, mask_downsample, distances, perceiver) = tree
        shift: Tensor | None = None
        blocks = []
        for layer, exact in zip(fuser, plan.fuser, strict=True):
            weight, bias = (x.float() for x in exact.mlp[1])  # scaled in fp32
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
            pointer,
            mask_downsample,
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
    """Encodes memories ``(B, C_mem, H, W)`` of masks on a frame; arguments as of :meth:`Engine.encode_memory`."""
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
    """The norm of a block's convolution ``(B, H, W, C)``."""
    shift, conv, norm = block[:3]
    if conv.groups > 1:
        assert conv.bias is not None
        return depthwise_norm(x, shift, conv.weight, conv.bias, *norm)
    x = (x if shift is None else x + shift).permute(0, 3, 1, 2)
    return normalize(convolve(x, conv).permute(0, 2, 3, 1), norm, x.dtype)


def _downsampled(steps: list[Downsampling], settings: MemorySettings, masks: Tensor, from_prompt: bool) -> Tensor:
    """Maps ``(B, H, W, C)`` of logits of masks."""
    first, *others = steps
    mask = settings.size, settings.scale, settings.bias, settings.binarizes and from_prompt
    x = downsample_logits(masks, *first.tensors, *mask, first.stride, first.padding, first.eps)
    for step in others:
        x = downsample_map(x, *step.tensors, step.stride, step.padding, step.eps)
    return x


# ---- pointers ----


def pointers_of(plan: MemoryPlan, tokens: Tensor) -> Tensor:
    """Object pointers of tokens ``(B, C)``."""
    weights = _weights(plan, tokens.device)
    with without_autocast(tokens.device):
        if len(weights.pointer) == 3:
            layers = [Linear(weight[None], bias[None]) for weight, bias in weights.pointer]
            return mlps(tokens[:, None], layers)[:, 0]
        return mlp(tokens, weights.pointer) if weights.pointer else tokens


def downsampled(plan: MemoryPlan, masks: Tensor) -> Tensor:
    """Given masks ``(B, 1, S, S)`` as prompts of the mask decoder, which predicts their pointers."""
    weights = _weights(plan, masks.device)
    assert weights.mask_downsample is not None
    with without_autocast(masks.device):
        return convolve(masks, weights.mask_downsample)


def encode_distances(plan: MemoryPlan, settings: MemorySettings, distance: Tensor, num_frames: int) -> Tensor:
    """Computes :meth:`Engine.encode_distances`. Encodings are zeros unless so configured."""
    layer = _weights(plan, distance.device).distances
    if not settings.add_tpos_enc_to_obj_ptrs:
        return distance.new_zeros(len(distance), distance.shape[1] * settings.tokens, settings.width)
    sines = plan.sines(settings, distance, num_frames, None if layer is None else layer.weight.dtype)
    with without_autocast(distance.device):
        if layer is None:
            return repeated(sines, settings.tokens)
        return linear(sines, layer).unflatten(-1, (settings.tokens, -1)).flatten(1, 2)

"""Computes image encoders with few operations. Matrix multiplications add the output of a branch to the map in place.

``addmm_`` adds a product to the map, but no bias. So biases are deferred: the running sum of biases is added to the
input of each norm. In trained models, biases and products cancel each other. A map that lacks many biases has large
values, which low precision rounds coarsely. So every fourth block adds the deferred biases to the map.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from sam2fast.engine.common import Pixels, neck, neck_of_one_level, normalized, scaled_neck
from sam2fast.engine.graphs import autocast_dtype
from sam2fast.engine.plans import (
    Block,
    Conv,
    EncoderPlan,
    Level,
    Linear,
    Norm,
    ScaledLevel,
    TransformerPlan,
    cast_layers,
    composed_scaled,
)
from sam2fast.engine.plans.encoders import RoPEViTPlan, ViTPlan
from sam2fast.engine.plans.repvit import RepViTPlan, Trunk, maps_of
from sam2fast.engine.static import ops
from sam2fast.engine.static.ops import (
    Prepared,
    add_product,
    compiled,
    convolve,
    linear,
    normalize,
    normalize_sum,
    parameters_of,
    pointwise,
    without_autocast,
)
from sam2fast.kernels.embed_patches import PADDING, SIDE, STRIDE, embed_patches
from sam2fast.kernels.layer_norm import shifted_layer_norm
from sam2fast.kernels.linear_gelu import linear_gelu
from sam2fast.kernels.mlp import is_joined, mlp
from sam2fast.kernels.window_attention import pooled_window_attention, window_attention

BIAS_EVERY = 4  # number of blocks after which deferred biases are added to the map


class ImageWeights(NamedTuple):
    """Layers in the dtype of matrix multiplications, and tensors that are computed only from weights."""

    patches: Conv | None
    taps: Tensor | None  # (7, 7, 3, C), weight of the patch embedding; None if embed_patches is not used
    blocks: list[Block]
    qkv: list[Linear]  # per block, linear layer for queries, keys, values, and for a projected residual
    joined: list[bool]  # per block, True if one kernel launch computes the MLP and adds all biases to the map
    biases: list[tuple[Tensor, Tensor]]  # per block, (C) fp32: sums of deferred biases after attention and after MLP
    levels: list[Level]  # the bias of the coarsest level includes the deferred biases of the trunk
    direct: list[Linear | None]  # per level, composed lateral and head of a direct level, else None
    one: Tensor  # (1) fp32, value 1
    neck: list[tuple[Conv, Norm | None]]
    scaled: list[ScaledLevel]  # levels from composed_scaled


def encode(plan: EncoderPlan, images: Tensor | Pixels) -> list[Tensor]:
    """Returns levels ``(B, C_i, H_i, W_i)``, finest first. Finer levels include the mask decoder's projections.

    Args:
        images: Normalized images ``(B, 3, S, S)`` or :class:`Pixels`.
    """
    device = images.device if isinstance(images, Tensor) else images.values.device
    weights, folded = _weights(plan, device), None
    if weights.taps is None:
        images = normalized(images)
    if isinstance(plan, RepViTPlan):
        folded = plan.trunk(autocast_dtype(device))
    with without_autocast(device):
        return compiled(plan, _levels)(plan, weights, folded, images)


def _levels(plan: EncoderPlan, weights: ImageWeights, folded: Trunk | None, images: Any) -> list[Tensor]:
    if isinstance(plan, ViTPlan | RoPEViTPlan):
        x, bias = trunk(plan, weights, images)[-1], weights.biases[-1][1]
        # In lower precision, out= makes addition and rounding one operation. fp32 needs no rounding, and an exported
        # fp32 program may run with autograd, which does not support out=.
        x = x + bias if x.dtype == bias.dtype else torch.add(x, bias, out=torch.empty_like(x))
        if isinstance(plan, RoPEViTPlan):
            return scaled_neck(ops, weights.scaled, x)
        return [neck_of_one_level(ops, weights.neck, x)][: 1 - plan.scalp]
    maps = trunk(cast(TransformerPlan, plan), weights, images) if folded is None else maps_of(ops, folded, images)
    return neck(plan, weights.levels, weights.direct, maps, pointwise, weights.one)


def _weights(plan: EncoderPlan, device: torch.device) -> ImageWeights:
    if plan.prepared is None:
        biases = [x for block in plan.blocks for x in (block.proj.bias, block.mlp[1].bias)]
        direct = [x for level in plan.levels if level.is_direct for x in (level.lateral, level.head) if x]
        coarsest = [level.lateral for level in plan.levels[-1:]]
        projected = [layer for block in plan.blocks if block.residual for layer in (block.qkv, block.residual)]
        sources = [*biases, *parameters_of(*direct, *coarsest, *projected, *plan.scaled)]
        plan.prepared = Prepared((plan.patches, plan.blocks, plan.levels, plan.neck), sources)

    def compute(tree: Any, dtype: torch.dtype) -> ImageWeights:
        patches, blocks, levels, neck = tree
        direct = [product and product.in_dtype(dtype) for product in (level.product for level in plan.levels)]
        joined = [is_joined(device, dtype, len(block.mlp[1].weight)) for block in blocks]
        biases = _deferred_biases(plan.blocks, joined)
        if biases and levels:
            coarsest, exact = levels[-1], plan.levels[-1].lateral
            bias = torch.addmv(exact.bias.float(), exact.weight.flatten(1).float(), biases[-1][1])
            levels = [*levels[:-1], coarsest._replace(lateral=Linear(coarsest.lateral.weight, bias.to(dtype)))]
        qkv = [block.qkv if block.residual is None else ops.joined(block.qkv, block.residual) for block in blocks]
        taps, one = _taps(patches, dtype), torch.ones(1, device=device)
        scaled = [cast_layers(composed_scaled(level), dtype) for level in plan.scaled]
        return ImageWeights(patches, taps, blocks, qkv, joined, biases, levels, direct, one, neck, scaled)

    weights: ImageWeights = plan.prepared.of(device, compute)
    return weights


def _taps(patches: Conv | None, dtype: torch.dtype) -> Tensor | None:
    """Returns the weight for embed_patches. None for patches of another size, and in fp32, which was not measured."""
    if patches is None or dtype not in (torch.bfloat16, torch.float16):
        return None
    weight, _, stride, padding, _ = patches
    if (*weight.shape[1:], *stride, *padding) != (3, SIDE, SIDE, STRIDE, STRIDE, PADDING, PADDING):
        return None
    return weight.permute(2, 3, 1, 0).contiguous()


def _deferred_biases(blocks: Sequence[Block], joined: Sequence[bool]) -> list[tuple[Tensor, Tensor]]:
    """Returns the sums of deferred biases after attention and after the MLP of each block.

    A block with a projected residual starts a new sum. The sum also restarts where a block adds the sum to the map:
    after the attention of every fourth block, and in each ``joined`` MLP.
    """
    sums: list[tuple[Tensor, Tensor]] = []
    total: Tensor | None = None
    for i, block in enumerate(blocks):
        bias = block.proj.bias.float()
        attention = bias if total is None or block.residual is not None else total + bias
        bias = block.mlp[1].bias.float()
        if joined[i]:
            total = torch.zeros_like(bias)
        else:
            total = bias if _adds_bias(i) else attention + bias
        sums.append((attention, total))
    return sums


def _adds_bias(i: int) -> bool:
    return i % BIAS_EVERY == BIAS_EVERY - 1


def trunk(plan: TransformerPlan, weights: ImageWeights, images: Tensor | Pixels) -> list[Tensor]:
    """Returns maps ``(B, H_i, W_i, C_i)`` of the stages, finest first. Deferred biases are missing in the last map."""
    x, normed = _tokens(plan, weights, images)
    maps: list[Tensor] = []
    dtype = x.dtype
    for i, block in enumerate(weights.blocks):
        if i > 0 and weights.blocks[i - 1].ends_stage:
            complete, normed = normalize_sum(x, weights.biases[i - 1][1], block.norm1, dtype)
            maps.append(complete)
        elif i > 0:
            normed = shifted_layer_norm(x, weights.biases[i - 1][1], *block.norm1, dtype)
        qkv, channels = linear(normed, weights.qkv[i]), len(block.qkv.bias)
        rest = block.qkv.bias, block.heads, block.window
        if block.residual is not None and block.pool is not None:
            out, x = pooled_window_attention(qkv, *rest, block.pool)
        else:
            x = x if block.residual is None else qkv[..., channels:].contiguous()
            rope = None if block.rotations is None else block.rotations(block.window or x.shape[1], x.device)
            out = window_attention(qkv[..., :channels], *rest, block.pool, rope)
        add_product(x, out, block.proj.weight)
        after_attention, (first, last) = weights.biases[i][0], block.mlp
        if weights.joined[i]:
            x = mlp(x, after_attention, *block.norm2[:2], *first, *last, block.norm2.eps)
            continue
        if _adds_bias(i):
            x, normed = normalize_sum(x, after_attention, block.norm2, dtype)
        else:
            normed = shifted_layer_norm(x, after_attention, *block.norm2, dtype)
        add_product(x, linear_gelu(normed, first.weight, first.bias), last.weight)
    return [*maps, x]


def _tokens(plan: TransformerPlan, weights: ImageWeights, images: Tensor | Pixels) -> tuple[Tensor, Tensor]:
    """Returns tokens ``(B, H, W, C)`` with position embeddings, and the output of ``norm1`` of the first block."""
    assert weights.patches is not None
    dtype, norm = weights.patches.weight.dtype, weights.blocks[0].norm1
    if weights.taps is None:
        pixels = cast(Tensor, images).to(dtype, memory_format=torch.channels_last)
        x = convolve(pixels, weights.patches).permute(0, 2, 3, 1)
        position = plan.position(x.shape[1], x.shape[2], dtype).expand_as(x)
        if plan.first_norm is not None:
            x = normalize_sum(x, position, plan.first_norm, dtype)[1]
            return x, normalize(x, norm, dtype)
        x, normed = normalize_sum(x, position, norm, dtype)
        return x.contiguous(), normed
    values, *numbers = (images.permute(0, 2, 3, 1),) if isinstance(images, Tensor) else images
    H, W = (-(-side // STRIDE) for side in values.shape[1:3])
    bias = cast(Tensor, weights.patches.bias)
    x = embed_patches(values, weights.taps, bias, plan.position(H, W, dtype)[0], *numbers)
    return x, normalize(x, norm, dtype)

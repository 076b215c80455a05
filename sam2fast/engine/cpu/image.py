"""Computes image encoders on the CPU."""

from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.engine.common import neck, neck_of_one_level, scaled_neck
from sam2fast.engine.cpu import ops
from sam2fast.engine.cpu.ops import attention, chunked, convolve, gelu_mlp, linear, normalize
from sam2fast.engine.plans import Block, EncoderPlan, Linear, TransformerPlan, composed_scaled
from sam2fast.engine.plans.encoders import RoPEViTPlan, ViTPlan
from sam2fast.engine.plans.repvit import RepViTPlan, maps_of
from sam2fast.kernels.window_attention import window_attention_reference


def encode(plan: EncoderPlan, images: Tensor) -> list[Tensor]:
    """Encodes normalized images ``(B, 3, S, S)`` to levels ``(B, C_i, H_i, W_i)``, finest first."""
    if isinstance(plan, ViTPlan):
        return [neck_of_one_level(ops, plan.neck, trunk(plan, images)[-1])][: 1 - plan.scalp]
    if isinstance(plan, RoPEViTPlan):
        return scaled_neck(ops, map(composed_scaled, plan.scaled), trunk(plan, images)[-1])
    if isinstance(plan, RepViTPlan):
        maps = maps_of(ops, plan.trunk(), images)
    else:
        maps = trunk(cast(TransformerPlan, plan), images)
    # In direct levels, the lateral convolution and the head are composed to one layer.
    return neck(plan, plan.levels, [level.product for level in plan.levels], maps, _project)


def trunk(plan: TransformerPlan, images: Tensor) -> list[Tensor]:
    """Returns the maps ``(B, H_i, W_i, C_i)`` after each stage, finest first."""
    assert plan.patches is not None
    x = convolve(images.contiguous(memory_format=torch.channels_last), plan.patches).permute(0, 2, 3, 1)
    x = x + plan.position(x.shape[1], x.shape[2], torch.promote_types(torch.float32, x.dtype))
    x = x if plan.first_norm is None else normalize(x, plan.first_norm)
    maps = []
    for block in plan.blocks:
        x = _transform(block, x)
        if block.ends_stage:
            maps.append(x)
    return maps


def _transform(block: Block, x: Tensor) -> Tensor:
    """Returns a map ``(B, H, W, C)`` after a block. The block may pool the map and double its channels."""
    if not block.window:
        x = _attend(block, x)
    return chunked(partial(_transform_rows, block), x, block.window or 1)  # chunks contain complete windows


def _transform_rows(block: Block, x: Tensor) -> Tensor:
    """Returns rows of a map after a block. Skips attention to the whole map, which the caller computes."""
    if block.window:
        x = _attend(block, x)
    return x + gelu_mlp(normalize(x, block.norm2, block.mlp[0].weight.dtype), block.mlp)


def _attend(block: Block, x: Tensor) -> Tensor:
    tokens = normalize(x, block.norm1, block.qkv.weight.dtype)
    qkv = linear(tokens, block.qkv)
    rope = None if block.rotations is None else block.rotations(block.window or x.shape[1], x.device)
    # Windows are padded with zeros. The projection of padding is the bias.
    out = window_attention_reference(qkv, block.qkv.bias, block.heads, block.window, block.pool, rope, attention)
    out = linear(out, block.proj)
    if block.residual is not None:
        x = linear(tokens, block.residual)
        if block.pool is not None:
            x = F.max_pool2d(x.permute(0, 3, 1, 2), block.pool).permute(0, 2, 3, 1)
    return x + out


def _project(x: Tensor, layer: Linear) -> Tensor:
    """Applies a 1x1 convolution to ``(B, H, W, C)``."""
    return chunked(partial(linear, layer=Linear(layer.weight.flatten(1), layer.bias)), x, 1)

"""The image encoder on the CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.engine.cpu.ops import chunked, convolve, gelu_mlp, linear, normalize
from sam2fast.engine.plan import Block, ImagePlan, Linear, composed
from sam2fast.engine.relatives import RepViTPlan, ViTPlan
from sam2fast.kernels.window_attention import window_attention_reference


def encode(plan: ImagePlan, images: Tensor) -> list[Tensor]:
    """Levels ``(B, C_i, H_i, W_i)`` of normalised images ``(B, 3, S, S)``, finest first, the finer ones projected for
    the mask decoder."""
    return neck(plan, trunk(plan, images))


def trunk(plan: ImagePlan | ViTPlan, images: Tensor) -> list[Tensor]:
    """The maps ``(B, H_i, W_i, C_i)`` at the ends of stages."""
    x = convolve(images.contiguous(memory_format=torch.channels_last), plan.patches).permute(0, 2, 3, 1)
    x = x + plan.position(x.shape[1], x.shape[2])
    maps = []
    for block in plan.blocks:
        x = _transform(block, x)
        if block.ends_stage:
            maps.append(x)
    return maps


def _transform(block: Block, x: Tensor) -> Tensor:
    """A map ``(B, H, W, C)`` after a block; the first one of a stage pools it and doubles its channels."""
    if block.window:  # no window is in two chunks
        return chunked(lambda rows: _feed_forward(block, _attend(block, rows)), x, block.window)
    return chunked(lambda rows: _feed_forward(block, rows), _attend(block, x), 1)


def _attend(block: Block, x: Tensor) -> Tensor:
    tokens = normalize(x, block.norm1, block.qkv.weight.dtype)
    qkv = linear(tokens, block.qkv)
    attended = linear(
        window_attention_reference(qkv, block.qkv.bias, block.heads, block.window, block.pool), block.proj
    )
    if block.residual is not None:
        x = linear(tokens, block.residual)
        if block.pool is not None:
            x = F.max_pool2d(x.permute(0, 3, 1, 2), block.pool).permute(0, 2, 3, 1)
    return x + attended


def _feed_forward(block: Block, x: Tensor) -> Tensor:
    return x + gelu_mlp(normalize(x, block.norm2, block.mlp[0].weight.dtype), block.mlp)


def neck(plan: ImagePlan | RepViTPlan, maps: list[Tensor]) -> list[Tensor]:
    """The levels of the stages' maps ``(B, H_i, W_i, C_i)``, finest first."""
    levels: list[Tensor] = []
    coarser: Tensor | None = None
    for level, x in zip(reversed(plan.levels), reversed(maps), strict=True):
        if level.is_direct:
            found = project(x, composed(level))
        else:
            x = project(x, level.lateral)
            if level.adds_coarser:
                assert coarser is not None
                x = x + _doubled(coarser, plan.interpolation)
            found = coarser = x
            if level.head is not None:
                found = project(x, level.head)
        levels.insert(0, found.permute(0, 3, 1, 2))
    return levels[: len(levels) - plan.scalp]


def _doubled(x: Tensor, mode: str) -> Tensor:
    """``(B, H, W, C)`` at twice the size, fp32."""
    align = None if mode == "nearest" else False
    larger = F.interpolate(x.permute(0, 3, 1, 2).float(), scale_factor=2.0, mode=mode, align_corners=align)
    return larger.permute(0, 2, 3, 1)


def project(x: Tensor, layer: Linear) -> Tensor:
    """A 1x1 convolution of ``(B, H, W, C)``."""
    layer = Linear(layer.weight.flatten(1), layer.bias)
    return chunked(lambda rows: linear(rows, layer), x, 1)

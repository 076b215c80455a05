"""Which layers plans can hold: those whose settings a plan has, or that have the usual ones."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import nn

from sam2fast.modeling.hiera_block import MultiScaleBlock
from sam2fast.modeling.image_encoder import FpnNeck
from sam2fast.modeling.layers import MLP


def is_plain_fpn(neck: nn.Module, heads: Mapping[int, nn.Conv2d]) -> bool:
    """Returns True if the module projects levels by 1x1 convolutions and sums them, as the heads do."""
    if type(neck) is not FpnNeck or neck.fuse_type != "sum":
        return False
    convolutions: list[Any] = [*(layers.conv for layers in neck.convs), *heads.values()]
    return all(map(_is_pointwise, convolutions)) and are_plain(neck, *heads.values())


def _is_pointwise(layer: nn.Module) -> bool:
    """Returns True if the module is a 1x1 convolution."""
    return (
        type(layer) is nn.Conv2d
        and layer.kernel_size == layer.stride == (1, 1)
        and layer.padding == (0, 0)
        and layer.groups == 1
    )


def is_usual(block: MultiScaleBlock) -> bool:
    """Returns True if the MLP has only the exact GELU, and the block pools by its stride without cutting windows."""
    pool, stride = block.pool, block.q_stride
    if isinstance(pool, nn.MaxPool2d):
        settings = pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode
        if settings != (stride, stride, 0, 1, False) or not stride or block.window_size % stride[0]:
            return False
    return is_gelu(block.mlp.act) and not block.mlp.sigmoid_output and block.attn.q_pool is pool


def is_gelu(activation: Any) -> bool:
    """Returns True if the module is the exact GELU."""
    return type(activation) is nn.GELU and activation.approximate == "none"


def is_relu(activation: Any) -> bool:
    """Returns True if the activation is torch's ReLU function or module."""
    return activation is F.relu or type(activation) is nn.ReLU


def are_plain(*parts: nn.Module) -> bool:
    """Returns True if all layers in these have a bias, and no setting that plans do not hold."""
    kinds = nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.LayerNorm
    layers = [layer for part in parts for layer in part.modules()]
    return all(map(is_plain, layers)) and all(layer.bias is not None for layer in layers if isinstance(layer, kinds))


def is_plain(layer: nn.Module) -> bool:
    """Returns True if a layer has no setting that plans do not hold."""
    if isinstance(layer, MLP):  # has activations only between its layers
        return layer.num_layers == len(layer.layers)
    if isinstance(layer, nn.Conv2d):
        return layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    if isinstance(layer, nn.ConvTranspose2d):  # computed as a linear layer to blocks of 2x2
        settings = layer.kernel_size, layer.stride, layer.padding, layer.output_padding, layer.groups
        return settings == ((2, 2), (2, 2), (0, 0), (0, 0), 1)
    return True

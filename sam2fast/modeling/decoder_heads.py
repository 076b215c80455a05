"""The mask decoder's heads, small networks that read one token each, as one batch."""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2fast.modeling.constants import TensorCache
from sam2fast.modeling.layers import MLP, is_relu
from sam2fast.modeling.standard import is_standard


def can_stack(heads: Sequence[nn.Module]) -> bool:
    """Whether these are standard networks whose layers have equal widths, but for the last one's results."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    if not all(isinstance(head, MLP) and is_standard(head) and is_relu(head.act) for head in heads):
        return False
    return len({tuple(layer.in_features for layer in _layers(head)) for head in heads}) == 1


def stacked(kept: TensorCache[tuple[Tensor, ...]], heads: Sequence[nn.Module], tokens: Tensor) -> Tensor:
    """Results ``(heads, B, outputs)`` of each head for its token of ``tokens (B, heads, C)``, before any sigmoid.

    Args:
        kept: keeps the weights and biases of the layers, stacked.

    What a head with fewer outputs lacks is 0.
    """
    parameters = tuple(parameter for head in heads for parameter in head.parameters())

    def compute() -> tuple[Tensor, ...]:
        outputs = max(_layers(head)[-1].out_features for head in heads)
        found = []
        for layers in zip(*map(_layers, heads), strict=True):
            is_last = layers[0] is _layers(heads[0])[-1]
            missing = [outputs - layer.out_features if is_last else 0 for layer in layers]
            pairs = list(zip(layers, missing, strict=True))
            found.append(torch.stack([F.pad(layer.bias, (0, n)) for layer, n in pairs])[:, None])
            found.append(torch.stack([F.pad(layer.weight.t(), (0, n)) for layer, n in pairs]))
        return tuple(found)

    layers = kept(None, parameters, compute)
    x = tokens.to(layers[0].dtype).transpose(0, 1)
    for i in range(0, len(layers), 2):
        x = torch.baddbmm(layers[i], x.relu_() if i else x, layers[i + 1])
    return x


def _layers(head: nn.Module) -> list[nn.Linear]:
    return cast(list[nn.Linear], list(cast(MLP, head).layers))

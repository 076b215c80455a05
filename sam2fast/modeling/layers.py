"""Layers that several modules of the model share."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of ``(B, C, H, W)``. The output has the shape of the input.

    Source: ``sam2.modeling.sam2_utils.LayerNorm2d``.
    """

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class MLP(nn.Module):
    """Linear layers with an activation between them, from ``(..., input_dim)`` to ``(..., output_dim)``.

    Source: ``sam2.modeling.sam2_utils.MLP``.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        output_dim: int,
        num_layers: int,
        activation: type[nn.Module] = nn.ReLU,
        sigmoid_output: bool = False,
    ) -> None:
        super().__init__()
        widths = [input_dim] + [hidden_dim] * (num_layers - 1) + [output_dim]
        self.num_layers = num_layers
        self.layers = nn.ModuleList(nn.Linear(n, k) for n, k in zip(widths[:-1], widths[1:], strict=True))
        self.act = activation()
        self.sigmoid_output = sigmoid_output

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = self.act(layer(x)) if i < self.num_layers - 1 else layer(x)
        return torch.sigmoid(x) if self.sigmoid_output else x


class DropPath(nn.Module):
    """Stochastic depth. In training, zeroes a residual branch ``(B, ...)`` for random samples, and rescales the rest.

    Source: ``sam2.modeling.sam2_utils.DropPath``.
    """

    def __init__(self, drop_prob: float = 0.0, scale_by_keep: bool = True) -> None:
        super().__init__()
        self.drop_prob = drop_prob
        self.scale_by_keep = scale_by_keep

    def forward(self, x: Tensor) -> Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep = 1 - self.drop_prob
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * mask / keep if keep > 0 and self.scale_by_keep else x * mask


def get_clones(module: nn.Module, N: int) -> nn.ModuleList:
    """Returns N deep copies of a module."""
    return nn.ModuleList(copy.deepcopy(module) for _ in range(N))


def get_activation_fn(activation: str) -> Callable[[Tensor], Tensor]:
    """Returns the activation function ``relu``, ``gelu`` or ``glu``. Raises a ValueError for other names."""
    activations: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "glu": F.glu}
    if activation not in activations:
        raise ValueError(f"unknown activation {activation!r}; expected one of {', '.join(activations)}")
    return activations[activation]


@contextmanager
def init_empty_weights() -> Iterator[None]:
    """Context manager that builds modules on the meta device. Parameters have shapes and dtypes, but no values."""
    with torch.device("meta"), _SkipNormalInit():
        yield


class _SkipNormalInit(TorchFunctionMode):
    """Skips normal initialisation on the meta device, because torch would import torch's compiler and SymPy.

    The imports take longer than all other work before the first image.
    """

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.Tensor.normal_, torch.nn.init.normal_):
            tensor = kwargs["tensor"] if "tensor" in kwargs else args[0]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)

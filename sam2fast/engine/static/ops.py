"""Operations for inference on GPUs, in CUDA graphs and in compiled functions.

Gradients and autocast are disabled when these functions run. torch.compile may be active on all devices. Weights have
the dtype of matrix multiplications.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.engine.common import add_into as add_into
from sam2fast.engine.derived import TensorCache
from sam2fast.engine.plans import Conv, Linear, Norm, PlanOfPart, cast_layers
from sam2fast.kernels import _cpu
from sam2fast.kernels.grouped_mlp import grouped_mlp
from sam2fast.kernels.layer_norm import add_layer_norm, layer_norm, shifted_layer_norm
from sam2fast.kernels.linear_gelu import linear_gelu
from sam2fast.kernels.norm_linear import norm_linear

# ---- weights ----

Value = TypeVar("Value")


class Prepared(Generic[Value]):
    """Cached tensors that are computed from the weights of a plan, in the dtype of matrix multiplications.

    Args:
        tree: Linear layers and convolutions of the plan, in tuples and lists.
        sources: Tensors of the plan from which ``compute`` derives new tensors even if no layer is cast.
    """

    def __init__(self, tree: Any, sources: Iterable[Tensor] = ()) -> None:
        self._tree = tree
        parameters = [[x for x in layer if isinstance(x, Tensor)] for layer in _layers_of(tree)]  # weight, bias
        self._weights = [tensors[0] for tensors in parameters]
        self._sources = self._weights[0], *sources
        self._parameters = sum(parameters, [])
        self._cache = TensorCache[Value]()

    def of(self, device: torch.device, compute: Callable[[Any, torch.dtype], Value]) -> Value:
        """Returns the cached result of ``compute(tree, dtype)``.

        ``dtype`` is autocast's dtype if autocast is enabled, otherwise the widest dtype of the layers. ``compute``
        receives the layers of the tree in ``dtype``.
        """
        dtypes = {weight.dtype for weight in self._weights}
        is_cast = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if is_cast else reduce(torch.promote_types, dtypes)
        tree, sources = self._tree, self._sources
        needs_cast = dtypes != {dtype}

        def compute_in_dtype() -> Value:
            with without_autocast(device):
                return compute(cast_layers(tree, dtype) if needs_cast else tree, dtype)

        return self._cache(dtype, (*sources, *self._parameters) if needs_cast else sources, compute_in_dtype)


def _layers_of(tree: Any) -> Iterator[tuple[Any, ...]]:
    if hasattr(tree, "in_dtype"):
        yield tree
    elif isinstance(tree, tuple | list):
        for item in tree:
            yield from _layers_of(item)


def parameters_of(*trees: Any) -> list[Tensor]:
    """Returns the weights and biases of layers in tuples and lists."""
    return [x for layer in _layers_of(trees) for x in layer if isinstance(x, Tensor)]


def joined(*layers: Linear) -> Linear:
    """Joins layers with the same input to one layer. The output is the concatenation of the layers' outputs."""
    return Linear(torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers]))


def compiled(plan: PlanOfPart, function: Callable[..., Value]) -> Callable[..., Value]:
    """Returns the function, compiled if the plan is compiled."""
    return function if plan.compiled is None else plan.compiled.instead(function)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Context manager that disables autocast, so that layers compute in the dtype of their weights."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


# ---- operations ----


def linear(x: Tensor, layer: Linear) -> Tensor:
    """Applies a linear layer to ``(..., K)`` of any float dtype. Returns ``(..., N)`` in the weight's dtype."""
    x = x.to(layer.weight.dtype)
    if torch.compiler.is_compiling():
        return _cpu.linear(x, layer.weight, layer.bias)
    return F.linear(x, layer.weight, layer.bias)


def pointwise(x: Tensor, layer: Linear) -> Tensor:
    """Applies a 1x1 convolution to ``(..., K)``."""
    return linear(x, layer._replace(weight=layer.weight.flatten(1)))


def linear_relu(x: Tensor, layer: Linear) -> Tensor:
    """Returns ReLU of :func:`linear`. On CUDA, linear and ReLU are one operator, which MPS does not support."""
    if not x.is_cuda:
        return linear(x, layer).relu_()
    rows = x.to(layer.weight.dtype).flatten(0, -2)
    return torch._addmm_activation(layer.bias, rows, layer.weight.t()).unflatten(0, x.shape[:-1])


def mlp(x: Tensor, layers: tuple[Linear, ...]) -> Tensor:
    """Applies linear layers with ReLU between them."""
    for layer in layers[:-1]:
        x = linear_relu(x, layer)
    return linear(x, layers[-1])


def gelu_mlp(x: Tensor, layers: tuple[Linear, ...]) -> Tensor:
    """Applies two linear layers with exact GELU between them."""
    first, last = layers
    return linear(linear_gelu(x.to(first.weight.dtype), first.weight, first.bias), last)


def add_product(x: Tensor, y: Tensor, weight: Tensor) -> None:
    """Computes ``x += y @ weight.T`` in place. ``x (..., N)`` is contiguous. All tensors have the same dtype."""
    x.view(-1, x.shape[-1]).addmm_(y.reshape(-1, y.shape[-1]), weight.t())


def convolve(x: Tensor, layer: Conv) -> Tensor:
    """Convolves ``(B, C, H, W)`` of any float dtype to ``(B, N, H', W')`` in the weight's dtype."""
    return _cpu.conv2d(x.to(layer.weight.dtype), *layer)


def normalize(x: Tensor, norm: Norm, dtype: torch.dtype | None = None, gelu: bool = False) -> Tensor:
    """Returns the layer norm of ``(..., C)`` in fp32, or in ``dtype`` if given. If ``gelu``, applies GELU."""
    return layer_norm(x, *norm, dtype, gelu)


def normalize_sum(x: Tensor, delta: Tensor | None, norm: Norm, dtype: torch.dtype | None = None) -> list[Tensor]:
    """Returns ``x + delta`` and its layer norm."""
    return list(add_layer_norm(x, delta, *norm, dtype))


def normalize_projected(x: Tensor, residual: Tensor, layer: Linear, norm: Norm) -> Tensor:
    """Returns the norm of ``residual (B or 1, ..., C) + layer(x)``, with ``x (B, ..., K)``, in the weight's dtype."""
    weight, bias = layer
    residual = residual.expand(*x.shape[:-1], -1)
    if weight.dtype == torch.float32:  # norm_linear was not measured in fp32
        return shifted_layer_norm(residual, linear(x, layer), *norm)
    no_layer = weight.new_empty(0, len(bias)), bias[:0]
    return norm_linear(x, residual, None, weight, bias, *norm[:2], *no_layer, norm.eps, 0, False, weight.dtype)[0]


def normalize_and_project(
    delta: Tensor,
    x: Tensor | None,
    inner: Linear | None,
    norm: Norm,
    layer: Linear,
    position: Tensor | None = None,
    num_positioned: int = 0,
    relu: bool = False,
) -> tuple[Tensor, Tensor]:
    """Returns the fp32 norm of ``x + delta``, and the output of a linear layer that reads the norm.

    Args:
        delta: Tensor to add to ``x``. If ``inner`` is given, the layer ``inner`` is first applied to ``delta``.
        num_positioned: Number of leading outputs of the linear layer that read the norm plus ``position``.
        relu: If True, applies ReLU to the output.
    """
    (inner_weight, inner_bias), (norm_weight, norm_bias, eps), (weight, bias) = inner or (None, None), norm, layer
    return norm_linear(
        delta, x, position, inner_weight, inner_bias, norm_weight, norm_bias, weight, bias, eps, num_positioned, relu
    )


def stacked(layers: Sequence[Linear]) -> Linear:
    """Stacks G layers to weights ``(G, N, K)`` and biases ``(G, N)``. Pads smaller weights and biases with zeros."""
    N, K = (max(layer.weight.shape[axis] for layer in layers) for axis in (0, 1))
    weights = [F.pad(weight, (0, K - weight.shape[1], 0, N - len(weight))) for weight, _ in layers]
    return Linear(torch.stack(weights), torch.stack([F.pad(bias, (0, N - len(bias))) for _, bias in layers]))


def mlps(x: Tensor, layers: Sequence[Linear]) -> Tensor:
    """Applies G MLPs of three :func:`stacked` layers to one token each, ``(B, G, K)`` to ``(B, G, N)``."""
    first, second, third = layers
    return grouped_mlp(x, *first, *second, *third)


def add(x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns ``x + y``. If ``dtype`` is not wider than the sum's dtype, returns a contiguous sum in ``dtype``."""
    wider = torch.promote_types(x.dtype, y.dtype)
    if torch.promote_types(dtype, wider) != wider:
        return x + y
    # One operand has the shape of the sum. torch.broadcast_shapes would import sympy.
    return torch.add(x, y, out=x.new_empty(x.shape if x.numel() >= y.numel() else y.shape, dtype=dtype))


def add_scaled(x: Tensor, y: Tensor, z: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns ``x + y * z`` in ``dtype``, with the shape and strides of ``x``."""
    if torch.compiler.is_compiling():  # torch.compile does not support strides of out=
        return torch.addcmul(x, y, z).to(dtype)
    return torch.addcmul(x, y, z, out=torch.empty_like(x, dtype=dtype))


def chunked(function: Callable[[Tensor], Tensor], x: Tensor, rows: int) -> Tensor:
    """Returns ``function(x)`` without chunks. Has the signature of ``cpu.ops.chunked``."""
    return function(x)


attention = F.scaled_dot_product_attention

"""What inference by few operations is made of.

Neither autograd nor autocast is active here; a compiler may be, also on the CPU. Weights are in the dtype that products
are computed in.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.engine.derived import TensorCache
from sam2fast.engine.plan import Conv, Linear, Norm, PlanOfPart, cast_layers
from sam2fast.kernels import _cpu
from sam2fast.kernels.grouped_mlp import grouped_mlp
from sam2fast.kernels.layer_norm import add_layer_norm, layer_norm, shifted_layer_norm
from sam2fast.kernels.linear_gelu import linear_gelu
from sam2fast.kernels.norm_linear import norm_linear

# ---- weights ----

Value = TypeVar("Value")


class Prepared(Generic[Value]):
    """What is computed from the weights of a plan, in the dtype of products, and kept until they change.

    Args:
        tree: the plan's linear layers and convolutions, in tuples and lists.
        sources: what else is read of the plan, but for norms.
    """

    def __init__(self, tree: Any, sources: Iterable[Tensor] = ()) -> None:
        self._tree = tree
        parameters = [[x for x in layer if isinstance(x, Tensor)] for layer in _layers_of(tree)]  # weights first
        self._weights = [each[0] for each in parameters]
        self._sources = self._weights[0], *sources
        self._parameters = sum(parameters, [])
        self._kept = TensorCache[Value]()

    def of(self, device: torch.device, compute: Callable[[Any, torch.dtype], Value]) -> Value:
        """``compute`` of the tree in the dtype that products are computed in, and of this dtype: autocast's if it is
        enabled, else the widest of the layers."""
        dtypes = {weight.dtype for weight in self._weights}
        is_cast = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if is_cast else reduce(torch.promote_types, dtypes)
        tree, sources = self._tree, self._sources
        needs_cast = dtypes != {dtype}

        def compute_in_dtype() -> Value:
            with without_autocast(device):
                return compute(cast_layers(tree, dtype) if needs_cast else tree, dtype)

        return self._kept(dtype, (*sources, *self._parameters) if needs_cast else sources, compute_in_dtype)


def _layers_of(tree: Any) -> Iterator[tuple[Any, ...]]:
    if hasattr(tree, "in_dtype"):
        yield tree
    elif isinstance(tree, tuple | list):
        for item in tree:
            yield from _layers_of(item)


def parameters_of(*trees: Any) -> list[Tensor]:
    """Returns weights and biases of layers in tuples and lists."""
    return [x for layer in _layers_of(trees) for x in layer if isinstance(x, Tensor)]


def joined(*layers: Linear) -> Linear:
    """Layers of the same input as one, whose results are side by side."""
    return Linear(torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers]))


def compiled(plan: PlanOfPart, function: Callable[..., Value]) -> Callable[..., Value]:
    """The function, compiled if the plan's part is; it computes nothing from weights alone."""
    return function if plan.compiled is None else plan.compiled.instead(function)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Context manager in which products are computed in the dtype of their weights."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


# ---- operations ----


def linear(x: Tensor, layer: Linear) -> Tensor:
    """``(..., K)`` of any float dtype to ``(..., N)`` in the dtype of the weight."""
    x = x.to(layer.weight.dtype)
    if torch.compiler.is_compiling():
        return _cpu.linear(x, layer.weight, layer.bias)
    return F.linear(x, layer.weight, layer.bias)


def pointwise(x: Tensor, layer: Linear) -> Tensor:
    """A 1x1 convolution of ``(..., K)``."""
    return linear(x, layer._replace(weight=layer.weight.flatten(1)))


def linear_relu(x: Tensor, layer: Linear) -> Tensor:
    """ReLU of :func:`linear`, which is part of the product on CUDA; MPS does not have that operator."""
    if not x.is_cuda:
        return linear(x, layer).relu_()
    rows = x.to(layer.weight.dtype).flatten(0, -2)
    return torch._addmm_activation(layer.bias, rows, layer.weight.t()).unflatten(0, x.shape[:-1])


def mlp(x: Tensor, layers: tuple[Linear, ...]) -> Tensor:
    """Linear layers with ReLU between them."""
    for layer in layers[:-1]:
        x = linear_relu(x, layer)
    return linear(x, layers[-1])


def gelu_mlp(x: Tensor, layers: tuple[Linear, ...]) -> Tensor:
    """Two linear layers with the exact GELU between them."""
    first, last = layers
    return linear(linear_gelu(x.to(first.weight.dtype), first.weight, first.bias), last)


def add_product(x: Tensor, y: Tensor, weight: Tensor) -> None:
    """``x += y @ weight.T`` as one matrix multiplication, for contiguous ``x (..., N)`` and ``weight (N, K)``, all of
    one dtype."""
    x.view(-1, x.shape[-1]).addmm_(y.reshape(-1, y.shape[-1]), weight.t())


def convolve(x: Tensor, layer: Conv) -> Tensor:
    """``(B, C, H, W)`` of any float dtype to ``(B, N, H', W')`` in the dtype of the weight."""
    return _cpu.conv2d(x.to(layer.weight.dtype), *layer)


def normalize(x: Tensor, norm: Norm, dtype: torch.dtype | None = None, gelu: bool = False) -> Tensor:
    """Layer norm ``(..., C)``, or the GELU of it; computed in fp32, and rounded to ``dtype`` if there is one."""
    return layer_norm(x, *norm, dtype, gelu)


def normalize_sum(x: Tensor, delta: Tensor | None, norm: Norm, dtype: torch.dtype | None = None) -> list[Tensor]:
    """``x + delta``, and the norm of it."""
    return list(add_layer_norm(x, delta, *norm, dtype))


def normalize_projected(x: Tensor, residual: Tensor, layer: Linear, norm: Norm) -> Tensor:
    """Returns the norm of ``residual (B or 1, ..., C)`` plus a layer's result of ``x (B, ..., K)``, in its dtype."""
    weight, bias = layer
    residual = residual.expand(*x.shape[:-1], -1)
    if weight.dtype == torch.float32:  # where the product in the kernel of the norm was not measured
        return shifted_layer_norm(residual, linear(x, layer), *norm)
    nothing = weight.new_empty(0, len(bias)), bias[:0]
    return norm_linear(x, residual, None, weight, bias, *norm[:2], *nothing, norm.eps, 0, False, weight.dtype)[0]


def normalize_and_project(
    delta: Tensor,
    x: Tensor | None,
    inner: Linear | None,
    norm: Norm,
    layer: Linear,
    position: Tensor | None = None,
    placed: int = 0,
    relu: bool = False,
) -> tuple[Tensor, Tensor]:
    """The norm of ``x`` plus ``delta``, or plus an inner layer's result of it, in fp32; and a linear layer of the norm,
    of which so many first results are of the norm plus ``position``."""
    (inner_weight, inner_bias), (norm_weight, norm_bias, eps), (weight, bias) = inner or (None, None), norm, layer
    return norm_linear(
        delta, x, position, inner_weight, inner_bias, norm_weight, norm_bias, weight, bias, eps, placed, relu
    )


def stacked(layers: Sequence[Linear]) -> Linear:
    """Layers as a batch ``(G, N, K)`` and ``(G, N)``, padded with zeros to the widest."""
    N, K = (max(layer.weight.shape[axis] for layer in layers) for axis in (0, 1))
    weights = [F.pad(weight, (0, K - weight.shape[1], 0, N - len(weight))) for weight, _ in layers]
    return Linear(torch.stack(weights), torch.stack([F.pad(bias, (0, N - len(bias))) for _, bias in layers]))


def mlps(x: Tensor, layers: Sequence[Linear]) -> Tensor:
    """MLPs of three layers, given as batches, of one token each: ``(B, G, K)`` to ``(B, G, N)``."""
    first, second, third = layers
    return grouped_mlp(x, *first, *second, *third)


def add(x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    """``x + y``, contiguous and rounded to ``dtype`` as it is written, if that is no wider than the sum."""
    wider = torch.promote_types(x.dtype, y.dtype)
    if torch.promote_types(dtype, wider) != wider:
        return x + y
    # One of them has the shape of the sum; torch.broadcast_shapes would import sympy.
    return torch.add(x, y, out=x.new_empty(x.shape if x.numel() >= y.numel() else y.shape, dtype=dtype))


def add_scaled(x: Tensor, y: Tensor, z: Tensor, dtype: torch.dtype) -> Tensor:
    """``x + y * z``, of the shape and strides of ``x``, rounded to ``dtype`` as it is written."""
    if torch.compiler.is_compiling():  # the compiler takes no strides there
        return torch.addcmul(x, y, z).to(dtype)
    return torch.addcmul(x, y, z, out=torch.empty_like(x, dtype=dtype))


def chunked(function: Callable[[Tensor], Tensor], x: Tensor, rows: int) -> Tensor:
    """``function(x)``, at once."""
    return function(x)


attention = F.scaled_dot_product_attention

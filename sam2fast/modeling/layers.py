"""Building blocks shared by the model's parts."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sam2fast.kernels._cpu import emulates_bfloat16, in_float32, is_cpu_inference, linear
from sam2fast.kernels.layer_norm import add_layer_norm, layer_norm, layer_norm_and_position
from sam2fast.kernels.linear_gelu import gelu_mlp
from sam2fast.modeling.constants import TensorCache
from sam2fast.modeling.standard import is_standard, is_standard_layer, standard


def computed_dtype(weight: Tensor) -> torch.dtype:
    """The dtype of a matrix multiplication with this weight: autocast's if it is enabled, else the weight's."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def as_computed(x: Tensor, weight: Tensor) -> Tensor:
    """``x`` in :func:`computed_dtype` of ``weight``."""
    return x.to(computed_dtype(weight))


def is_gpu_inference(x: Tensor) -> bool:
    """Whether ``x`` is elsewhere than on the CPU and neither autograd nor a compiler is active.

    Then the number of kernels counts.
    """
    return not (is_cpu_inference(x) or torch.is_grad_enabled() or torch.compiler.is_compiling())


def call(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer(x)`` for input of any float dtype, which gets the dtype of the layer's weight.

    ``layer`` may be anything that a user put in the place of one of torch's, with or without a ``weight``.
    """
    weight = getattr(layer, "weight", None)
    return cast(Tensor, layer(as_computed(x, weight) if isinstance(weight, Tensor) else x))


def project(layer: nn.Module, x: Tensor) -> Tensor:
    """``(..., in_features)`` to ``(..., out_features)`` by a linear layer, in :func:`computed_dtype`.

    ``nn.Linear`` is computed by :func:`sam2fast.kernels._cpu.linear`, anything else is called.
    """
    if is_standard_layer(layer, nn.Linear):
        weight, bias = cast(nn.Linear, layer).weight, cast(nn.Linear, layer).bias
        return linear(as_computed(x, weight), weight, bias)
    return call(layer, x)


def is_relu(activation: Callable[[Tensor], Tensor]) -> bool:
    """Whether it is torch's function or a standard module."""
    return activation is F.relu or (isinstance(activation, nn.Module) and is_standard_layer(activation, nn.ReLU))


def project_activated(layer: nn.Module, activation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``activation`` of :func:`project`; ReLU is part of the matrix multiplication on CUDA, or computed in place."""
    if not is_relu(activation) or torch.is_grad_enabled() or not _has_weight_and_bias(layer):
        return activation(project(layer, x))
    if not x.is_cuda or torch.compiler.is_compiling():  # MPS does not have the operator below
        return torch.relu_(project(layer, x))
    weight, bias = (as_computed(p, p) for p in (cast(nn.Linear, layer).weight, cast(nn.Linear, layer).bias))
    return torch._addmm_activation(bias, x.to(weight.dtype).flatten(0, -2), weight.t()).unflatten(0, x.shape[:-1])


def _has_weight_and_bias(layer: nn.Module) -> bool:
    return is_standard_layer(layer, nn.Linear) and layer.bias is not None


def project_together(
    joined: TensorCache[tuple[Tensor, Tensor]], layers: Sequence[nn.Module], x: Tensor
) -> list[Tensor]:
    """:func:`project` of ``x`` by several linear layers, as one matrix multiplication if all are standard.

    Args:
        joined: keeps their weights and biases, in the computed dtype, one below the other.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not all(map(_has_weight_and_bias, layers)):
        return [project(layer, x) for layer in layers]
    linears = cast(Sequence[nn.Linear], layers)
    dtype = computed_dtype(linears[0].weight)
    weights: list[Tensor] = [layer.weight for layer in linears]
    biases: list[Tensor] = [layer.bias for layer in linears]
    weight, bias = joined(
        dtype, (*weights, *biases), lambda: (torch.cat(weights).to(dtype), torch.cat(biases).to(dtype))
    )
    return list(linear(x.to(dtype), weight, bias).split([layer.out_features for layer in linears], dim=-1))


def add_product(x: Tensor, y: Tensor, weight: Tensor) -> None:
    """``x += y @ weight.T`` as one matrix multiplication, for contiguous ``x (..., N)`` and ``weight (N, K)``, all of
    one dtype."""
    x.view(-1, x.shape[-1]).addmm_(y.reshape(-1, y.shape[-1]), weight.t())


def convolve(layer: nn.Module, x: Tensor) -> Tensor:
    """``(B, in_channels, H, W)`` to ``(B, out_channels, H', W')`` by a convolution, in :func:`computed_dtype`."""
    if is_standard_layer(layer, nn.Conv2d) and emulates_bfloat16(x, cast(nn.Conv2d, layer).weight):
        convolution = cast(nn.Conv2d, layer)
        return in_float32(convolution._conv_forward, x, convolution.weight, convolution.bias)
    return call(layer, x)


def normed_sum(
    norm: nn.LayerNorm, x: Tensor, delta: Tensor | None, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """``x + delta`` and its norm, in ``dtype`` or fp32; see :func:`sam2fast.kernels.layer_norm.add_layer_norm`."""
    return add_layer_norm(x, delta, norm.weight, norm.bias, norm.eps, dtype)


def normalize_sum(norm: nn.Module, x: Tensor, delta: Tensor) -> Tensor:
    """:func:`normalize` of ``x + delta``."""
    if x.shape == delta.shape and is_standard_layer(norm, nn.LayerNorm):
        return normed_sum(cast(nn.LayerNorm, norm), x, delta)[1]
    return normalize(norm, x + delta)


def normalize_and_place(
    norm: nn.Module,
    x: Tensor,
    delta: Tensor,
    position: Tensor,
    placed: torch.dtype | None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`normalize_sum`, and the same plus ``position`` in the dtype ``placed``."""
    if x.shape == delta.shape and is_standard_layer(norm, nn.LayerNorm):
        layer = cast(nn.LayerNorm, norm)
        return layer_norm_and_position(x, delta, layer.weight, layer.bias, position, layer.eps, dtype, placed)
    normed = normalize(norm, x + delta)
    return normed, normed + position


def stream_dtype(layer: nn.Module) -> torch.dtype | None:
    """What a norm before ``layer`` writes without gradients, so that it need not be converted; else None."""
    weight = getattr(layer, "weight", None)
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not isinstance(weight, Tensor):
        return None
    return computed_dtype(weight)


def add_for(layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """``x + y`` as a linear layer reads it; without gradients rounded as it is written."""
    dtype = stream_dtype(layer)
    if dtype is None:
        return x + y
    # One of them has the shape of the sum; torch.broadcast_shapes would import sympy.
    out = x.new_empty(x.shape if x.numel() >= y.numel() else y.shape, dtype=dtype)
    wider = torch.promote_types(x.dtype, y.dtype)
    return torch.add(x, y, out=out) if torch.promote_types(out.dtype, wider) == wider else x + y


def add_product_for(layer: nn.Module, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """``x + y * z``, of the shape of ``x``, as :func:`add_for` writes it."""
    dtype = stream_dtype(layer)
    return torch.addcmul(x, y, z, out=None if dtype is None else torch.empty_like(x, dtype=dtype))


def normalize(norm: nn.Module, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Layer norm ``(..., C)`` of input of any float dtype. ``nn.LayerNorm`` is computed in fp32, and its result is of
    ``dtype``, by default fp32."""
    if is_standard_layer(norm, nn.LayerNorm):
        return normed_sum(cast(nn.LayerNorm, norm), x, None, dtype)[1]
    return call(norm, x)


@standard
class LayerNorm2d(nn.Module):
    """Layer norm over the channels of ``(B, C, H, W)``, computed in fp32; the result is fp32.

    Source: ``sam2.modeling.sam2_utils.LayerNorm2d``.
    """

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` of any float dtype to the same shape, in fp32."""
        return self.normalize(x.permute(0, 2, 3, 1), torch.float32).permute(0, 3, 1, 2)

    def normalize(self, x: Tensor, dtype: torch.dtype, gelu: bool = False) -> Tensor:
        """The norm of ``(..., C)``, or the GELU of it, in ``dtype``."""
        return layer_norm(x, self.weight, self.bias, self.eps, dtype, gelu)


@standard
class Layers(nn.Sequential):
    """``nn.Sequential`` whose convolutions take input of any float dtype and compute in their weights' dtype.

    A :class:`LayerNorm2d` and the GELU after it, before a convolution, are one operation if both are standard.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` through all layers."""
        layers = deque(self)
        while layers:
            layer = layers.popleft()
            if isinstance(layer, LayerNorm2d) and len(layers) > 1 and is_normed_gelu(layer, layers[0]):
                layers.popleft()
                dtype = computed_dtype(layers[0].weight) if isinstance(layers[0], nn.Conv2d) else torch.float32
                x = layer.normalize(x.permute(0, 2, 3, 1), dtype, gelu=True).permute(0, 3, 1, 2)
            else:
                x = convolve(layer, x) if isinstance(layer, nn.Conv2d) else layer(x)
        return x


def is_gelu(activation: nn.Module) -> bool:
    """Whether it is a standard module, and the exact GELU."""
    return is_standard_layer(activation, nn.GELU) and cast(nn.GELU, activation).approximate == "none"


def is_normed_gelu(norm: nn.Module, activation: nn.Module) -> bool:
    """Whether both are standard, a :class:`LayerNorm2d` and an exact GELU."""
    return is_gelu(activation) and isinstance(norm, LayerNorm2d) and is_standard(norm)


@standard
class MLP(nn.Module):
    """``num_layers`` linear layers with an activation between them, ``(..., input_dim)`` to ``(..., output_dim)``.

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
        self.layers = nn.ModuleList(nn.Linear(n, k) for n, k in zip(widths[:-1], widths[1:], strict=True))
        self.act = activation()
        self.sigmoid_output = sigmoid_output
        self.is_transformers = num_layers == 2 and activation is nn.GELU and not sigmoid_output

    def forward(self, x: Tensor) -> Tensor:
        """``(..., input_dim)`` of any float dtype to ``(..., output_dim)``, in :func:`computed_dtype`."""
        *hidden, last = self.layers
        if self.is_transformers:
            return mlp_with_gelu(hidden[0], last, self.act, x)
        for layer in hidden:
            x = project_activated(layer, self.act, x)
        x = project(last, x)
        return torch.sigmoid(x) if self.sigmoid_output else x


def mlp_with_gelu(first: nn.Module, last: nn.Module, gelu: nn.Module, x: Tensor) -> Tensor:
    """Two layers with GELU between them, fused if all three are standard."""
    if is_standard_layer(first, nn.Linear) and is_standard_layer(last, nn.Linear) and is_gelu(gelu):
        one, two = cast(nn.Linear, first), cast(nn.Linear, last)
        return gelu_mlp(as_computed(x, one.weight), one.weight, one.bias, two.weight, two.bias)
    return project(last, gelu(project(first, x)))


@standard
class DropPath(nn.Module):
    """Drops whole samples of a residual branch ``(B, ...)`` in training (stochastic depth) and rescales the rest.

    Source: ``sam2.modeling.sam2_utils.DropPath``.
    """

    def __init__(self, drop_prob: float = 0.0, scale_by_keep: bool = True) -> None:
        super().__init__()
        self.drop_prob = drop_prob
        self.scale_by_keep = scale_by_keep

    def forward(self, x: Tensor) -> Tensor:
        """``(B, ...)`` to the same shape and dtype; in training some of its B items are zero."""
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep = 1 - self.drop_prob
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * mask / keep if keep > 0 and self.scale_by_keep else x * mask


def get_activation(name: str) -> Callable[[Tensor], Tensor]:
    """The activation function called ``relu``, ``gelu`` or ``glu``.

    Raises:
        ValueError: another name.
    """
    activations: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "glu": F.glu}
    if name not in activations:
        raise ValueError(f"unknown activation {name!r}; expected one of {', '.join(activations)}")
    return activations[name]


# Elements of a chunk in `chunked`, 3 MiB in fp32: near the best for the tiny and the large model on two cores.
CHUNK = 3 * 2**18


def chunked(function: Callable[[Tensor], Tensor], x: Tensor, rows: int) -> Tensor:
    """``function(x)`` for ``x (B, H, W, C)``, computed in chunks of a multiple of ``rows`` rows.

    On the CPU the intermediate results of a chunk fit the cache, and the next chunk reuses their memory. Elsewhere, and
    for autograd, it is one call. ``function`` must not mix positions of different groups of ``rows`` rows.
    """
    B, H, W, C = x.shape
    size = rows * max(1, CHUNK // (B * W * C * rows))
    if size >= H or not is_cpu_inference(x):
        return function(x)
    chunks = x.split(size, dim=1)
    first = function(chunks[0])
    out = first.new_empty(B, H * first.shape[1] // size, *first.shape[2:])
    done = first.shape[1]
    out[:, :done] = first
    for chunk in chunks[1:]:
        y = function(chunk)
        out[:, done : done + y.shape[1]] = y
        done += y.shape[1]
    return out


@contextmanager
def init_empty_weights() -> Iterator[None]:
    """Context manager in which modules are built on the meta device: names, shapes and dtypes without values."""
    with torch.device("meta"), _SkipNormalInit():
        yield


class _SkipNormalInit(TorchFunctionMode):
    """Skips normal initialisation: on the meta device torch imports its compiler and SymPy for it, which takes longer
    than everything else that a program does before its first image."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.Tensor.normal_, torch.nn.init.normal_):
            tensor = kwargs["tensor"] if "tensor" in kwargs else args[0]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)

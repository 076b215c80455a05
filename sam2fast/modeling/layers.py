"""Building blocks shared by the model's parts."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sam2fast.kernels._cpu import emulates_bfloat16, in_float32, is_cpu_inference, linear
from sam2fast.kernels.layer_norm import add_layer_norm
from sam2fast.kernels.linear_gelu import gelu_mlp


def computed_dtype(weight: Tensor) -> torch.dtype:
    """The dtype of a matrix multiplication with this weight: autocast's if it is enabled, else the weight's."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def as_computed(x: Tensor, weight: Tensor) -> Tensor:
    """``x`` in :func:`computed_dtype` of ``weight``."""
    return x.to(computed_dtype(weight))


class Linear(nn.Linear):
    """``nn.Linear`` that takes input of any float dtype and computes in its weights' dtype."""

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in_features)`` to ``(..., out_features)``, in :func:`computed_dtype`."""
        return linear(as_computed(x, self.weight), self.weight, self.bias)


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` that takes input of any float dtype and computes in its weights' dtype."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to ``(B, out_channels, H', W')``, in :func:`computed_dtype`."""
        if emulates_bfloat16(x, self.weight):
            return in_float32(self._conv_forward, x, self.weight, self.bias)
        return super().forward(x.to(self.weight.dtype))


class ConvTranspose2d(nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` that takes input of any float dtype and computes in its weights' dtype."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """``(B, in_channels, H, W)`` to ``(B, out_channels, H', W')``, in :func:`computed_dtype`."""
        return super().forward(x.to(self.weight.dtype), output_size)


class LayerNorm(nn.LayerNorm):
    """``nn.LayerNorm`` computed in fp32, with an fp32 result, also for fp16 and bf16 input."""

    def forward(self, x: Tensor) -> Tensor:
        """``(..., *normalized_shape)`` to the same shape, in fp32."""
        return self.after(x, None)[1]

    def after(self, x: Tensor, delta: Tensor | None, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """``x + delta`` and its norm, in ``dtype`` if given; see :func:`sam2fast.kernels.layer_norm.add_layer_norm`."""
        return add_layer_norm(x, delta, self.weight, self.bias, self.eps, dtype)


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
        x = x.permute(0, 2, 3, 1).float()
        x = F.layer_norm(x, x.shape[-1:], self.weight.float(), self.bias.float(), self.eps)
        return x.permute(0, 3, 1, 2)


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
        self.layers = nn.ModuleList(Linear(n, k) for n, k in zip(widths[:-1], widths[1:], strict=True))
        self.act = activation()
        self.sigmoid_output = sigmoid_output
        self.is_transformers = num_layers == 2 and activation is nn.GELU and not sigmoid_output

    def forward(self, x: Tensor) -> Tensor:
        """``(..., input_dim)`` of any float dtype to ``(..., output_dim)``, in :func:`computed_dtype`."""
        *hidden, last = self.layers
        if self.is_transformers:
            return mlp_with_gelu(self.layers[0], self.layers[1], self.act, x)
        for layer in hidden:
            x = self.act(layer(x))
        x = last(x)
        return torch.sigmoid(x) if self.sigmoid_output else x


def mlp_with_gelu(first: nn.Module, last: nn.Module, gelu: nn.Module, x: Tensor) -> Tensor:
    """Two layers with GELU between them, fused unless a layer was replaced, for example by a quantised one."""
    if type(first) is Linear and type(last) is Linear:
        return gelu_mlp(as_computed(x, first.weight), first.weight, first.bias, last.weight, last.bias)
    return cast(Tensor, last(gelu(first(x))))


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


class TensorCache:
    """Caches one tensor computed from small parameters until their values change.

    On the CPU values are compared. Elsewhere a comparison would wait for the device, so addresses and version counters
    are compared; every write but one through ``.data`` changes them. Nothing is cached for autograd and in CUDA graphs,
    which outlive the cache. Copies and pickles of the owner start empty.
    """

    def __init__(self) -> None:
        # Key, copies or fingerprints of the sources, value. One attribute, so that other threads see a consistent
        # entry.
        self._entry: tuple[Hashable, tuple[Any, ...], Tensor] | None = None

    def __call__(self, key: Hashable, sources: tuple[Tensor, ...], compute: Callable[[], Tensor]) -> Tensor:
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return compute()
        if any(s.is_inference() and not s.is_cpu for s in sources):  # inference tensors have no version
            return compute()
        if sources[0].is_cuda and torch.cuda.is_current_stream_capturing():
            return compute()
        entry = self._entry
        if entry is None or entry[0] != key or not all(map(_is_unchanged, entry[1], sources)):
            fingerprints = tuple(s.detach().clone() if s.is_cpu else _fingerprint(s) for s in sources)
            entry = self._entry = (key, fingerprints, compute())
        return entry[2]

    def __reduce__(self) -> tuple[type["TensorCache"], tuple[()]]:
        return TensorCache, ()


def _fingerprint(source: Tensor) -> tuple[Any, ...]:
    return source.device, source.dtype, source.data_ptr(), source._version


def _is_unchanged(old: Any, source: Tensor) -> bool:
    if isinstance(old, Tensor):
        return source.is_cpu and torch.equal(old, source)
    return not source.is_cpu and old == _fingerprint(source)


def activated(activation: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
    """``activation(hidden)``, in place if no gradient needs ``hidden``; nobody else may use ``hidden``."""
    if activation is F.relu and not torch.is_grad_enabled():
        return torch.relu_(hidden)
    return activation(hidden)


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

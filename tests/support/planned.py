"""What an image predictor computes of a model, from plans and by calls of its modules; and changes of a model."""

import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from parity import random_image
from torch import Tensor, nn
from torch.nn.utils import parametrize

import sam2fast.engine
from sam2fast.engine import Engine, Parts, engine_for
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.utils.testing import relative_error

IMAGE = random_image(90, 120)
ALL, NONE = Parts(*[True] * 4), Parts(*[False] * 4)


def without(part: str) -> Parts:
    """All parts but one from plans."""
    return Parts(*(name != part for name in Parts._fields))


@contextmanager
def without_plans() -> Iterator[None]:
    """Context manager in which all modules are called."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "_choose", lambda self, part, x, *methods: part.by_modules(self._model()))
        yield


def results(model: Any) -> list[Tensor]:
    """The embedding of an image, the finer levels, and what a click on it with a mask yields."""
    predictor = SAM2ImagePredictor(model)
    predictor.set_image(IMAGE)
    assert predictor._features is not None
    height, width = model.sam_prompt_encoder.mask_input_size
    mask = torch.linspace(-8, 8, height * width).view(1, height, width)
    found = predictor.predict([[60, 40]], [1], mask_input=mask, return_logits=True)
    return [predictor.get_image_embedding(), *predictor._features["high_res_feats"], *map(torch.from_numpy, found)]


def by_modules(model: Any) -> list[Tensor]:
    """The same without plans."""
    with without_plans():
        return results(model)


@torch.no_grad()
def parts_of(model: Any) -> Parts:
    """The parts that are computed from plans."""
    return engine_for(model).parts()


def difference(expected: list[Tensor], actual: list[Tensor]) -> float:
    """The largest relative error."""
    return max(relative_error(a.float(), b.float()) for a, b in zip(expected, actual, strict=True))


@contextmanager
def away_from_the_cpu() -> Iterator[None]:
    """Context manager in which plans are computed as on a GPU, for tensors on the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sam2fast.engine, "_uses_cpu", lambda x: False)
        yield


def everywhere(compute: Callable[..., list[Tensor]]) -> Callable[..., list[Tensor]]:
    """Returns a function that computes on the CPU, and again as on a GPU."""

    def twice(*args: Any, **kwargs: Any) -> list[Tensor]:
        found = compute(*args, **kwargs)
        with away_from_the_cpu():
            return [*found, *compute(*args, **kwargs)]

    return twice


# ---- changes ----


class Wrapped(nn.Module):
    """Multiplies the result of a layer by 1.5."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * 1.5


class Larger(nn.Module):
    """Multiplies a weight by 1.5, as a parametrisation."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight * 1.5


class OnlyLinear(Tensor):
    """A weight of linear layers that knows no other operation, as torchao's; rounded coarsely."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func is F.linear:
                x, weight, *bias = args
                return F.linear(x, (8 * weight.as_subclass(Tensor)).round() / 8, *bias, **(kwargs or {}))
            assert func.__name__ in ("__get__", "is_floating_point"), func
            return func(*args, **(kwargs or {}))


def _larger(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *args: forward(*args) * 1.5


# Modifications of the layer ``name`` of ``owner``.
CHANGES: dict[str, Callable[[Any, str, Any], Any]] = {
    "hook": lambda owner, name, layer: layer.register_forward_hook(lambda module, args, result: result * 1.5),
    "pre hook": lambda owner, name, layer: layer.register_forward_pre_hook(lambda module, args: -args[0]),
    "method of the instance": lambda owner, name, layer: setattr(
        layer, "forward", types.MethodType(_larger(type(layer).forward), layer)
    ),
    "wrapped": lambda owner, name, layer: setattr(owner, name, Wrapped(layer)),
    "class": lambda owner, name, layer: setattr(
        layer, "__class__", type("Custom", (type(layer),), {"forward": _larger(type(layer).forward)})
    ),
    "parametrisation": lambda owner, name, layer: parametrize.register_parametrization(layer, "weight", Larger()),
}


def loaded(layer: nn.Module, **options: Any) -> None:
    layer.load_state_dict({name: 1.5 * x for name, x in layer.state_dict().items()}, **options)


# Changes of the values of a layer's weight. The layer is still computed from a plan.
VALUES: dict[str, Callable[[Any], Any]] = {
    "in place": lambda layer: layer.weight.mul_(1.5),
    "in place through data": lambda layer: layer.weight.data.mul_(1.5),
    "other data": lambda layer: setattr(layer.weight, "data", 1.5 * layer.weight.data),
    "another parameter": lambda layer: setattr(layer, "weight", nn.Parameter(1.5 * layer.weight)),
    "loaded": loaded,
    "loaded by assignment": lambda layer: loaded(layer, assign=True),
}


def set_at(model: nn.Module, path: str, value: Any) -> None:
    """Sets an attribute of a module, which has another value."""
    owner, _, name = path.rpartition(".")
    assert value is None or getattr(model.get_submodule(owner), name) != value
    setattr(model.get_submodule(owner), name, value)


def shift(values: Tensor, through_data: bool = False) -> None:
    """Adds another number to each value, which version counters do not see through ``data``."""
    (values.data if through_data else values).add_(torch.linspace(-1, 1, values.numel()).view_as(values))


@torch.no_grad()
def assert_takes_effect(
    compute: Callable[[Any], list[Tensor]],
    model: Any,
    change: Callable[[], Any],
    parts: Parts = ALL,
    least: float = 1e-4,
) -> None:
    """A change makes a difference to what is computed, from plans of these parts as by calls of all modules."""
    before = compute(model)
    change()
    assert parts_of(model) == parts
    after = compute(model)
    with without_plans():
        assert difference(before, after) > least and difference(compute(model), after) < 1e-5


# ---- precision ----


def assert_same(expected: Sequence[Tensor], found: Sequence[Tensor], tolerance: float = 1e-5) -> None:
    """Shapes, dtypes and values."""
    for a, b in zip(expected, found, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert torch.equal(a, b) or relative_error(a.float(), b.float()) <= tolerance


def assert_as_near(truth: Sequence[Tensor], expected: Sequence[Tensor], found: Sequence[Tensor]) -> None:
    """``found`` is at most twice as far from the truth as ``expected``, in a low precision."""
    for exact, a, b in zip(truth, expected, found, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert relative_error(exact, b.float()) <= 2 * relative_error(exact, a.float()) + 0.002


def bfloat16() -> torch.autocast:
    """Context manager of autocast on the CPU."""
    return torch.autocast("cpu", torch.bfloat16)


def in_low_precision(model: Any) -> None:
    """Weights in bfloat16, but for the heads, which stay in fp32 as in models that are built so."""
    model.to(torch.bfloat16)
    for name in model.sam_mask_decoder.keep_fp32:
        getattr(model.sam_mask_decoder, name).float()

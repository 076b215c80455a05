"""Low-rank adapters (LoRA): chosen linear layers learn a small difference from weights that stay as they are.

https://arxiv.org/abs/2106.09685. An adapter belongs to a layer's weight, not to its input: whoever reads the weight,
also without calling the layer, gets the sum, and a merged model computes the same.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from sam2fast.modeling.layers import Linear

DOWN, UP = "lora_down", "lora_up"
# Attention in the image encoder's blocks, and in the memory attention's layers.
ATTENTION = (
    "image_encoder.trunk.blocks.*.attn.qkv",
    "image_encoder.trunk.blocks.*.attn.proj",
    "memory_attention.layers.*_proj",
)


@dataclass(frozen=True)
class AdapterConf:
    """Which layers get adapters; everything else stays as it is, unless ``train`` names it.

    Args:
        rank: of the differences that are learnt.
        alpha: differences are scaled by ``alpha / rank``.
        targets: patterns of linear layers' names.
        train: patterns of parameters that learn as a whole, such as ``sam_mask_decoder.*``.

    Raises:
        ValueError: a rank or alpha that is not positive, or no targets.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: Sequence[str] = ATTENTION
    train: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0 or not math.isfinite(self.alpha):
            raise ValueError(f"adapters: rank and alpha must be positive, got {self.rank} and {self.alpha}")
        if not self.targets:
            raise ValueError("adapters: targets names no layers")

    @property
    def scale(self) -> float:
        """Of the differences, ``alpha / rank``."""
        return self.alpha / self.rank


class AdaptedLinear(Linear):
    """A linear layer with the weight ``weight + scale * lora_up @ lora_down``; :func:`add_adapters` makes it of one.

    Its parameters keep their names and stay the same objects; there are two more, ``lora_down (rank, in)`` and
    ``lora_up (out, rank)``.
    """

    lora_scale: float

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The sum ``(out, in)``, computed anew each time; the parameter itself while processes have a part of it each.

        Then nothing is computed with it, and ``fully_shard`` asks for the parameter by this name.
        """
        own = self._parameters
        weight, down, up = own["weight"], own[DOWN], own[UP]
        assert weight is not None and down is not None and up is not None
        if hasattr(weight, "placements"):  # a DTensor, whose class is slow to import
            return weight
        return _adapted(weight, down, up, self.lora_scale)


def _adapted(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    wide = torch.promote_types(weight.dtype, torch.float32)
    with torch.autocast(weight.device.type, enabled=False):  # which would round the difference to its own few bits
        return torch.addmm(weight.to(wide), up.to(wide), down.to(wide), alpha=scale).to(weight.dtype)


def add_adapters(model: nn.Module, conf: AdapterConf) -> None:
    """Gives layers of a model adapters, and lets nothing else learn but what ``conf.train`` names.

    The model computes what it did before: differences are zero at first. What is drawn comes from torch's global
    generator.

    Raises:
        ValueError: a pattern that matches no linear layer or no parameter, or layers that have adapters already.
            Nothing is changed then.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, Linear)}
    chosen: dict[str, Linear] = {}
    for pattern in conf.targets:
        matching = {name: layer for name, layer in layers.items() if fnmatchcase(name, pattern)}
        if not matching:
            raise ValueError(f"adapters: no linear layer is named {pattern!r}")
        chosen.update(matching)
    if adapted := [name for name, layer in chosen.items() if isinstance(layer, AdaptedLinear)]:
        raise ValueError(f"adapters: {adapted[0]} has one already")
    parameters = dict(model.named_parameters())
    for pattern in conf.train:
        if not any(fnmatchcase(name, pattern) for name in parameters):
            raise ValueError(f"adapters: no parameter is named {pattern!r}")
    for name, parameter in parameters.items():
        parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in conf.train))
    for layer in chosen.values():
        adapt(layer, conf.rank, conf.scale)


def adapt(layer: Linear, rank: int, scale: float) -> None:
    """Makes a layer one with an adapter; its parameters, and whoever holds it, stay the same."""
    weight = layer.weight
    options: dict[str, Any] = {"dtype": torch.promote_types(weight.dtype, torch.float32), "device": weight.device}
    reach = layer.in_features**-0.5
    layer._parameters[DOWN] = nn.Parameter(torch.empty(rank, layer.in_features, **options).uniform_(-reach, reach))
    layer._parameters[UP] = nn.Parameter(torch.zeros(layer.out_features, rank, **options))
    layer.__class__ = AdaptedLinear
    layer.lora_scale = scale  # type: ignore[assignment]


def adapted_layers(model: nn.Module) -> dict[str, AdaptedLinear]:
    """The layers with adapters, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, AdaptedLinear)}


@contextlib.contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Inside, the model has its parameters under their official names alone, and computes without adapters."""
    taken = []
    try:
        for layer in adapted_layers(model).values():
            down, up = (layer._parameters.pop(name) for name in (DOWN, UP))
            layer.__class__ = Linear  # type: ignore[assignment]
            taken.append((layer, down, up))
        yield
    finally:
        for layer, down, up in taken:
            layer.__class__ = AdaptedLinear
            layer._parameters[DOWN], layer._parameters[UP] = down, up


@torch.no_grad()
def merge_adapters(model: nn.Module) -> None:
    """Adds every adapter to the weight it belongs to, and takes it away; the model computes the same."""
    for layer in adapted_layers(model).values():
        merged = layer.weight
        del layer._parameters[DOWN], layer._parameters[UP], layer.lora_scale
        layer.__class__ = Linear  # type: ignore[assignment]
        layer.weight.copy_(merged)


@torch.no_grad()
def merged_weights(weights: Mapping[str, Tensor], conf: AdapterConf | None) -> dict[str, Tensor]:
    """The state of a model with adapters as that of one without, which computes the same; others are left alone."""
    out = {name: value for name, value in weights.items() if not is_adapter(name)}
    for name, down in weights.items():
        layer, _, kind = name.rpartition(".")
        if kind == DOWN and conf is not None:
            out[f"{layer}.weight"] = _adapted(weights[f"{layer}.weight"], down, weights[f"{layer}.{UP}"], conf.scale)
    return out


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name is part of an adapter."""
    return name.rpartition(".")[2] in (DOWN, UP)

"""Low-rank adapters (LoRA, https://arxiv.org/abs/2106.09685): selected linear layers learn a low-rank update of frozen
weights. They are stored as ``peft`` stores them, which this module does not need.

An adapter is part of a layer's ``weight``: code that reads the weight without calling the layer gets the sum.
"""

import contextlib
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Linear

from sam2fast.checkpoints import CheckpointError
from sam2fast.io.atomic import atomic_write
from sam2fast.modeling.standard import standard

DOWN, UP = "lora_down", "lora_up"
# Attention in the blocks of the image encoder and in the layers of memory attention.
ATTENTION = (
    "image_encoder.trunk.blocks.*.attn.qkv",
    "image_encoder.trunk.blocks.*.attn.proj",
    "memory_attention.layers.*_proj",
)
# Of files from before 0.2.
FORMAT = "sam2fast adapters"
# Of folders as peft writes them.
PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PEFT_PREFIX, PEFT_NAMES = "base_model.model", {DOWN: "lora_A.weight", UP: "lora_B.weight"}
# Settings under which an adapter is what it is here, whatever their value.
PEFT_SETTINGS = {
    *("auto_mapping", "base_model_name_or_path", "bias", "ensure_weight_tying", "exclude_modules", "inference_mode"),
    *("init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout", "megatron_core"),
    *("modules_to_save", "peft_type", "peft_version", "qalora_group_size", "r", "revision", "runtime_config"),
    *("target_modules", "task_type", "use_rslora"),
}


@dataclass(frozen=True)
class AdapterConf:
    """The layers that get adapters; all other parameters are frozen, unless ``train`` matches them.

    Args:
        rank: rank of the updates.
        alpha: updates are scaled by ``alpha / rank``.
        targets: patterns for the names of linear layers.
        train: patterns for the names of parameters that are trained fully, such as ``sam_mask_decoder.*``.

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
        """Factor of the updates, ``alpha / rank``."""
        return self.alpha / self.rank


@standard
class AdaptedLinear(Linear):
    """A linear layer with the weight ``weight + scale * lora_up @ lora_down``; made by :func:`add_adapters`.

    Its parameters keep their names and identities; ``lora_down (rank, in)`` and ``lora_up (out, rank)`` are added.
    """

    lora_scale: float

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The sum ``(out, in)``, computed at each access; the parameter itself while it is sharded.

        ``fully_shard`` reads the parameter by this name, and nothing is computed with a sharded weight.
        """
        own = self._parameters
        weight, down, up = own["weight"], own[DOWN], own[UP]
        assert weight is not None and down is not None and up is not None
        if hasattr(weight, "placements"):  # a DTensor; its class is slow to import
            return weight
        return _adapted(weight, down, up, self.lora_scale)


def _adapted(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    wide = torch.promote_types(weight.dtype, torch.float32)
    with torch.autocast(weight.device.type, enabled=False):  # autocast would round the update
        return torch.addmm(weight.to(wide), up.to(wide), down.to(wide), alpha=scale).to(weight.dtype)


def add_adapters(model: nn.Module, conf: AdapterConf) -> None:
    """Adds adapters to layers of a model, and freezes all other parameters that ``conf.train`` does not match.

    Updates are zero at first, so the model computes the same. Random numbers are from torch's global generator.

    Raises:
        ValueError: a pattern matches no linear layer or no parameter, or a layer has an adapter already. Nothing is
            changed then.
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
    """Adds an adapter to a layer in place; the layer and its parameters keep their identities."""
    weight = layer.weight
    options: dict[str, Any] = {"dtype": torch.promote_types(weight.dtype, torch.float32), "device": weight.device}
    bound = layer.in_features**-0.5
    layer._parameters[DOWN] = nn.Parameter(torch.empty(rank, layer.in_features, **options).uniform_(-bound, bound))
    layer._parameters[UP] = nn.Parameter(torch.zeros(layer.out_features, rank, **options))
    layer.__class__ = AdaptedLinear
    layer.lora_scale = scale  # type: ignore[assignment]


def adapted_layers(model: nn.Module) -> dict[str, AdaptedLinear]:
    """The layers with adapters, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, AdaptedLinear)}


@contextlib.contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Removes the adapters inside the context: the model has its official parameters alone."""
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
    """Adds every adapter to its weight and removes it; the model computes the same."""
    for layer in adapted_layers(model).values():
        merged = layer.weight
        del layer._parameters[DOWN], layer._parameters[UP], layer.lora_scale
        layer.__class__ = Linear  # type: ignore[assignment]
        layer.weight.copy_(merged)


@torch.no_grad()
def merged_weights(weights: Mapping[str, Tensor], conf: AdapterConf | None) -> dict[str, Tensor]:
    """The state dict of a model with its adapters merged into the weights."""
    out = {name: value for name, value in weights.items() if not is_adapter(name)}
    for name, down in weights.items():
        layer, _, kind = name.rpartition(".")
        if kind == DOWN and conf is not None:
            out[f"{layer}.weight"] = _adapted(weights[f"{layer}.weight"], down, weights[f"{layer}.{UP}"], conf.scale)
    return out


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name is part of an adapter."""
    return name.rpartition(".")[2] in (DOWN, UP)


def write_adapters(weights: Mapping[str, Tensor], learnt: Collection[str], conf: AdapterConf, path: Path) -> None:
    """Writes adapters and other trained parameters into a folder, as :func:`save_adapters` does.

    Args:
        weights: of the model, by name.
        learnt: names of the trainable parameters; adapters are always written.
        conf: the settings of the adapters.
        path: the folder.
    """
    from safetensors.torch import save

    layers = sorted(name.rpartition(".")[0] for name in weights if name.endswith(f".{DOWN}"))
    # Clones: safetensors refuses tensors that share memory.
    tensors = {
        _peft_name(name, layers): value.detach().cpu().clone().contiguous()
        for name, value in weights.items()
        if name in learnt or is_adapter(name)
    }
    about = {"peft_type": "LORA", "r": conf.rank, "lora_alpha": conf.alpha, "target_modules": layers, "bias": "none"}
    with atomic_write(path / PEFT_WEIGHTS) as file:
        file.write(save(tensors, {"format": "pt"}))
    with atomic_write(path / PEFT_CONFIG) as file:
        file.write(json.dumps({**about, "inference_mode": True}, indent=2).encode())


def _peft_name(name: str, layers: Collection[str]) -> str:
    """What peft calls a parameter of a model with adapters in these layers."""
    layer, _, kind = name.rpartition(".")
    theirs = PEFT_NAMES.get(kind) or (f"base_layer.{kind}" if layer in layers else kind)
    return ".".join(filter(None, (PEFT_PREFIX, layer, theirs)))


def _own_name(name: str) -> str:
    """What we call a parameter of a file of peft's."""
    name = name.removeprefix(f"{PEFT_PREFIX}.").replace(".base_layer.", ".")
    for ours, theirs in PEFT_NAMES.items():
        if name.endswith(f".{theirs}"):
            return name.removesuffix(theirs) + ours
    return name


def save_adapters(model: nn.Module, conf: AdapterConf, path: str | Path) -> None:
    """Writes a model's adapters and other trainable parameters into a folder, as ``peft`` writes and loads them."""
    learnt = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    write_adapters(dict(model.named_parameters()), learnt, conf, Path(path))


def load_adapters(model: nn.Module, path: str | Path) -> AdapterConf:
    """Loads adapters into a model with the weights they were trained on, and returns their settings.

    The model is a video predictor or the model of an image predictor. All its parameters are frozen afterwards;
    :func:`merge_adapters` merges the adapters into its weights.

    Args:
        model: without adapters.
        path: a folder of :func:`save_adapters` or of ``peft``'s ``save_pretrained``, also of the original's model with
            LoRA on linear layers; or a file ``adapters.safetensors``, as sam2fast wrote them before 0.2.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file has no adapters, or none for this model; nothing is changed then.
    """
    tensors, conf = _read(Path(path))
    layers = {name.rpartition(".")[0] for name in tensors if is_adapter(name)}
    modules, own = dict(model.named_modules()), dict(model.named_parameters())
    wrong = [name for name in sorted(layers) if type(modules.get(name)) is not Linear]
    wrong += [name for name, value in tensors.items() if not is_adapter(name) and not _fits(own.get(name), value)]
    for name in sorted(layers - set(wrong)):
        down, up, weight = tensors.get(f"{name}.{DOWN}"), tensors.get(f"{name}.{UP}"), own[f"{name}.weight"]
        inner, outer = (conf.rank, weight.shape[1]), (weight.shape[0], conf.rank)
        if down is None or up is None or tuple(down.shape) != inner or tuple(up.shape) != outer:
            wrong.append(name)
    if wrong:
        raise CheckpointError(
            f"{path} has adapters for another model, or this one has adapters already: "
            f"{len(wrong)} names do not fit, such as {wrong[0]}"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.requires_grad_(False)
            if name in tensors:
                parameter.copy_(tensors[name])
        for name in sorted(layers):
            layer = modules[name]
            assert isinstance(layer, Linear)
            adapt(layer, conf.rank, conf.scale)
            for kind in (DOWN, UP):
                factor = layer.get_parameter(kind).requires_grad_(False)
                factor.copy_(tensors[f"{name}.{kind}"])
    return conf


def _fits(parameter: Tensor | None, value: Tensor) -> bool:
    return parameter is not None and parameter.shape == value.shape


def _read(path: Path) -> tuple[dict[str, Tensor], AdapterConf]:
    from safetensors import SafetensorError, safe_open

    is_folder, source = path.is_dir(), path
    for needed in (path / PEFT_CONFIG, path / PEFT_WEIGHTS) if is_folder else (path,):
        if not needed.is_file():
            raise FileNotFoundError(f"no file {str(needed)!r}")
    try:
        with safe_open(path / PEFT_WEIGHTS if is_folder else path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            about = file.metadata() or {}
        if is_folder:
            tensors, source = {_own_name(name): value for name, value in tensors.items()}, path / PEFT_CONFIG
            return tensors, _peft_conf(path / PEFT_CONFIG, tensors)
        if about.get("format") != FORMAT:
            raise CheckpointError(f"{path} is no file of adapters; those of peft are a folder with {PEFT_CONFIG}")
        return tensors, AdapterConf(**json.loads(about["adapters"]))
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError, OverflowError) as error:
        raise CheckpointError(f"{source} is damaged or no file of adapters: {error}") from error


def _peft_conf(path: Path, tensors: Mapping[str, Tensor]) -> AdapterConf:
    about = json.loads(path.read_bytes())
    if not isinstance(about, dict) or about.get("peft_type") != "LORA":
        raise CheckpointError(f"{path} does not describe adapters of the type LORA")
    other = [name for name, value in about.items() if value and name not in PEFT_SETTINGS]
    if isinstance(about.get("init_lora_weights"), str) and about["init_lora_weights"] != "gaussian":
        other.append("init_lora_weights")  # it may have changed the weights below the adapters
    if other:
        raise CheckpointError(f"{path} has {', '.join(other)}: peft itself can load such adapters into the model")
    rank, alpha = about["r"], about["lora_alpha"]
    layers = sorted(name.rpartition(".")[0] for name in tensors if name.endswith(f".{DOWN}"))
    train = sorted(name for name in tensors if not is_adapter(name))
    return AdapterConf(rank, alpha * math.sqrt(rank) if about.get("use_rslora") else alpha, layers, train)

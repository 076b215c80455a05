"""Low-rank adapters (LoRA, https://arxiv.org/abs/2106.09685) for frozen linear layers, applied with ``peft``.

This module requires the extra ``adapters``.
"""

import contextlib
import json
import math
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sam2fast.checkpoints import CheckpointError
from sam2fast.checkpoints.other_files import PEFT_CONFIG
from sam2fast.checkpoints.weight_files import read_file
from sam2fast.io.atomic import atomic_write

# Default name patterns of layers with adapters: attention projections of image encoder and memory attention.
ATTENTION = (
    "image_encoder.trunk.blocks.*.attn.qkv",
    "image_encoder.trunk.blocks.*.attn.proj",
    "memory_attention.layers.*_proj",
)
CONFIG_FILE, WEIGHTS_FILE = PEFT_CONFIG, "adapter_model.safetensors"
PICKLED_FILE = "adapter_model.bin"  # instead of WEIGHTS_FILE, from peft's save_pretrained(safe_serialization=False)
PREFIX = "base_model.model."  # prefix of parameter names in peft's files
DOWN, UP = ".lora_A.default.weight", ".lora_B.default.weight"


@dataclass(frozen=True)
class AdapterConf:
    """Configuration of adapters. Parameters that are not adapters are frozen, unless ``train`` matches their names.

    Args:
        rank: rank of the low-rank updates, at least 1.
        alpha: positive scale. The low-rank updates are multiplied by ``alpha / rank``.
        targets: name patterns of the linear layers that get adapters; at least one pattern.
        train: name patterns of parameters that are trained fully, such as ``sam_mask_decoder.*``.
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


def _peft() -> Any:
    try:
        import peft
    except Exception as error:  # raised by peft's import if requirements are incompatible
        if isinstance(error, ModuleNotFoundError) and error.name == "peft":
            raise ImportError(
                "adapters need peft: pip install 'sam2fast[adapters]', or in a checkout pip install '.[adapters]'"
            ) from error
        first: BaseException = error
        while (cause := first.__cause__ or first.__context__) is not None:
            first = cause
        raise ImportError(f"peft cannot be imported: {type(first).__name__}: {first}") from error
    return peft


def add_adapters(model: nn.Module, conf: AdapterConf) -> None:
    """Adds adapters to a model in place and freezes all other parameters that ``conf.train`` does not match.

    The low-rank updates are initially zero, so the model's output does not change. Random initial values come from
    torch's global generator.

    Raises:
        ImportError: If ``peft`` is not installed.
        ValueError: If a pattern matches no linear layer or no parameter, or the model already has adapters. After this
            error, the model is unchanged.
    """
    peft = _peft()
    if adapted := adapted_layers(model):
        raise ValueError(f"adapters: {next(iter(adapted))} already has an adapter")
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for pattern in conf.targets:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise ValueError(f"adapters: no linear layer matches {pattern!r}")
    parameters = dict(model.named_parameters())
    for pattern in conf.train:
        if not any(fnmatchcase(name, pattern) for name in parameters):
            raise ValueError(f"adapters: no parameter matches {pattern!r}")
    targets = [name for name in layers if any(fnmatchcase(name, pattern) for pattern in conf.targets)]
    peft.inject_adapter_in_model(peft.LoraConfig(**_lora(conf, targets)), model)
    for name, parameter in parameters.items():
        parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in conf.train))


def _lora(conf: AdapterConf, layers: Sequence[str]) -> dict[str, Any]:
    return {"r": conf.rank, "lora_alpha": conf.alpha, "target_modules": list(layers), "bias": "none"}


def adapted_layers(model: nn.Module) -> dict[str, Any]:
    """Returns a mapping from layer names to the modules of ``peft`` that replace these layers of the model."""
    if "peft" not in sys.modules:
        return {}
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    adapter_types = (BaseTunerLayer, ModulesToSaveWrapper)
    return {name: module for name, module in model.named_modules() if isinstance(module, adapter_types)}


def _original(module: Any) -> nn.Module:
    """Returns the layer that a module of ``peft`` wraps."""
    return module.get_base_layer() if hasattr(module, "get_base_layer") else module.original_module


def _put(model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    for name, module in modules.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module)


def _remove(model: nn.Module) -> dict[str, Any]:
    adapted = adapted_layers(model)
    _put(model, {name: _original(module) for name, module in adapted.items()})
    return adapted


@contextlib.contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Context manager that removes a model's adapters temporarily, so that the model has only official parameters."""
    adapted = _remove(model)
    try:
        yield
    finally:
        _put(model, adapted)


def merge_adapters(model: nn.Module) -> None:
    """Merges all adapters into the weights and removes the adapters. Merging does not change the model's outputs."""
    for name, module in adapted_layers(model).items():
        if hasattr(module, "merge"):
            module.merge()
            merged = _original(module)
        else:
            merged = module.modules_to_save[module.active_adapters[0]]
        _put(model, {name: merged})
    vars(model).pop("peft_config", None)


@torch.no_grad()
def merged_weights(weights: Mapping[str, Tensor], conf: AdapterConf | None) -> dict[str, Tensor]:
    """Returns a copy of a state dict in which the adapters are merged into the weights."""
    out = {name.replace(".base_layer.", "."): value for name, value in weights.items() if not is_adapter(name)}
    for name, down in weights.items():
        layer = name.removesuffix(DOWN)
        if layer != name and conf is not None:
            weight = weights[f"{layer}.base_layer.weight"]
            update = (weights[layer + UP] @ down) * (conf.alpha / conf.rank)
            out[f"{layer}.weight"] = (weight + update).to(weight.dtype)
    return out


def is_adapter(name: str) -> bool:
    """Returns True if a parameter of this name belongs to an adapter."""
    return name.endswith((DOWN, UP))


def write_adapters(weights: Mapping[str, Tensor], learnt: Collection[str], conf: AdapterConf, path: Path) -> None:
    """Writes the adapters in ``weights``, and the parameters whose names are in ``learnt``, to a folder."""
    from safetensors.torch import save

    layers = sorted(name.removesuffix(DOWN) for name in weights if name.endswith(DOWN))
    # Clones all tensors, because safetensors refuses tensors that share memory.
    tensors = {
        PREFIX + name.replace(".default.", "."): value.detach().cpu().clone().contiguous()
        for name, value in weights.items()
        if name in learnt or is_adapter(name)
    }
    with atomic_write(path / WEIGHTS_FILE) as file:
        file.write(save(tensors, {"format": "pt"}))
    about = {"peft_type": "LORA", **_lora(conf, layers), "inference_mode": True}
    with atomic_write(path / CONFIG_FILE) as file:
        file.write(json.dumps(about, indent=2).encode())


def save_adapters(model: nn.Module, conf: AdapterConf, path: str | Path) -> None:
    """Writes a model's adapters and other trainable parameters to a folder, in ``peft``'s format."""
    learnt = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    write_adapters(dict(model.named_parameters()), learnt, conf, Path(path))


def load_adapters(model: nn.Module, path: str | Path) -> Any:
    """Loads adapters in place into a model that has the weights with which the adapters were trained.

    All parameters of the model are frozen. :func:`merge_adapters` merges the adapters into the weights.

    Args:
        model: video predictor, or model of an image predictor, without adapters.
        path: folder written by :func:`save_adapters`, or by ``peft``'s ``save_pretrained`` for this or the official
            model.

    Returns:
        Configuration of the adapters, an object of ``peft``.

    Raises:
        ImportError: If ``peft`` is not installed.
        FileNotFoundError: If a file of the adapters is missing.
        CheckpointError: If the adapters' files are damaged or do not fit the model, or the model already has adapters.
            After this error, the model is unchanged.
    """
    path = Path(path)
    tensors, conf = _read(path)
    peft = _peft()
    if adapted := adapted_layers(model):
        raise CheckpointError(f"{next(iter(adapted))} of the model already has adapters: merge_adapters removes them")
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        peft.inject_adapter_in_model(conf, model)
        if names := _misfits(model, tensors):
            raise ValueError(f"{len(names)} names do not match, such as {names[0]}")
    except Exception as error:  # peft raises exceptions of any type for bad configurations
        _remove(model)
        vars(model).pop("peft_config", None)
        for parameter in learning:
            parameter.requires_grad_(True)
        raise CheckpointError(f"{path} has adapters for another model: {error}") from error
    peft.set_peft_model_state_dict(model, tensors)
    model.requires_grad_(False)
    return conf


def _misfits(model: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Returns the names of tensors that are missing or unexpected in ``tensors`` or have a wrong shape."""
    needed = _peft().get_peft_model_state_dict(model, save_embedding_layers=False)
    # Known names include parameters that were trained in addition to the adapters.
    known = {**model.state_dict(), **needed}
    wrong = [name for name, value in tensors.items() if name not in known or known[name].shape != value.shape]
    return sorted([*wrong, *(needed.keys() - tensors.keys())])


def _read(path: Path) -> tuple[dict[str, Tensor], Any]:
    weights, source = path / WEIGHTS_FILE, path / CONFIG_FILE
    if not weights.exists() and (path / PICKLED_FILE).exists():
        weights = path / PICKLED_FILE
    for needed in (source, weights):
        if not needed.is_file():
            raise FileNotFoundError(f"no file {str(needed)!r}")
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in read_file(weights).items()}
    try:
        return tensors, _peft().PeftConfig.from_peft_type(**json.loads(source.read_bytes()))
    except (KeyError, TypeError, ValueError, RecursionError, OverflowError) as error:
        raise CheckpointError(f"{source} is damaged or not an adapter file: {error}") from error

"""Files of adapters: what a training with adapters has learnt, and no more."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sam2fast.checkpoints import CheckpointError
from sam2fast.io.atomic import written_whole
from sam2fast.modeling.layers import Linear
from sam2fast.training.adapters import DOWN, UP, AdapterConf, adapt, is_adapter

FORMAT = "sam2fast adapters"


def write_adapters(weights: Mapping[str, Tensor], learnt: Collection[str], conf: AdapterConf, path: Path) -> None:
    """Writes what has been learnt, in a safetensors file that appears whole or not at all.

    Args:
        weights: of the model, by name.
        learnt: names of the parameters that learn; adapters are written whether they do or not.
    """
    from safetensors.torch import save

    kept = {name: value for name, value in weights.items() if name in learnt or is_adapter(name)}
    # Clones: safetensors refuses views of one memory.
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in kept.items()}
    about = {"rank": conf.rank, "alpha": conf.alpha, "targets": list(conf.targets), "train": list(conf.train)}
    content = save(tensors, {"format": FORMAT, "adapters": json.dumps(about)})
    with written_whole(path) as file:
        file.write(content)


def save_adapters(model: nn.Module, conf: AdapterConf, path: str | Path) -> None:
    """Writes a model's adapters, and what else of it learns, into a safetensors file."""
    learnt = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    write_adapters(dict(model.named_parameters()), learnt, conf, Path(path))


def load_adapters(model: nn.Module, path: str | Path) -> AdapterConf:
    """Puts adapters from a file on a model that has the weights they were trained on; returns what they were made by.

    A video predictor is such a model, an image predictor has one. Nothing in it learns afterwards;
    :func:`~sam2fast.training.adapters.merge_adapters` makes it an ordinary one.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file holds no adapters, or none for this model; nothing is changed then.
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

    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            if about.get("format") != FORMAT:
                raise CheckpointError(f"{path} is no file of adapters, as a training with adapters writes them")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            return tensors, AdapterConf(**json.loads(about["adapters"]))
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged or no file of adapters: {error}") from error

"""What a ``config.json`` of transformers says about a model that a configuration of ours does not."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sam2fast.checkpoints.errors import CheckpointError, NoConfigError, listed
from sam2fast.checkpoints.transformers_config import IMAGE, SWITCHES, VIDEO, transformers_config

# The model whose values are transformers' defaults: what a config.json leaves out is as here.
DEFAULTS = "configs/sam2.1/sam2.1_hiera_t.yaml"
# They follow from the size of the pictures; files of another size than the default often leave them as they were.
DERIVED = ("image_size", "backbone_feature_sizes", "memory_attention_rope_feat_sizes")
# They say nothing about the model, or nothing that matters after training.
IRRELEVANT = (
    "model_type",
    "architectures",
    "dtype",
    "memory_attention_dropout",
    "memory_attention_rope_dropout",
    "memory_fuser_layer_scale_init_value",
)


def overrides_from(file: Path, config: str) -> tuple[str, ...]:
    """What must be changed in a configuration of ours to be the model that a ``config.json`` describes.

    Raises:
        NoConfigError: the file describes a model that is not the configuration's.
        CheckpointError: the file is no JSON mapping.
    """
    found = _read(file)
    kind = found.get("model_type")
    if kind not in (VIDEO, IMAGE):
        raise NoConfigError(
            f"{file} is of the model type {kind!r}, expected {VIDEO} or {IMAGE}; to use the weights, name their "
            "configuration"
        )
    video = kind == VIDEO
    defaults = _flat(transformers_config(DEFAULTS, video=video))
    told = defaults | {name: value for name, value in _flat(found).items() if name in defaults}
    told = {name: _pair(value) if _last(name) == "image_size" else value for name, value in told.items()}
    ours = _flat(transformers_config(config, video=video))
    changes = _size_change(file, told, ours["vision_config.backbone_config.image_size"])
    for theirs, name in SWITCHES.items():
        if video and told[theirs] != ours[theirs]:
            if not isinstance(told[theirs], int | float):
                raise NoConfigError(f"{file} has {theirs} = {told[theirs]!r}, expected a number; name a configuration")
            changes.append(f"++model.{name}={json.dumps(told[theirs])}")
    other = [
        f"{name} is {told[name]} instead of {value}"
        for name, value in ours.items()
        if name not in SWITCHES and _last(name) not in (*DERIVED, *IRRELEVANT) and told[name] != value
    ]
    if other:
        raise NoConfigError(
            f"{file} describes another model than {config}, which the weights are of: {listed(other)}; to use the "
            "weights all the same, name their configuration"
        )
    return tuple(changes)


def _size_change(file: Path, told: Mapping[str, Any], ours: Any) -> list[str]:
    sizes = {name: value for name, value in told.items() if _last(name) == "image_size"}
    size = sizes["vision_config.backbone_config.image_size"]
    if any(other != size for other in sizes.values()):
        given = ", ".join(f"{name} {value}" for name, value in sizes.items())
        raise NoConfigError(f"{file} has several sizes of pictures, {given}; name a configuration")
    if len(size) != 2 or not all(isinstance(side, int) for side in size) or size[0] != size[1]:
        raise NoConfigError(
            f"{file} is for pictures of the size {size}, and only squares can be built; name a configuration"
        )
    return [] if size == ours else [f"++model.image_size={size[0]}"]


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is no JSON file: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} is no configuration: expected a mapping")
    return content


def _flat(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    out: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            out |= _flat(value, f"{above}{name}.")
        elif value is not None:  # which is "as by default" there
            out[above + name] = value
    return out


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _pair(size: Any) -> Any:
    return size if isinstance(size, list) else [size, size]

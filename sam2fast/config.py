"""Loads model configurations, and builds models from configurations. Reads, but never changes, Hydra's global state."""

import inspect
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from sam2fast._official_names import ABSENT_CONFIGS, FORK_CONFIGS, MODULES, NAMES
from sam2fast.io.yaml_text import parse_yaml
from sam2fast.utils.errors import FixableError

if TYPE_CHECKING:
    from importlib.abc import Traversable

# Targets that a configuration may instantiate by default.
TARGETS = frozenset(
    f"sam2fast.{module}.{name}"
    for module, names in {
        "sam2_video_predictor": "SAM2VideoPredictor SAM2VideoPredictorVOS",
        "modeling.sam2_base": "SAM2Base",
        "modeling.image_encoder": "ImageEncoder FpnNeck ViTDetNeck ScaledNeck",
        "modeling.hiera": "Hiera",
        "modeling.repvit": "RepViT",
        "modeling.vit": "ViT RoPEViT",
        "modeling.position_encoding": "PositionEmbeddingSine",
        "modeling.attention": "RoPEAttention RoPEAttentionv2 EfficientRoPEAttention1 EfficientRoPEAttention2",
        "modeling.perceiver": "PerceiverResampler",
        "modeling.memory_attention": "MemoryAttention MemoryAttentionLayer",
        "modeling.memory_encoder": "MemoryEncoder MaskDownSampler Fuser CXBlock",
    }.items()
    for name in names.split()
)
# Top-level key of model configurations.
MODEL = re.compile("^model:", re.MULTILINE)
# Plain text without characters of Hydra's grammar, such as ~/Größe. Hydra rejects some of these texts unless quoted.
TEXT = re.compile(r"""[^"'()\[\]{},=]*[^"'()\[\]{},=\\]""")
EFFICIENTTAM = re.compile(r"^efficient_track_anything\.")
# Argument types that do not accept text -> expected value in error messages.
EXPECTED = {bool: "true or false", int: "an integer", float: "a number"}
_ABSENT = object()  # marks a missing value, because None is a valid value


class ConfigError(FixableError, ValueError):
    """Raised if a configuration or an override is invalid."""


def shipped_configs() -> "dict[str, Traversable]":
    """Returns the model configurations of the package by name, such as ``sam2.1/sam2.1_hiera_t``."""
    return {name: file for name, file in _shipped_files().items() if MODEL.search(file.read_text(encoding="utf-8"))}


def shipped_recipes() -> "dict[str, Traversable]":
    """Returns the training configurations of the package by name, such as ``nano/sam2fast_nano_own_masks``."""
    models = shipped_configs()
    return {name: file for name, file in _shipped_files().items() if name not in models}


def _shipped_files() -> "dict[str, Traversable]":
    folders = (entry for entry in files("sam2fast.configs").iterdir() if entry.is_dir())
    return {
        f"{folder.name}/{entry.name.removesuffix('.yaml')}": entry
        for folder in folders
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    }


def load_config(name: str | Path, overrides: Sequence[str] = ()) -> DictConfig:
    """Reads one configuration and applies Hydra-style overrides.

    A configuration with a ``base_config`` contains only the differences from the base configuration.

    Args:
        name: Official name (``configs/sam2.1/sam2.1_hiera_t.yaml``, with or without ``configs/`` and ``.yaml``), last
            part of an official name (``sam2_hiera_t.yaml``), or path of a YAML file. Some names of forks are supported,
            such as ``configs/samurai/sam2.1_hiera_t.yaml`` and ``sam2.1_hiera_t_512``. If Hydra was initialised with a
            folder or module, a configuration of this name there takes precedence, as in the official package.
        overrides: Changes of the configuration. ``key=value`` changes a key, ``+key=value`` adds a key, ``++key=value``
            changes or adds a key, ``~key`` deletes a key.

    Raises:
        FileNotFoundError: If no shipped configuration and no file has this name.
        ConfigError: If the file is not a configuration, or an override cannot be applied.
    """
    return finish_config(read_config(name), name, overrides)


def read_config(name: str | Path) -> DictConfig:
    """Reads a configuration. Merges a ``base_config``, if any. :func:`load_config` lists the errors."""
    return _read_over_base(str(name), ())


def _read_over_base(name: str, above: tuple[str, ...]) -> DictConfig:
    if name in above:
        raise ConfigError(f"base_config leads in a circle: {' -> '.join((*above, name))}")
    with _named(name):
        config = _composed(name) or parse_yaml(_read(name))
        if not isinstance(config, DictConfig):
            raise ConfigError(f"{name} is a YAML list; expected a mapping with the key 'model'")
        if "defaults" in config:
            raise ConfigError(f"{name} has a 'defaults' list, which is not supported; write the values out")
        base = config.pop("base_config", None)
    if base is None:
        return config
    below = _read_over_base(str(base), (*above, name))
    with _named(name):
        return cast(DictConfig, OmegaConf.merge(below, config))


def finish_config(config: DictConfig, name: str | Path, overrides: Sequence[str] = ()) -> DictConfig:
    """Applies overrides and resolves interpolations in place. :func:`load_config` lists the errors."""
    with _named(name):
        for override in overrides:
            _apply(config, _parse(override))
        if any(isinstance(x, str) and "${" in x for x in _nested(OmegaConf.to_container(config))):
            # OmegaConf.resolve cannot store lists, such as the result of ${range:3} in official recipes.
            for key, value in cast("dict[Any, Any]", OmegaConf.to_container(config, resolve=True)).items():
                config[key] = value
    return config


@contextmanager
def _named(name: str | Path) -> Iterator[None]:
    """Converts errors of Hydra, OmegaConf and YAML to a ConfigError that names the configuration."""
    try:
        yield
    except ConfigError:
        raise
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        raise ConfigError(f"configuration {name}: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"configuration {name}: its values are nested, or refer to each other, too deeply") from error


def _composed(name: str) -> DictConfig | None:
    """Returns the configuration from the folder or module that the caller initialised Hydra with, or None."""
    hydra = GlobalHydra.instance()
    if os.path.isabs(name) or not hydra.is_initialized():
        return None
    sources = [source for source in hydra.config_loader().get_sources() if source.provider == "main"]
    # Skips the source `sam2`: `import sam2` initialises Hydra with the configurations of either package.
    if not any(source.path != "sam2" and source.is_config(name) for source in sources):
        return None
    return cast(DictConfig, OmegaConf.create(OmegaConf.to_container(compose(name))))


def _read(name: str) -> str:
    shipped = _shipped_files()
    short = name.removeprefix("configs/").removesuffix(".yaml")
    by_last_part = {key.rsplit("/", 1)[1]: key for key in shipped}
    key = by_last_part.get(short, short)
    if key in shipped:
        return shipped[key].read_text(encoding="utf-8")
    if os.path.isfile(name):  # does not raise for invalid names, unlike Path.is_file
        return Path(name).read_text(encoding="utf-8")
    if fork := _matched(FORK_CONFIGS, short):
        return fork
    instead = _matched(ABSENT_CONFIGS, short)
    if instead is None:
        last = re.sub("base_plus$", "b+", short.rsplit("/", 1)[-1])
        similar = get_close_matches(last, by_last_part, n=1, cutoff=0.8)
        instead = f"the most similar one is {by_last_part[similar[0]]}" if similar else "none is similar"
    names = ", ".join(sorted(shipped))
    raise FileNotFoundError(f"no file {name!r}, and no such configuration; {instead}; shipped configurations: {names}")


def _matched(patterns: Mapping[str, str], name: str) -> str | None:
    """Returns the text of the first pattern that matches the whole name, with the groups of the match filled in."""
    return next(
        (match.expand(text) for pattern, text in patterns.items() if (match := re.fullmatch(pattern, name))), None
    )


def _parse(override: str) -> Override:
    """Parses one override. Adds quotes to plain text, because Hydra's grammar allows only ASCII outside quotes."""
    parser = OverridesParser.create()
    try:
        return parser.parse_overrides([override])[0]
    except HydraException:
        key, _, value = override.partition("=")
        if not TEXT.fullmatch(value):
            raise
        return parser.parse_overrides([f'{key}="{value}"'])[0]


def _apply(config: DictConfig, override: Override) -> None:
    key, override_type = override.key_or_group, override.type
    if override.is_sweep_override():
        raise ConfigError(f"override {override.input_line!r} is a sweep; give one value")
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    present = OmegaConf.select(config, key, throw_on_missing=False, default=_ABSENT) is not _ABSENT
    present = present or isinstance(node, DictConfig) and OmegaConf.is_missing(node, last)  # present with the value ???
    if override_type == OverrideType.DEL:
        if not present:
            raise ConfigError(f"override {override.input_line!r} deletes {key!r}, which does not exist")
        del node[int(last) if isinstance(node, ListConfig) else last]
        return
    if override_type == OverrideType.CHANGE and not present:
        raise ConfigError(f"override {override.input_line!r} changes {key!r}, which does not exist; '++' would add it")
    if override_type == OverrideType.ADD and present:
        raise ConfigError(f"override {override.input_line!r} adds {key!r}, which exists; '++' would change it")
    OmegaConf.update(config, key, override.value(), merge=True, force_add=True)


def build_from_config(node: DictConfig, allow_targets: Sequence[str] = (), targets: Collection[str] = TARGETS) -> Any:
    """Instantiates a configuration node with ``_target_`` keys.

    Targets of the official package (``sam2.modeling...``) are mapped to our classes. Targets that are not allowed raise
    an error, so that a YAML file cannot call arbitrary functions.

    Args:
        node: Node with a ``_target_``. Nested nodes are built first.
        allow_targets: Other allowed packages, modules or classes, such as ``my_package`` or ``my_package.``.
        targets: Allowed targets, by default the modules of SAM 2 models.

    Raises:
        ConfigError: If a target is not allowed, or its class does not accept the arguments.
    """
    plain = check_targets(node, allow_targets, targets)
    for child in _targeted(plain):
        if child["_target_"].startswith("sam2fast."):
            _refuse_text_for_numbers(child)
    try:
        return instantiate({**plain, "_convert_": "all"})  # as a keyword, _convert_ makes Hydra copy
    except HydraException as error:
        raise ConfigError(f"the configuration cannot be built: {error.__cause__ or error}") from error


def check_targets(node: DictConfig, allow_targets: Sequence[str] = (), targets: Collection[str] = TARGETS) -> Any:
    """Checks the targets of a node. Returns the node as plain containers, with our targets.

    :func:`build_from_config` lists the arguments.

    Raises:
        ConfigError: If a target is not allowed, or a value is missing.
    """
    # Resolves interpolations before the check, because interpolated values could change after the check.
    try:
        plain = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"the configuration is not complete: {error}") from error
    for text in _nested(plain):
        if isinstance(text, str) and "${" in text:  # `instantiate` would resolve an escaped interpolation
            raise ConfigError(f"the configuration contains {text!r}; interpolations cannot be escaped")
    for child in _targeted(plain):
        target = child["_target_"]
        ours = child["_target_"] = official_to_ours(str(target))
        allowed = any(f"{ours}.".startswith(f"{prefix.removesuffix('.')}.") for prefix in allow_targets)
        if ours not in targets and not allowed:
            raise ConfigError(
                f"the configuration names the target {target!r}, which is not part of SAM 2; "
                "if it is your own class, pass its package in allow_targets"
            )
    return plain


def _nested(value: Any) -> Iterator[Any]:
    """Yields a value, and all keys and values in nested dicts and lists of the value."""
    yield value
    for child in (*value, *value.values()) if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _nested(child)


def _targeted(value: Any) -> Iterator[dict[str, Any]]:
    """Yields the mappings with a ``_target_`` in nested dicts and lists."""
    return (node for node in _nested(value) if isinstance(node, dict) and "_target_" in node)


def _refuse_text_for_numbers(node: Mapping[str, Any]) -> None:
    """Raises an error if a number or bool is given as text. For example, Python treats the text ``no`` as true."""
    target = get_object(node["_target_"])
    for name, parameter in inspect.signature(target).parameters.items():
        accepted = [parameter.annotation, *get_args(parameter.annotation)]
        expected = [text for argument_type, text in EXPECTED.items() if argument_type in accepted]
        if isinstance(node.get(name), str) and expected and str not in accepted:
            raise ConfigError(f"{name} of {target.__name__} must be {' or '.join(expected)}, got {node[name]!r}")


def official_to_ours(name: str) -> str:
    """Converts the dotted name of an official class to the name of our class. Returns other names unchanged."""
    name = EFFICIENTTAM.sub("sam2.", name)  # EfficientTAM's package has the module names of SAM 2's package
    module, _, attribute = name.rpartition(".")
    if attribute in NAMES.get(module, {}):
        return NAMES[module][attribute]
    return f"{MODULES[module]}.{attribute}" if module in MODULES else name

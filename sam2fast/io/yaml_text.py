"""Parses YAML configurations, and refuses references that would expand to an enormous size."""

import re
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

# Limit of values after expansion; a value counts once per reference. A hundred times a model's configuration.
MAX_VALUES = 100_000
# What PyYAML and OmegaConf raise for malformed texts, besides their own errors.
ODD_ERRORS = (TypeError, LookupError, AttributeError, AssertionError, RecursionError)


def parse_yaml(text: str) -> Any:
    """Parses a configuration and expands its references (``*name``).

    Raises:
        YAMLError, OmegaConfBaseException: the text is no YAML, or no configuration.
        ValueError: it would have more than :data:`MAX_VALUES` values, refers to itself, or is malformed.
    """
    try:
        # OmegaConf copies referenced values, so ten lines could expand to a billion values.
        if "*" in text and _count(yaml.compose(text, yaml.SafeLoader), {}) > MAX_VALUES:
            raise ValueError(f"its references stand for more than {MAX_VALUES:,} values")
        return OmegaConf.create(text)
    except (OmegaConfBaseException, yaml.YAMLError, ValueError):
        raise
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except ODD_ERRORS as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _count(node: yaml.Node | None, counts: dict[int, int | None]) -> int:
    """The number of values of a node after expansion; ``counts`` caches results, None marks a node in progress."""
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in counts:
        counts[id(node)] = None
        # A list of nodes, or of pairs of them.
        children = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        counts[id(node)] = 1 + sum(_count(child, counts) for child in children)
    count = counts[id(node)]
    if count is None:
        raise ValueError("a value refers to itself")
    return count


# The innermost interpolations of a text: ${a.b}, or with a resolver, ${oc.select:a.b,0}.
REFERENCE = re.compile(r"\$\{([^${}]*)\}")
SELECT = re.compile(r"oc\.(?:select|dict\.\w+):([^,]*)")
Path = tuple[str, ...]


def check_references(config: DictConfig) -> None:
    """Refuses a configuration whose interpolations would expand to an enormous size.

    Raises:
        ValueError: it would have more than :data:`MAX_VALUES` values.
    """
    plain = OmegaConf.to_container(config, resolve=False)
    try:
        if _count_filled(plain, (), plain, {}) > MAX_VALUES:
            raise ValueError(f"its interpolations stand for more than {MAX_VALUES:,} values")
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error


def _count_filled(value: Any, path: Path, root: Any, counts: dict[Path, int]) -> int:
    """The number of values of one value after expansion. OmegaConf refuses circular references itself."""
    if path in counts:
        return counts[path]
    counts[path] = 0
    count = 1
    if isinstance(value, dict):
        count += sum(_count_filled(child, (*path, str(name)), root, counts) for name, child in value.items())
    elif isinstance(value, list):
        count += sum(_count_filled(child, (*path, str(i)), root, counts) for i, child in enumerate(value))
    elif isinstance(value, str):
        for reference in _references(value, path, root):
            count += _count_filled(_at(root, reference), reference, root, counts)
    counts[path] = count
    return count


def _references(text: str, path: Path, root: Any) -> list[Path]:
    """The paths that a text refers to; interpolations may be nested."""
    references: list[Path] = []

    def filled(found: re.Match[str]) -> str:
        name = (SELECT.match(found[1]) or found)[1].strip()
        if ":" in name:  # another resolver; its arguments were handled before
            return ""
        reference = _absolute(name, path)
        references.append(reference)
        value = _at(root, reference)
        return "" if isinstance(value, dict | list) or "$" in str(value) else str(value)

    while REFERENCE.search(text):
        text = REFERENCE.sub(filled, text)
    return references


def _absolute(name: str, path: Path) -> Path:
    """The absolute path of a name; leading dots make it relative."""
    short = name.lstrip(".")
    up = len(name) - len(short)
    parts = tuple(part for part in re.split(r"[.\[\]]", short) if part)
    return (*path[: max(len(path) - up, 0)], *parts) if up else parts


def _at(root: Any, reference: Path) -> Any:
    value = root
    for part in reference:
        if isinstance(value, dict):
            value = next((child for name, child in value.items() if str(name) == part), None)
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value

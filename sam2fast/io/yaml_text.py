"""The text of a YAML file to a configuration, which a few lines must not make enormous."""

import re
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

# Of all values, those that are written once and referred to many times counted each time: a hundred configurations.
MOST_VALUES = 100_000
# What PyYAML and OmegaConf raise for texts that nobody writes, besides their own errors.
ODD_ERRORS = (TypeError, LookupError, AttributeError, AssertionError, RecursionError)


def parse_yaml(text: str) -> Any:
    """The configuration in a text; its references (``*name``) are filled in.

    Raises:
        YAMLError, OmegaConfBaseException: it is no YAML, or no configuration.
        ValueError: it would have more than :data:`MOST_VALUES` values, refers to itself, or holds something odd.
    """
    try:
        # OmegaConf copies what is referred to, so ten lines could become a thousand million values.
        if "*" in text and _count(yaml.compose(text, yaml.SafeLoader), {}) > MOST_VALUES:
            raise ValueError(f"its references stand for more than {MOST_VALUES:,} values")
        return OmegaConf.create(text)
    except (OmegaConfBaseException, yaml.YAMLError, ValueError):
        raise
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except ODD_ERRORS as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _count(node: yaml.Node | None, counts: dict[int, int | None]) -> int:
    """How many values a node stands for; ``counts`` are those known, and None of those that are being counted."""
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


# The innermost references of a text, ${a.b} or with a resolver's name, ${oc.select:a.b,0}.
REFERENCE = re.compile(r"\$\{([^${}]*)\}")
SELECT = re.compile(r"oc\.(?:select|dict\.\w+):([^,]*)")
Path = tuple[str, ...]


def check_references(config: DictConfig) -> None:
    """Refuses a configuration that would become enormous once its interpolations are filled in.

    Raises:
        ValueError: it would have more than :data:`MOST_VALUES` values.
    """
    plain = OmegaConf.to_container(config, resolve=False)
    try:
        if _count_filled(plain, (), plain, {}) > MOST_VALUES:
            raise ValueError(f"its interpolations stand for more than {MOST_VALUES:,} values")
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error


def _count_filled(value: Any, path: Path, root: Any, counts: dict[Path, int]) -> int:
    """How many values one stands for; what refers to itself is left to OmegaConf, which refuses it."""
    if path in counts:
        return counts[path]
    counts[path] = 0
    count = 1
    if isinstance(value, dict):
        count += sum(_count_filled(child, (*path, str(name)), root, counts) for name, child in value.items())
    elif isinstance(value, list):
        count += sum(_count_filled(child, (*path, str(place)), root, counts) for place, child in enumerate(value))
    elif isinstance(value, str):
        for place in _places(value, path, root):
            count += _count_filled(_at(root, place), place, root, counts)
    counts[path] = count
    return count


def _places(text: str, path: Path, root: Any) -> list[Path]:
    """What a text refers to; names may hold references themselves."""
    places: list[Path] = []

    def filled(found: re.Match[str]) -> str:
        name = (SELECT.match(found[1]) or found)[1].strip()
        if ":" in name:  # of another resolver, whose arguments were seen before
            return ""
        place = _place(name, path)
        places.append(place)
        value = _at(root, place)
        return "" if isinstance(value, dict | list) or "$" in str(value) else str(value)

    while REFERENCE.search(text):
        text = REFERENCE.sub(filled, text)
    return places


def _place(name: str, path: Path) -> Path:
    """Where a name leads: from the top, or, with dots before it, from beside or above."""
    short = name.lstrip(".")
    up = len(name) - len(short)
    parts = tuple(part for part in re.split(r"[.\[\]]", short) if part)
    return (*path[: max(len(path) - up, 0)], *parts) if up else parts


def _at(root: Any, place: Path) -> Any:
    value = root
    for part in place:
        if isinstance(value, dict):
            value = next((child for name, child in value.items() if str(name) == part), None)
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value

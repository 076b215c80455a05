"""Parses YAML configurations, and refuses references that would expand to an enormous size."""

import re
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

# Limit of values after expansion; a value counts once per reference. A hundred times a model's configuration.
MAX_VALUES = 100_000
REFERENCE = re.compile(r"\*\S")  # with a blank after it, an asterisk is text
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
        if REFERENCE.search(text) and _count(yaml.compose(text, yaml.SafeLoader), {}) > MAX_VALUES:
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

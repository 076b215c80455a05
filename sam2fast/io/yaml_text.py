"""Parses YAML configurations, and refuses references that would expand to a huge size."""

import re
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

# Maximum number of values after expansion of references. A model's configuration has about 1,000 values.
MAX_VALUES = 100_000
REFERENCE = re.compile(r"\*\S")  # an asterisk before a blank is text, not a reference
# Built-in exceptions that PyYAML and OmegaConf raise for malformed text.
ODD_ERRORS = (TypeError, LookupError, AttributeError, AssertionError, RecursionError)


def parse_yaml(text: str) -> Any:
    """Parses a configuration and expands its references (``*name``).

    Raises:
        YAMLError, OmegaConfBaseException: If the text is not YAML, or the YAML is not a configuration.
        ValueError: If the text would expand to more than :data:`MAX_VALUES` values, refers to itself, or is malformed.
    """
    try:
        # OmegaConf copies referenced values, so ten lines could expand to a billion values.
        if REFERENCE.search(text) and _count(yaml.compose(text, yaml.SafeLoader), {}) > MAX_VALUES:
            raise ValueError(f"its references expand to more than {MAX_VALUES:,} values")
        return OmegaConf.create(text)
    except (OmegaConfBaseException, yaml.YAMLError, ValueError):
        raise
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except ODD_ERRORS as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _count(node: yaml.Node | None, counts: dict[int, int | None]) -> int:
    """Returns the number of values of a node after expansion. ``counts`` stores results, or None during a visit."""
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in counts:
        counts[id(node)] = None
        # A sequence contains nodes. A mapping contains pairs of nodes.
        children = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        counts[id(node)] = 1 + sum(_count(child, counts) for child in children)
    count = counts[id(node)]
    if count is None:
        raise ValueError("a value refers to itself")
    return count

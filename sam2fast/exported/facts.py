"""Whether what an artefact's file of facts says can be true of one; it may come from anywhere."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

LARGEST_SIZE, MOST_PROMPTS = 1 << 14, 1 << 16
PATCHES = 16  # pixels across what one token of the coarsest level stands for


def check_facts(content: Any, kinds: Collection[str], files: Collection[str]) -> None:
    """Raises ``ValueError`` for what is of the wrong type or out of range.

    Args:
        content: as it was read.
        kinds: of artefacts.
        files: whose sizes must be there, and no others.
    """
    if not isinstance(content, Mapping):
        raise ValueError("expected names with values")
    texts = dict.fromkeys(("weights", "dtype", "device", "processor", "torch", "sam2fast"), (_is_text, "a text"))
    counts = dict.fromkeys(("prompts", "points"), (lambda x: _is_within(x, 1, MOST_PROMPTS), "a number from 1 on"))
    expected: dict[str, tuple[Callable[[Any], bool], str]] = {
        "kind": (lambda x: _is_text(x) and x in kinds, f"one of {', '.join(kinds)}"),
        "config": (lambda x: x is None or _is_text(x), "a text or null"),
        "image_size": (_is_image_size, f"a multiple of {PATCHES} up to {LARGEST_SIZE}"),
        "sizes": (lambda x: _are_sizes(x, files), f"the sizes of {' and '.join(files)} in bytes"),
        **texts,
        **counts,
    }
    for name, (is_right, what) in expected.items():
        if name not in content:
            raise ValueError(f"{name} is missing; expected {what}")
        if not is_right(content[name]):
            raise ValueError(f"{name} is {repr(content[name])[:80]}; expected {what}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_within(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most  # not True


def _is_image_size(value: Any) -> bool:
    return _is_within(value, PATCHES, LARGEST_SIZE) and value % PATCHES == 0


def _are_sizes(value: Any, files: Collection[str]) -> bool:
    is_of_these = isinstance(value, Mapping) and value.keys() == set(files)
    return is_of_these and all(_is_within(size, 0, 1 << 62) for size in value.values())

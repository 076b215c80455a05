"""What became of each part of a configuration."""

from dataclasses import dataclass
from typing import Any

from sam2fast.config import ConfigError

MAPPED, CHANGED, LEFT_OUT, NOT_SUPPORTED, TO_DO = "mapped", "changed", "left out", "not supported", "to do"
# How Hydra is to build a node, which is ours to say.
_OF_HYDRA = ("_partial_", "_recursive_", "_convert_")


@dataclass(frozen=True)
class Note:
    """What became of one part."""

    kind: str  # one of the five above
    key: str  # where it is in the original's configuration
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.key}: {self.text}"


class Notes(list[Note]):
    """Notes in the order in which they were made."""

    def add(self, kind: str, key: str, text: str) -> None:
        """Adds one."""
        self.append(Note(kind, key, text))


class Fields:
    """The entries of one node; those that nobody asked for are noted in the end.

    Raises:
        ConfigError: the node is no mapping.
    """

    def __init__(self, node: Any, key: str, notes: Notes) -> None:
        if not isinstance(node, dict):
            raise ConfigError(f"{key} must be a mapping, got {node!r}")
        self._left = {name: value for name, value in node.items() if name not in _OF_HYDRA}
        self.key, self._notes = key, notes

    def take(self, name: str, default: Any = None) -> Any:
        """An entry, which then is done with."""
        return self._left.pop(name, default)

    def keep(self, *names: str) -> dict[str, Any]:
        """Those of these entries that there are; they mean the same here."""
        return {name: self._left.pop(name) for name in names if name in self._left}

    def leave_out(self, why: str, *names: str) -> None:
        """Entries without a use here; empty ones say nothing."""
        self._unless_empty(LEFT_OUT, why, names)

    def to_do(self, what: str, *names: str) -> None:
        """Entries that have to be said elsewhere; empty ones say nothing."""
        self._unless_empty(TO_DO, what, names)

    def _unless_empty(self, kind: str, text: str, names: tuple[str, ...]) -> None:
        for name in names:
            if self._left.pop(name, None) not in (None, [], {}, False):
                self.note(kind, text, name)

    def note(self, kind: str, text: str, name: str = "") -> None:
        """A note on the node, or on one of its entries."""
        self._notes.add(kind, f"{self.key}.{name}" if name else self.key, text)

    def close(self) -> None:
        """Names what is left."""
        for name, value in self._left.items():
            if value is not None:
                self.note(NOT_SUPPORTED, "there is no such setting here; it has no effect", name)
        self._left = {}

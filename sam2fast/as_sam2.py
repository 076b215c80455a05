"""Runs scripts written for ``sam2`` on sam2fast: make ``import sam2fast.as_sam2`` their first line.

This registers sam2fast's modules under the official names. Classes keep their ``__module__``, so pickles refer to
sam2fast and load without this module.
"""

import importlib
import sys
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

from sam2fast._official_names import ABSENT, MODULES, NAMES

_MARK = "_registered_by_sam2fast"


class _Alias(ModuleType):
    """A module under an official name, which takes its attributes lazily from our modules."""

    def __init__(self, name: str) -> None:
        super().__init__(name, f"sam2fast under the name {name}.")
        self.__path__: list[str] = []  # a package, so that its submodules are looked up in sys.modules
        setattr(self, _MARK, True)

    def __getattr__(self, attribute: str) -> Any:
        if attribute == "__all__":
            return dir(self)
        source = NAMES.get(self.__name__, {}).get(attribute)
        if source is None and self.__name__ in MODULES and not attribute.startswith("__"):
            source = f"{MODULES[self.__name__]}.{attribute}"
        if source is not None:
            module, _, name = source.rpartition(".")
            try:
                return getattr(importlib.import_module(module), name)
            except AttributeError:
                pass
        raise AttributeError(f"module {self.__name__!r} (sam2fast's) has no attribute {attribute!r}")

    def __dir__(self) -> list[str]:
        """The importable names, also for ``import *``."""
        names = set(NAMES.get(self.__name__, {}))
        if self.__name__ in MODULES:
            names.update(vars(importlib.import_module(MODULES[self.__name__])))
        return sorted(name for name in names if not name.startswith("_"))


class _Absent(MetaPathFinder):
    """Raises an explanatory ImportError for official modules without a counterpart."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname in ABSENT:
            raise ImportError(f"{fullname}: {ABSENT[fullname]}")


def _register() -> None:
    present = sys.modules.get("sam2")
    if present is not None:
        if hasattr(present, _MARK):
            return
        raise ImportError(
            "the original sam2 is already imported; `import sam2fast.as_sam2` must come before anything that imports it"
        )
    for name in sorted({parent for module in (*MODULES, *NAMES) for parent in _with_parents(module)}):
        alias = _Alias(name)
        sys.modules[name] = alias
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, alias)
    sys.meta_path.insert(0, _Absent())


def _with_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


_register()

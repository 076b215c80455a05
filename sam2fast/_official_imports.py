"""Makes the official module names importable: ``sam2fast.utils.misc``, and ``sam2.utils.misc`` after ``as_sam2``.

Also makes earlier names of our modules, classes and functions importable. From the package, this module imports only
``_official_names`` and ``compat.moved_names``, so that any module can import this module.
"""

import importlib
import importlib.util
import sys
import warnings
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from sam2fast._official_names import ABSENT, MODULES, NAMES
from sam2fast.compat.moved_names import DOCUMENTED, MOVED, RENAMED

_PARTS = [name.split(".") for name in (*MODULES, *NAMES)]
_KNOWN = {".".join(parts[:end]) for parts in _PARTS for end in range(1, len(parts) + 1)}
# Official module -> only function of the module that sam2fast calls. A replacement of another function has no effect.
_CALLED = {"sam2.utils.misc": "load_video_frames"}


def official_name(module: str) -> str:
    """Returns the official name of a module: ``sam2.utils.misc`` for ``sam2fast.utils.misc``."""
    package, dot, rest = module.partition(".")
    return f"sam2{dot}{rest}" if package == "sam2fast" else module


def _current_name(module: str) -> str | None:
    """Returns the name of a module that moved, by itself or with its package, or None for other modules."""
    package, rest = module, ""
    while package:
        if package in MOVED:
            return MOVED[package] + rest
        package, _, last = package.rpartition(".")
        rest = f".{last}{rest}"
    return None


def _other_attribute(module: str, name: str) -> Any:
    """Returns an attribute that the official module has, or that our module had, under the attribute's other name."""
    source = NAMES.get(official_name(module), {}).get(name) or RENAMED.get(module, {}).get(name)
    if source is None:
        raise AttributeError(f"module {module!r} (sam2fast's) has no attribute {name!r}")
    if f"{module}.{name}" in DOCUMENTED:
        warnings.warn(f"{module}.{name} is deprecated; import {source} instead", DeprecationWarning, stacklevel=2)
    home, _, attribute = source.rpartition(".")
    return getattr(importlib.import_module(home), attribute)


def _completed(spec: ModuleSpec) -> ModuleSpec:
    """Returns the spec of our module. The spec's loader adds the attributes that have other names in our module."""
    loader: Any = spec.loader
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        vars(module).setdefault("__getattr__", partial(_other_attribute, module.__name__))

    loader.exec_module = exec_module
    return spec


class Alias(ModuleType):
    """Module under an official name. Each access to an attribute looks up the attribute in our modules."""

    def __getattr__(self, attribute: str) -> Any:
        if attribute == "__all__":
            return dir(self)
        official = official_name(self.__name__)
        if attribute not in NAMES.get(official, {}) and official in MODULES and not attribute.startswith("__"):
            module = importlib.import_module(MODULES[official])
            if hasattr(module, attribute):
                return getattr(module, attribute)
        return _other_attribute(self.__name__, attribute)

    def __setattr__(self, attribute: str, value: Any) -> None:
        """Sets the attribute in our module, so that patches take effect in the package's code."""
        official = official_name(self.__name__)
        ours = official in MODULES and not attribute.startswith("__") and not isinstance(value, ModuleType)
        if attribute in NAMES.get(official, {}) or ours and attribute != _CALLED.get(official, attribute):
            text = f"sam2fast does not look up {self.__name__}.{attribute}: setting it changes only this name"
            warnings.warn(text, stacklevel=2)
        elif ours:
            setattr(importlib.import_module(MODULES[official]), attribute, value)
            return
        super().__setattr__(attribute, value)

    def __delattr__(self, attribute: str) -> None:
        official = official_name(self.__name__)
        if official in MODULES and attribute not in vars(self):
            delattr(importlib.import_module(MODULES[official]), attribute)
        else:
            super().__delattr__(attribute)

    def __dir__(self) -> list[str]:
        """Returns the importable names. ``import *`` imports these names."""
        official = official_name(self.__name__)
        names = set(NAMES.get(official, {}))
        if official in MODULES:
            names.update(vars(importlib.import_module(MODULES[official])))
        return sorted(name for name in names if not name.startswith("_"))


class _MovedModule:
    """Loader of a module under an earlier name. The import returns the module of the current name, not a copy."""

    def __init__(self, current: str) -> None:
        self._current = current

    def create_module(self, spec: ModuleSpec) -> None:
        """Returns None: Python creates a module, which ``exec_module`` replaces."""

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        if name in DOCUMENTED:  # level 2 is the import statement, because Python skips frames of the import system
            text = f"{name} is deprecated; import {self._current} instead"
            warnings.warn(text, DeprecationWarning, stacklevel=2)
        sys.modules[name] = importlib.import_module(self._current)


class OfficialModules:  # has no base class, because importing importlib.abc takes longer than the rest of this module
    """Finder and loader of the official modules below ``package``. Each module is an :class:`Alias`.

    Importing an official module without a counterpart raises an ImportError that names a replacement. Modules under
    earlier names of ``sam2fast`` are our modules themselves.
    """

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] != self._package:
            return None
        if current := _current_name(fullname):
            return ModuleSpec(fullname, _MovedModule(current))  # type: ignore[arg-type]
        official = official_name(fullname)
        if official in ABSENT:
            raise ImportError(f"{fullname}: {ABSENT[official]}")
        if official not in _KNOWN and fullname not in RENAMED:
            return None
        if self._package == "sam2fast" and (ours := PathFinder.find_spec(fullname, path)):
            return _completed(ours) if official in NAMES or fullname in RENAMED else ours
        # Every module is a package, so that Python calls this method to look up a missing name as a submodule.
        spec = ModuleSpec(fullname, self, is_package=True)  # type: ignore[arg-type]
        if official in MODULES and (our_spec := importlib.util.find_spec(MODULES[official])):
            spec.origin, spec.has_location = our_spec.origin, True
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Alias(spec.name, f"sam2fast under the name {spec.name}.")

    def exec_module(self, module: ModuleType) -> None:
        """Does nothing: :class:`Alias` looks up attributes at each access."""


def find_official_modules() -> None:
    """Makes official and earlier module names importable below ``sam2fast``. Repeated calls do nothing."""
    if not any(isinstance(finder, OfficialModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, OfficialModules("sam2fast"))

"""Runs scripts written for ``sam2`` on sam2fast: make ``import sam2fast.as_sam2`` their first line.

From here on sam2fast's modules are imported under the official names. Classes keep their ``__module__``, so pickles
refer to sam2fast and load without this module. ``sam2.__path__`` and ``__file__`` are those of sam2fast, which has
``configs`` where the original has them.
"""

import importlib
import importlib.util
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from sam2fast._official_names import ABSENT, MODULES, NAMES

# Official package -> ours, whose folder it shows.
_PACKAGES = {"sam2": "sam2fast", "sam2.configs": "sam2fast.configs"}


class _Alias(ModuleType):
    """A module under an official name, which takes its attributes lazily from our modules."""

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

    def __setattr__(self, attribute: str, value: Any) -> None:
        """Sets it in our module, where the package's code looks it up, so that patches take effect."""
        if attribute in NAMES.get(self.__name__, {}):
            text = f"sam2fast does not look up {self.__name__}.{attribute}: to set it changes nothing but this name"
            warnings.warn(text, stacklevel=2)
        elif self.__name__ in MODULES and not attribute.startswith("__") and not isinstance(value, ModuleType):
            setattr(importlib.import_module(MODULES[self.__name__]), attribute, value)
            return
        super().__setattr__(attribute, value)

    def __delattr__(self, attribute: str) -> None:
        if self.__name__ in MODULES and attribute not in vars(self):
            delattr(importlib.import_module(MODULES[self.__name__]), attribute)
        else:
            super().__delattr__(attribute)

    def __dir__(self) -> list[str]:
        """The importable names, also for ``import *``."""
        names = set(NAMES.get(self.__name__, {}))
        if self.__name__ in MODULES:
            names.update(vars(importlib.import_module(MODULES[self.__name__])))
        return sorted(name for name in names if not name.startswith("_"))


class _OfficialNames(MetaPathFinder, Loader):
    """Imports ``sam2`` and what is below it; modules without a counterpart raise an explanatory ImportError."""

    def __init__(self) -> None:
        names = [name.split(".") for name in (*MODULES, *NAMES, *_PACKAGES)]
        self._known = {".".join(parts[: i + 1]) for parts in names for i in range(len(parts))}

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname == "training.model.sam2":  # of the original: it would be built on our modules
            raise ImportError(
                f"{fullname}: the original's training code does not run on sam2fast; use `sam2fast train`, which reads "
                "its configurations, or sam2fast.training.model.SAM2Train"
            )
        if fullname.partition(".")[0] != "sam2":
            return None
        if fullname in ABSENT:
            raise ImportError(f"{fullname}: {ABSENT[fullname]}")
        if fullname not in self._known:  # the next finders would load our modules under second names
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        # All are packages: names that a module lacks are then looked up as its submodules, above.
        spec = ModuleSpec(fullname, self, is_package=True)
        if ours := _our_spec(fullname):
            spec.origin, spec.has_location = ours.origin, True
            if fullname in _PACKAGES:
                spec.submodule_search_locations = list(ours.submodule_search_locations or ())
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Alias(spec.name, f"sam2fast under the name {spec.name}.")

    def exec_module(self, module: ModuleType) -> None:
        """Gives Hydra the configurations of ``sam2`` when it is imported, as the original does."""
        if module.__name__ == "sam2":
            from hydra import initialize_config_module
            from hydra.core.global_hydra import GlobalHydra

            if not GlobalHydra.instance().is_initialized():
                initialize_config_module("sam2", version_base="1.2")

    def get_resource_reader(self, fullname: str) -> Any:
        """Files of the packages, for ``importlib.resources``, which Hydra uses."""
        ours = _our_spec(fullname) if fullname in _PACKAGES else None
        return ours and ours.loader.get_resource_reader(ours.name)  # type: ignore[union-attr]


def _our_spec(official: str) -> ModuleSpec | None:
    ours = _PACKAGES.get(official) or MODULES.get(official)
    return importlib.util.find_spec(ours) if ours else None


if "sam2" in sys.modules:
    raise ImportError(
        "the original sam2 is already imported; `import sam2fast.as_sam2` must come before anything that imports it"
    )
sys.meta_path.insert(0, _OfficialNames())

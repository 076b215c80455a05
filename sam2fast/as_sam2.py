"""Runs scripts written for ``sam2`` on sam2fast: make ``import sam2fast.as_sam2`` their first line.

It registers sam2fast's modules under the official names. Classes keep their ``__module__``, so pickles refer to
sam2fast and load without this module. ``sam2.__path__`` and ``__file__`` are those of sam2fast, which has
``configs`` where the original has them.
"""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from importlib.readers import FileReader, MultiplexedPath
from importlib.resources import files
from types import ModuleType
from typing import Any

from sam2fast._official_imports import OfficialModules

# Official package -> our package with its folder.
_PACKAGES = {"sam2": "sam2fast", "sam2.configs": "sam2fast.configs"}


class _Sam2(OfficialModules):
    """Imports ``sam2`` and its submodules from sam2fast only."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname == "training.model.sam2":  # of the original: it would be built on our modules
            raise ImportError(
                f"{fullname}: the original's training code does not run on sam2fast; use `sam2fast train`, which reads "
                "its configurations, or sam2fast.training.model.SAM2Train"
            )
        if ours := _our_spec(fullname):
            spec = ModuleSpec(fullname, self, origin=ours.origin, is_package=True)  # type: ignore[arg-type]
            spec.has_location = True
            spec.submodule_search_locations = list(ours.submodule_search_locations or ())
            return spec
        found = super().find_spec(fullname)
        if found is None and fullname.startswith("sam2."):  # the next finders would load our modules under second names
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return found

    def exec_module(self, module: ModuleType) -> None:
        """Gives Hydra the configurations of ``sam2`` when it is imported, as the original does."""
        if module.__name__ == "sam2":
            from hydra import initialize_config_module
            from hydra.core.global_hydra import GlobalHydra

            if not GlobalHydra.instance().is_initialized():
                initialize_config_module("sam2", version_base="1.2")

    def get_resource_reader(self, fullname: str) -> Any:
        """Files of the packages, for ``importlib.resources``, which Hydra uses."""
        ours: Any = _our_spec(fullname)
        if ours is None:
            return None
        return _RootFiles(ours.loader) if fullname == "sam2" else ours.loader.get_resource_reader(ours.name)


class _RootFiles(FileReader):
    """The files of ``sam2``; SAM 2's configurations are found without their folder, too, as in the original."""

    def files(self) -> Any:
        return MultiplexedPath(self.path, files("sam2fast.configs") / "sam2")


def _our_spec(official: str) -> ModuleSpec | None:
    ours = _PACKAGES.get(official)
    return importlib.util.find_spec(ours) if ours else None


if "sam2" in sys.modules:
    raise ImportError(
        "the original sam2 is already imported; `import sam2fast.as_sam2` must come before anything that imports it"
    )
sys.meta_path.insert(0, _Sam2("sam2"))

"""Runs scripts written for ``sam2`` on sam2fast: make ``import sam2fast.as_sam2`` the first line of a script.

The import registers sam2fast's modules under the official names. Classes keep their ``__module__``, so pickles refer
to sam2fast and load without this module. ``sam2.__path__`` and ``sam2.__file__`` point to sam2fast. The folder
``configs`` has the same relative path as in the official package.
"""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from importlib.readers import FileReader, MultiplexedPath
from importlib.resources import files
from types import ModuleType
from typing import Any

from sam2fast._official_imports import OfficialModules

# Official packages that contain files -> our packages with these files.
_PACKAGES = {"sam2": "sam2fast", "sam2.configs": "sam2fast.configs"}


class _Sam2(OfficialModules):
    """Finder of ``sam2`` and all submodules of ``sam2`` in sam2fast."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname == "training.model.sam2":  # the official class would inherit from our modules
            raise ImportError(
                f"{fullname}: the official training code does not run on sam2fast; use `sam2fast train`, which reads "
                "its configurations, or sam2fast.training.model.SAM2Train"
            )
        if ours := _our_spec(fullname):
            spec = ModuleSpec(fullname, self, origin=ours.origin, is_package=True)  # type: ignore[arg-type]
            spec.has_location = True
            spec.submodule_search_locations = list(ours.submodule_search_locations or ())
            return spec
        alias = super().find_spec(fullname)
        if alias is None and fullname.startswith("sam2."):  # other finders would load our modules a second time
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return alias

    def exec_module(self, module: ModuleType) -> None:
        """Initializes Hydra with the configurations when ``sam2`` is imported, as in the official package."""
        if module.__name__ == "sam2":
            from hydra import initialize_config_module
            from hydra.core.global_hydra import GlobalHydra

            if not GlobalHydra.instance().is_initialized():
                initialize_config_module("sam2", version_base="1.2")

    def get_resource_reader(self, fullname: str) -> Any:
        """Returns a reader of the package's files. Hydra reads these files with ``importlib.resources``."""
        ours: Any = _our_spec(fullname)
        if ours is None:
            return None
        return _RootFiles(ours.loader) if fullname == "sam2" else ours.loader.get_resource_reader(ours.name)


class _RootFiles(FileReader):
    """Reads the files of ``sam2``. As in the official package, names of SAM 2's configurations may omit the folder."""

    def files(self) -> Any:
        return MultiplexedPath(self.path, files("sam2fast.configs") / "sam2")


def _our_spec(official: str) -> ModuleSpec | None:
    ours = _PACKAGES.get(official)
    return importlib.util.find_spec(ours) if ours else None


if "sam2" in sys.modules:
    raise ImportError(
        "the official package is already imported; `import sam2fast.as_sam2` must come before anything that imports it"
    )
sys.meta_path.insert(0, _Sam2("sam2"))

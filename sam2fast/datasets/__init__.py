"""Mask data sets: reads, writes, visualizes and converts the common layouts."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sam2fast.datasets.annotations import VideoAnnotations
    from sam2fast.datasets.dataset_files import DatasetError, OverlapError
    from sam2fast.datasets.layout import Layout, Settings
    from sam2fast.datasets.layout_registry import open_layout
    from sam2fast.datasets.sav import SAVDataset
    from sam2fast.datasets.sav_json import Masklets, read_masklets

__all__ = [
    "DatasetError",
    "Layout",
    "Masklets",
    "OverlapError",
    "SAVDataset",
    "Settings",
    "VideoAnnotations",
    "open_layout",
    "read_masklets",
]

_MODULES = {
    "DatasetError": "dataset_files",
    "Layout": "layout",
    "Masklets": "sav_json",
    "OverlapError": "dataset_files",
    "SAVDataset": "sav",
    "Settings": "layout",
    "VideoAnnotations": "annotations",
    "open_layout": "layout_registry",
    "read_masklets": "sav_json",
}


if not TYPE_CHECKING:  # otherwise type checkers would accept any name

    def __getattr__(name: str) -> Any:
        """Imports a public name at its first use, because other packages need only parts of this one."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)

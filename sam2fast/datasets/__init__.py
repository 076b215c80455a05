"""Data sets of masks in the layouts that are in use, read, written, shown and converted."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sam2fast.datasets.annotations import VideoAnnotations
    from sam2fast.datasets.errors import DatasetError, OverlapError
    from sam2fast.datasets.layout import Layout, Settings
    from sam2fast.datasets.layouts import open_layout
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

_HOMES = {
    "DatasetError": "errors",
    "Layout": "layout",
    "Masklets": "sav_json",
    "OverlapError": "errors",
    "SAVDataset": "sav",
    "Settings": "layout",
    "VideoAnnotations": "annotations",
    "open_layout": "layouts",
    "read_masklets": "sav_json",
}


if not TYPE_CHECKING:  # which would take any name for one of ours

    def __getattr__(name: str) -> Any:
        """Imports a public name when it is first used: other packages need only parts of this one."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)

"""Profiles of an image or a video's frames by parts of the model, with torch.profiler and FlopCounterMode."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sam2fast.profiling.limits import Limits, measure_limits
    from sam2fast.profiling.run import profile_image, profile_video
    from sam2fast.profiling.tree import Part, Profile

__all__ = ["Limits", "Part", "Profile", "measure_limits", "profile_image", "profile_video"]

_MODULES = {
    "Limits": "limits",
    "Part": "tree",
    "Profile": "tree",
    "measure_limits": "limits",
    "profile_image": "run",
    "profile_video": "run",
}


if not TYPE_CHECKING:  # type checkers would accept any name

    def __getattr__(name: str) -> Any:
        """Imports a public name at its first use: limits need neither models nor configurations."""
        if name not in _MODULES:
            raise AttributeError(f"module 'sam2fast.profiling' has no attribute {name!r}")
        import importlib

        return getattr(importlib.import_module(f"sam2fast.profiling.{_MODULES[name]}"), name)

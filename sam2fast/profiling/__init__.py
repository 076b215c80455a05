"""Where the time of an image or of a video's frame goes, part by part: torch.profiler and FlopCounterMode."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sam2fast.profiling.limits import Limits, measure_limits
    from sam2fast.profiling.run import profile_image, profile_video
    from sam2fast.profiling.tree import Part, Profile

__all__ = ["Limits", "Part", "Profile", "measure_limits", "profile_image", "profile_video"]

_HOMES = {
    "Limits": "limits",
    "Part": "tree",
    "Profile": "tree",
    "measure_limits": "limits",
    "profile_image": "run",
    "profile_video": "run",
}


if not TYPE_CHECKING:  # which would take any name for one of ours

    def __getattr__(name: str) -> Any:
        """Imports a public name when it is first used: the limits alone need neither a model nor its configuration."""
        if name not in _HOMES:
            raise AttributeError(f"module 'sam2fast.profiling' has no attribute {name!r}")
        import importlib

        return getattr(importlib.import_module(f"sam2fast.profiling.{_HOMES[name]}"), name)

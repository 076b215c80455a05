"""Where the time of a picture or of a video's frame goes, part by part, and how near each part is to the limit."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sam2fast.profiling.image import profile_image
    from sam2fast.profiling.limits import Limits, measure_limits
    from sam2fast.profiling.profile import Profile
    from sam2fast.profiling.tree import Part
    from sam2fast.profiling.video import profile_video

__all__ = ["Limits", "Part", "Profile", "measure_limits", "profile_image", "profile_video"]

_HOMES = {
    "Limits": "limits",
    "Part": "tree",
    "Profile": "profile",
    "measure_limits": "limits",
    "profile_image": "image",
    "profile_video": "video",
}


if not TYPE_CHECKING:  # which would take any name for one of ours

    def __getattr__(name: str) -> Any:
        """Imports a public name when it is first used: the limits alone need neither a model nor its configuration."""
        if name not in _HOMES:
            raise AttributeError(f"module 'sam2fast.profiling' has no attribute {name!r}")
        import importlib

        return getattr(importlib.import_module(f"sam2fast.profiling.{_HOMES[name]}"), name)

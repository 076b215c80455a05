"""The classes of a session under the names that users import; see :mod:`sam2fast.tracking.session`."""

from pkgutil import resolve_name
from typing import Any

from sam2fast.tracking.session import TrackedObject

__all__ = ["TrackedObject", "VideoState"]  # noqa: F822  (__getattr__ has the second)


def __getattr__(name: str) -> Any:
    if name == "VideoState":  # it is above this layer, and imported when it is asked for
        return resolve_name("sam2fast.compat.video_state.VideoState")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

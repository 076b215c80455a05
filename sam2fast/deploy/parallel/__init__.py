"""Runs jobs on several devices of one machine, one process per device.

:func:`track_videos` takes videos, :func:`segment_images` images, and :func:`run_jobs` any other jobs. See
docs/devices.md.
"""

from typing import TYPE_CHECKING, Any

from sam2fast.deprecated import old_name

if TYPE_CHECKING:
    from sam2fast.deploy.parallel.images import ImageJob, SegmentedImage, segment_images
    from sam2fast.deploy.parallel.pool import JobResult, run_jobs
    from sam2fast.deploy.parallel.process import WorkerError
    from sam2fast.deploy.parallel.videos import TrackedVideo, VideoJob, VideoPrompt, track_videos

__all__ = [
    "ImageJob",
    "JobResult",
    "SegmentedImage",
    "TrackedVideo",
    "VideoJob",
    "VideoPrompt",
    "WorkerError",
    "run_jobs",
    "segment_images",
    "track_videos",
]

_HOMES = {
    "images": ("ImageJob", "SegmentedImage", "segment_images"),
    "pool": ("JobResult", "run_jobs"),
    "process": ("WorkerError",),
    "videos": ("TrackedVideo", "VideoJob", "VideoPrompt", "track_videos"),
}


if not TYPE_CHECKING:  # for type checkers, other names stay errors

    def __getattr__(name: str) -> Any:
        """Imports a public name at its first use, so that a worker loads only what it needs."""
        import importlib

        for home, names in _HOMES.items():
            if name in names:
                return getattr(importlib.import_module(f"sam2fast.deploy.parallel.{home}"), name)
        return old_name(__name__, name)

"""Runs jobs on several devices of one machine, one process per device.

:func:`track_videos` tracks videos, :func:`segment_images` segments images, and :func:`run_jobs` runs any other jobs.
See docs/devices.md.
"""

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

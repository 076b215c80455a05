"""Frames of videos, decoded when they are asked for.

Source: ``sam2.utils.misc.load_video_frames``, which decodes the whole video first.
"""

from sam2fast.video_io.errors import NoFramesError, VideoError
from sam2fast.video_io.frames import Frames
from sam2fast.video_io.opening import open_frames

__all__ = ["Frames", "NoFramesError", "VideoError", "open_frames"]

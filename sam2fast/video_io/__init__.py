"""Frames of videos: any of them, decoded when they are asked for, or all in turn as they come.

Source: ``sam2.utils.misc.load_video_frames``, which decodes the whole video first.
"""

from sam2fast.video_io.errors import NoFramesError, VideoError
from sam2fast.video_io.frames import Frames
from sam2fast.video_io.opening import open_frames
from sam2fast.video_io.reading import FrameReader, StreamFrame, read_frames

__all__ = ["FrameReader", "Frames", "NoFramesError", "StreamFrame", "VideoError", "open_frames", "read_frames"]

"""Decodes videos, with random access by :func:`open_frames`, or as a stream of frames by :func:`read_frames`.

Source: ``sam2.utils.misc.load_video_frames``. The official function decodes the whole video first.
"""

from sam2fast.video_io.frames import Frames
from sam2fast.video_io.opening import open_frames
from sam2fast.video_io.reading import FrameReader, StreamFrame, read_frames
from sam2fast.video_io.video_types import NoFramesError, ToneMapped, VideoError
from sam2fast.video_io.volumes import Volume, open_volume

__all__ = [
    "FrameReader",
    "Frames",
    "NoFramesError",
    "StreamFrame",
    "ToneMapped",
    "VideoError",
    "Volume",
    "open_frames",
    "open_volume",
    "read_frames",
]

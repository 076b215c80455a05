"""Prints what PyAV finds in a video: frames, their rate, the time of the last one, seconds of sound, and for each frame
the share of pixels that are white and opaque.

Usage: python describe_video.py FILE
"""

import json
import sys
from collections.abc import Iterator

import av
import numpy as np
from numpy.typing import NDArray


def decode(path: str) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Times and RGBA images."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        decoder = stream.codec_context
        if decoder.name == "vp9":
            decoder = av.CodecContext.create("libvpx-vp9", "r")  # FFmpeg's own decoder ignores alpha
        for packet in container.demux(stream):
            for frame in decoder.decode(packet):
                yield float(frame.pts * stream.time_base), frame.to_ndarray(format="rgba")


frames = list(decode(sys.argv[1]))
inside = [float((image.min(axis=2) >= 128).mean()) for _, image in frames]
with av.open(sys.argv[1]) as container:
    rate = float(container.streams.video[0].average_rate)
    sound = sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))
print(json.dumps({"frames": len(frames), "rate": rate, "last": frames[-1][0], "sound": sound, "inside": inside}))

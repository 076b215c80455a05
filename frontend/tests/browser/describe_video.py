"""Prints what PyAV finds in a video: frames, their rate and size, the time of the last one, seconds of sound, FFmpeg's
numbers of range and matrix, and for each frame the shares of pixels that are white and opaque, and green;
and the mean difference of its colours from those of another video.

Usage: python describe_video.py FILE [OTHER]
"""

import json
import sys

import av
import numpy as np
from video_frames import decode

GREEN = np.array((0x00, 0xB1, 0x40), np.int16)

frames = list(decode(sys.argv[1]))
inside = [float((image.min(axis=2) >= 128).mean()) for _, image in frames]
green = [float((np.abs(image[..., :3] - GREEN).max(axis=2) < 25).mean()) for _, image in frames]
with av.open(sys.argv[1]) as container:
    (stream,) = container.streams.video
    context = stream.codec_context
    facts = {"codec": context.name, "range": context.color_range, "matrix": context.colorspace}
    facts |= {"rate": float(stream.average_rate), "size": [context.height, context.width]}
    audio = container.decode(audio=0) if container.streams.audio else []
    facts["sound"] = sum(frame.samples / frame.sample_rate for frame in audio)
if len(sys.argv) > 2:
    pairs = zip(frames, decode(sys.argv[2]), strict=True)
    facts["difference"] = max(float(np.abs(a[1].astype(int) - b[1])[..., :3].mean()) for a, b in pairs)
print(json.dumps({**facts, "frames": len(frames), "last": frames[-1][0], "inside": inside, "green": green}))

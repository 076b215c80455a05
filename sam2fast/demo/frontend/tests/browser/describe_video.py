"""Prints what PyAV finds in a video: frames, their rate, the time of the last one, seconds of sound, and for each frame
the share of pixels that are white and opaque.

Usage: python describe_video.py FILE
"""

import json
import sys

import av
from video_frames import decode

frames = list(decode(sys.argv[1]))
inside = [float((image.min(axis=2) >= 128).mean()) for _, image in frames]
with av.open(sys.argv[1]) as container:
    rate = float(container.streams.video[0].average_rate)
    sound = sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))
print(json.dumps({"frames": len(frames), "rate": rate, "last": frames[-1][0], "sound": sound, "inside": inside}))

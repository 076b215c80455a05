"""Prints what PyAV finds in a video: frames, their rate, the time of the last one, and seconds of sound.

Usage: python describe_video.py FILE
"""

import json
import sys

import av

with av.open(sys.argv[1]) as container:
    times = [frame.time for frame in container.decode(video=0)]
    rate = container.streams.video[0].average_rate
with av.open(sys.argv[1]) as container:
    samples = sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))
print(json.dumps({"frames": len(times), "rate": float(rate), "last": times[-1], "sound": samples}))

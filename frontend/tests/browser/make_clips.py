"""Makes clips for the browser tests: a short gallery, and a video to upload.

Usage: python make_clips.py FOLDER
"""

import sys
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from sam2fast.demo.clip import encode_mp4
from sam2fast.demo.server.gallery import HEIGHT, RATE, WIDTH, still_life
from sam2fast.demo.server.video_files import DemoVideoWriter

FRAMES, UPLOADED, SHORT, LARGE = 24, 20, 6, 4
SOUND_RATE, SOUND_FPS = 48000, 10


def write_with_sound(path: Path, images: list[np.ndarray], scale: float = 1) -> None:
    """A video with a tone of 440 Hz from its beginning to its end."""
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=SOUND_FPS)
        video.height, video.width, video.pix_fmt = int(scale * HEIGHT), int(scale * WIDTH), "yuv420p"
        sound: Any = container.add_stream("aac", rate=SOUND_RATE)
        for image in images:
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode())
        times = np.arange(SOUND_RATE * len(images) // SOUND_FPS) / SOUND_RATE
        tone = np.sin(2 * np.pi * 440 * times).astype(np.float32)
        for start in range(0, len(tone), 1024):
            frame = av.AudioFrame.from_ndarray(np.stack([tone[start : start + 1024]] * 2), "fltp", "stereo")
            frame.rate, frame.pts = SOUND_RATE, start
            container.mux(sound.encode(frame))
        container.mux(sound.encode())


folder = Path(sys.argv[1])
(folder / "gallery").mkdir(parents=True)
images = list(islice(still_life(), FRAMES))
for name, frames in (("01_still_life.mp4", images), ("02_backwards.mp4", images[::-1][:12])):
    with DemoVideoWriter(folder / "gallery" / name, HEIGHT, WIDTH, Fraction(RATE)) as video:
        for image in frames:
            video.add(image)
write_with_sound(folder / "sound.mp4", images[:UPLOADED])
write_with_sound(folder / "short.mp4", images[:SHORT])
write_with_sound(folder / "large.mp4", images[:LARGE], scale=2.5)  # larger than what the page plays
write_with_sound(folder / "long.mp4", [image for image in images for _ in range(5)], scale=3)  # 12 seconds
with av.open(str(folder / "cinema.webm"), "w") as container:  # its times are whole milliseconds
    cinema: Any = container.add_stream("libvpx", rate=Fraction(24000, 1001), options={"cpu-used": "8"})
    cinema.height, cinema.width, cinema.pix_fmt = HEIGHT, WIDTH, "yuv420p"
    for image in images:
        container.mux(cinema.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
    container.mux(cinema.encode())
with av.open(str(folder / "uneven.mp4"), "w") as container:
    stream: Any = container.add_stream("libx264", rate=SOUND_FPS)
    stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
    for number, image in enumerate(images[:SHORT]):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts = number + 3 * (number >= SHORT // 2)  # a pause in the middle
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
(folder / "upload.mp4").write_bytes(encode_mp4([Image.fromarray(image) for image in images[:UPLOADED]]))

"""Makes clips for the browser tests: a short gallery, and a video to upload.

Usage: python make_clips.py FOLDER
"""

import sys
from fractions import Fraction
from itertools import islice
from pathlib import Path

from PIL import Image

from sam2fast.demo.clip import encode_mp4
from sam2fast.demo.server.gallery import HEIGHT, RATE, WIDTH, still_life
from sam2fast.demo.server.video_files import DemoVideoWriter

FRAMES, UPLOADED = 48, 20

folder = Path(sys.argv[1])
(folder / "gallery").mkdir(parents=True)
images = list(islice(still_life(), FRAMES))
for name, frames in (("01_still_life.mp4", images), ("02_backwards.mp4", images[::-1][:12])):
    with DemoVideoWriter(folder / "gallery" / name, HEIGHT, WIDTH, Fraction(RATE)) as video:
        for image in frames:
            video.add(image)
(folder / "upload.mp4").write_bytes(encode_mp4([Image.fromarray(image) for image in images[:UPLOADED]]))

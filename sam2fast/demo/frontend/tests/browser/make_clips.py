"""Clips for the browser tests: a short gallery, and a film to upload.

Usage: python make_clips.py FOLDER
"""

import sys
from fractions import Fraction
from itertools import islice
from pathlib import Path

from PIL import Image

from sam2fast.demo.film import encode_film
from sam2fast.demo.server.film_writer import FilmWriter
from sam2fast.demo.server.gallery import HEIGHT, RATE, WIDTH, still_life

FRAMES, UPLOADED = 48, 20

folder = Path(sys.argv[1])
(folder / "gallery").mkdir(parents=True)
pictures = list(islice(still_life(), FRAMES))
for name, shown in (("01_still_life.mp4", pictures), ("02_backwards.mp4", pictures[::-1][:12])):
    with FilmWriter(folder / "gallery" / name, HEIGHT, WIDTH, Fraction(RATE)) as film:
        for picture in shown:
            film.add(picture)
(folder / "upload.mp4").write_bytes(encode_film([Image.fromarray(picture) for picture in pictures[:UPLOADED]]))

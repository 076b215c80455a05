"""Makes photographs for the browser tests.

Usage: python make_photos.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from sam2fast.demo.scene import draw_scene

SIZES = {"first.jpg": (1600, 1200), "second.png": (900, 700), "third.webp": (640, 800)}
ROTATED = 6  # EXIF's orientation of a camera that was held upright

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
scene = draw_scene()
for name, size in SIZES.items():
    scene.resize(size, Image.Resampling.LANCZOS).save(folder / name)
turned = Image.fromarray(np.rot90(np.asarray(scene.resize((800, 600)))))
exif = Image.Exif()
exif[0x0112] = ROTATED
turned.save(folder / "rotated.jpg", exif=exif, quality=95)
scene.resize((640, 480)).save(folder / "old.bmp")
scene.resize((300, 200)).save(folder / "dropped.png")
grey = scene.resize((300, 200)).convert("L")
grey.save(folder / "grey.png")
scene.resize((400, 300)).save(folder / "scan.tif")
scene.resize((400, 300)).save(folder / "web.avif")
hidden = np.dstack([np.asarray(scene.resize((400, 300))), np.full((300, 400), 255, dtype=np.uint8)])
hidden[:, :200] = (255, 0, 0, 0)  # red under the transparent half
Image.fromarray(hidden).save(folder / "sticker.png")
labels = np.zeros((200, 300), dtype=np.uint8)
labels[50:90, 60:120] = 1
Image.fromarray(labels).save(folder / "labels.png")
(folder / "broken.jpg").write_bytes((folder / "first.jpg").read_bytes()[:900])

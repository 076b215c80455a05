"""Reads the exports of photographs by pycocotools and Pillow; prints what they say, and how well they agree.

Usage: python read_photos.py COCO.zip YOLO.zip CUTOUTS.zip
"""

import contextlib
import json
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from pycocotools.coco import COCO

folder = Path(tempfile.mkdtemp())
coco, yolo, cutouts = (folder / name for name in ("coco", "yolo", "cutouts"))
for archive, target in zip(sys.argv[1:], (coco, yolo, cutouts), strict=True):
    zipfile.ZipFile(archive).extractall(target)
with contextlib.redirect_stdout(sys.stderr):
    found = COCO(str(coco / "masks.json"))


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def polygons(file: Path, size: tuple[int, int]) -> np.ndarray:
    """The union of YOLO's polygons."""
    image = Image.new("L", size)
    for line in file.read_text().splitlines():
        corners = np.array(line.split()[1:], dtype=float).reshape(-1, 2) * size
        ImageDraw.Draw(image).polygon([tuple(corner) for corner in corners], fill=1)
    return np.asarray(image) > 0


facts = []
for image in found.loadImgs(found.getImgIds()):
    stem = Path(image["file_name"]).stem
    annotations = found.loadAnns(found.getAnnIds(image["id"]))
    masks = np.any([found.annToMask(one) > 0 for one in annotations], axis=0)
    (photo,) = (yolo / "images").glob(f"{stem}.*")
    cutout = np.asarray(Image.open(cutouts / f"{stem}.png"))
    facts.append(
        {
            "name": image["file_name"],
            "size": [image["width"], image["height"]],
            "image": list(Image.open(photo).size),
            "classes": [found.cats[one["category_id"]]["name"] for one in annotations],
            "share": float(masks.mean()),
            "yolo": iou(masks, polygons(yolo / "labels" / f"{stem}.txt", Image.open(photo).size)),
            "cutout": iou(masks, cutout[..., 3] > 127),
        }
    )
print(json.dumps(facts))

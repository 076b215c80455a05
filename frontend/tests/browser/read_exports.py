"""Reads files of one track by pycocotools, Pillow and PyAV, and prints how well their masks agree.

Usage: python read_exports.py YOUTUBE_VIS PNG CUT_OUTS YOLO COCO LABELME WEBM

For each other format the smallest IoU with YouTube-VIS's masks, over frames and objects; of that the names, and for
each frame the share of pixels inside; how far colours of the cut-outs are from the images beside YOLO's labels.
"""

import io
import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_masks
from video_frames import decode

Mask = NDArray[np.bool_]


def unpack(path: str) -> dict[str, bytes]:
    """Files by their name."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def image(content: bytes) -> NDArray[Any]:
    """Pixels, or palette indices."""
    return np.asarray(Image.open(io.BytesIO(content)))


def filled(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> Mask:
    """The inside of polygons of x, y, x, y, ... in pixels."""
    return coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(polygons, *size))).astype(bool)


def iou(first: Mask, second: Mask) -> float:
    """1 for two empty masks."""
    return float((first & second).sum() / max(1, (first | second).sum())) if (first | second).any() else 1.0


def of_yolo(files: dict[str, bytes], frame: str, index: int) -> Mask:
    """The mask of a class on a frame."""
    lines = [line.split() for line in files[f"labels/{frame}.txt"].decode().splitlines()]
    shares = [np.array(words[1:], float).reshape(-1, 2) for words in lines if int(words[0]) == index]
    return filled([(share * size[::-1]).ravel().tolist() for share in shares], size)


def of_labelme(files: dict[str, bytes], frame: str, name: str) -> Mask:
    """The mask of a label on a frame."""
    shapes = json.loads(files[f"{frame}.json"])["shapes"]
    return filled([np.ravel(shape["points"]).tolist() for shape in shapes if shape["label"] == name], size)


def of_coco(files: dict[str, bytes], frame: str, track: int) -> Mask:
    """The mask of an object on a frame."""
    document = json.loads(files["annotations.json"])
    (image,) = (entry for entry in document["images"] if entry["file_name"] == f"{frame}.jpg")
    found = (a for a in document["annotations"] if (a["image_id"], a["track_id"]) == (image["id"], track))
    (rle,) = (entry["segmentation"] for entry in found)
    return coco_masks.decode(rle).astype(bool)


coco = json.loads(Path(sys.argv[1]).read_text())
labels, cut_outs, yolo, of_images, labelme = map(unpack, sys.argv[2:7])
video = [image for _, image in decode(sys.argv[7])]
size = coco["videos"][0]["height"], coco["videos"][0]["width"]
names = [entry["name"] for entry in coco["annotations"]]
frames = [f"{frame:05d}" for frame in range(coco["videos"][0]["length"])]
classes = yaml.safe_load(yolo["data.yaml"])["names"]
if [classes[index] for index in range(len(classes))] != names:
    raise SystemExit(f"YOLO's classes are {classes}")
worst = {"png": 1.0, "cutouts": 1.0, "yolo": 1.0, "coco": 1.0, "labelme": 1.0, "webm": 1.0}
inside, difference = [], []
for place, frame in enumerate(frames):
    masks = [coco_masks.decode(entry["segmentations"][place]).astype(bool) for entry in coco["annotations"]]
    found = np.logical_or.reduce(masks)
    inside.append(float(found.mean()))
    cut_out, photo = image(cut_outs[f"{frame}.png"]), image(yolo[f"images/{frame}.jpg"])
    difference.append(np.abs(cut_out[found][:, :3].astype(int) - photo[found]).mean())
    pairs = [("cutouts", cut_out[..., 3] == 255, found), ("cutouts", cut_out[..., 3] != 0, found)]
    pairs.append(("webm", video[place][..., 3] >= 128, found))
    seen = np.select(masks[::-1], range(len(masks), 0, -1))  # of overlapping objects the later one
    for index, (name, mask) in enumerate(zip(names, masks, strict=True)):
        pairs.append(("png", image(labels[f"{frame}.png"]) == index + 1, seen == index + 1))
        pairs.append(("yolo", of_yolo(yolo, frame, index), mask))
        pairs.append(("coco", of_coco(of_images, frame, coco["annotations"][index]["object"]), mask))
        pairs.append(("labelme", of_labelme(labelme, frame, name), mask))
    for kind, read, expected in pairs:
        worst[kind] = min(worst[kind], iou(read, expected))
print(json.dumps({"names": names, "size": size, "inside": inside, "difference": max(difference), **worst}))

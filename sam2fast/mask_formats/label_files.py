"""The label files of YOLO and LabelMe, as the writers and the web demo make them."""

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sam2fast.io.png import encode_png
from sam2fast.mask_formats.outlines import Polygon
from sam2fast.mask_formats.polygons import joined

LABELME = "5.5.0"  # the version of the format
STEPS = 1e6  # to the width of an image, in YOLO's labels


def yolo_line(number: int, values: Iterable[float]) -> str:
    """The line of an object of this class."""
    return " ".join([str(number), *(f"{value:.6f}" for value in values)]) + "\n"


def yolo_polygon(parts: Sequence[Polygon], size: tuple[int, int]) -> list[float]:
    """x, y, x, y, ... of a mask's polygons as one, from 0 to 1 of the ``size`` (H, W)."""
    corners = joined([ring for part in parts for ring in (part.outer, *part.holes)])
    # Rounded up, since readers that cut off decimals would get the pixel before.
    return (np.ceil(corners / size[::-1] * STEPS) / STEPS).ravel().tolist()


def yolo_data(classes: Sequence[str], train: str = "images", val: str = "images") -> str:
    """Returns the file ``data.yaml`` of a data set with these folders of images."""
    note = "# All images are in both: divide them before you train.\n" if train == val else ""
    names = "".join(f"  {i}: {_yaml_text(label)}\n" for i, label in enumerate(classes))
    return f"{note}train: {train}\nval: {val}\nnames:\n{names}"


def _yaml_text(text: str) -> str:
    """Returns a double-quoted text of YAML. JSON's, except that YAML does not take some characters unescaped."""
    quoted = json.dumps(text, ensure_ascii=False)
    return re.sub(r"[\x7f-\x9f\ud800-\udfff\ufffe\uffff]", lambda found: f"\\u{ord(found[0]):04x}", quoted)


def labelme_polygons(parts: Iterable[Polygon], label: str, number: int) -> list[dict[str, Any]]:
    """LabelMe's shapes of an object: a polygon for each part; they have the object's number in common."""
    rings = [joined([part.outer, *part.holes]) for part in parts]
    return [_shape("polygon", ring.tolist(), label, number) for ring in rings]


def labelme_mask(pixels: np.ndarray, box: Sequence[int], label: str, number: int) -> dict[str, Any]:
    """LabelMe's shape of an object: its pixels, bool ``(H, W)`` of the image, in COCO's box."""
    x, y, width, height = box
    content = encode_png(pixels[y : y + height, x : x + width].astype(np.uint8))
    shape = _shape("mask", [[x, y], [x + width - 1, y + height - 1]], label, number)
    return {**shape, "mask": base64.b64encode(content).decode("ascii")}


def labelme_document(image: str, size: tuple[int, int], shapes: Sequence[Mapping[str, Any]]) -> str:
    """LabelMe's file of an image ``(H, W)`` with this name."""
    names = {"imagePath": image, "imageData": None, "imageHeight": size[0], "imageWidth": size[1]}
    return json.dumps({"version": LABELME, "flags": {}, "shapes": shapes, **names})


def _shape(kind: str, points: list[list[int]], label: str, number: int) -> dict[str, Any]:
    shape = {"label": label, "points": points, "group_id": number, "description": ""}
    return {**shape, "shape_type": kind, "flags": {}}

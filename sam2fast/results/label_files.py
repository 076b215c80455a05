"""Formats label files of YOLO and LabelMe, for the writers and the web demo."""

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sam2fast.io.png import encode_png
from sam2fast.results.outlines import Polygon
from sam2fast.results.polygons import joined

LABELME = "5.5.0"  # version of LabelMe's format
STEPS = 1e6  # coordinates in YOLO's labels are multiples of 1 / STEPS


def yolo_line(number: int, values: Iterable[float]) -> str:
    """Returns the line of an object with class ``number``."""
    return " ".join([str(number), *(f"{value:.6f}" for value in values)]) + "\n"


def yolo_polygon(parts: Sequence[Polygon], size: tuple[int, int]) -> list[float]:
    """Joins a mask's polygons to one, and returns coordinates x, y, x, y, ... as fractions of ``size`` (H, W)."""
    corners = joined([ring for part in parts for ring in (part.outer, *part.holes)])
    # Coordinates are rounded up, since readers that truncate to pixels would otherwise get the previous pixel.
    return (np.ceil(corners / size[::-1] * STEPS) / STEPS).ravel().tolist()


def yolo_data(classes: Sequence[str], train: str = "images", val: str = "images") -> str:
    """Returns the content of ``data.yaml`` for a data set with the folders ``train`` and ``val`` of images."""
    note = "# All images are in both: divide them before you train.\n" if train == val else ""
    names = "".join(f"  {i}: {_yaml_text(label)}\n" for i, label in enumerate(classes))
    return f"{note}train: {train}\nval: {val}\nnames:\n{names}"


def _yaml_text(text: str) -> str:
    """Returns a double-quoted YAML string: a JSON string in which characters that YAML does not accept are escaped."""
    quoted = json.dumps(text, ensure_ascii=False)
    return re.sub(r"[\x7f-\x9f\ud800-\udfff\ufffe\uffff]", lambda match: f"\\u{ord(match[0]):04x}", quoted)


def labelme_polygons(parts: Iterable[Polygon], label: str, number: int) -> list[dict[str, Any]]:
    """Returns LabelMe's shapes of an object: one polygon per part, with the object's number as group."""
    rings = [joined([part.outer, *part.holes]) for part in parts]
    return [_shape("polygon", ring.tolist(), label, number) for ring in rings]


def labelme_mask(pixels: np.ndarray, box: Sequence[int], label: str, number: int) -> dict[str, Any]:
    """Returns LabelMe's mask shape of an object.

    Args:
        pixels: Mask ``(H, W)`` bool of the image.
        box: COCO's box [x, y, width, height] of the mask.
    """
    x, y, width, height = box
    content = encode_png(pixels[y : y + height, x : x + width].astype(np.uint8))
    shape = _shape("mask", [[x, y], [x + width - 1, y + height - 1]], label, number)
    return {**shape, "mask": base64.b64encode(content).decode("ascii")}


def labelme_document(image: str, size: tuple[int, int], shapes: Sequence[Mapping[str, Any]]) -> str:
    """Returns the content of LabelMe's file for an image named ``image`` of ``size`` (H, W)."""
    names = {"imagePath": image, "imageData": None, "imageHeight": size[0], "imageWidth": size[1]}
    return json.dumps({"version": LABELME, "flags": {}, "shapes": shapes, **names})


def _shape(shape_type: str, points: list[list[int]], label: str, number: int) -> dict[str, Any]:
    shape = {"label": label, "points": points, "group_id": number, "description": ""}
    return {**shape, "shape_type": shape_type, "flags": {}}

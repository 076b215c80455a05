"""Masks as polygons: the labels of YOLO segmentation and of LabelMe.

Their polygons have no holes and one part: each separate part of a mask is a polygon, and holes are filled. YOLO's
format is that of Ultralytics: a text file for each image, with a line ``class x y x y ...`` for each polygon, in shares
of the image's width and height. LabelMe's is a JSON file for each image, in pixels.
"""

import json
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

LABELME = "5.5.0"  # the version of the format
# Steps along the outline, as (x, y): right, down, left, up. The mask is on the right-hand side.
RIGHT, DOWN, LEFT, UP = range(4)
STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


def label_lines(masks: Iterable[tuple[int, NDArray[np.bool_]]]) -> str:
    """The label file of one image for YOLO.

    Args:
        masks: classes and bool ``(H, W)``.
    """
    lines = []
    for number, mask in masks:
        height, width = mask.shape
        for outline in outlines(mask):
            shares = (f"{x / width:.6g} {y / height:.6g}" for x, y in outline)
            lines.append(f"{number} {' '.join(shares)}\n")
    return "".join(lines)


def labelme_document(image: str, masks: Iterable[tuple[int, str, NDArray[np.bool_]]], size: tuple[int, int]) -> str:
    """The file of one image for LabelMe.

    Args:
        image: the name of its file.
        masks: objects' ids, their classes and bool ``(H, W)``; the parts of an object have its id as their group.
        size: (H, W).
    """
    shapes = [
        {"label": label, "points": outline, "group_id": number, "shape_type": "polygon", "flags": {}}
        for number, label, mask in masks
        for outline in outlines(mask)
    ]
    names = {"imagePath": image, "imageData": None, "imageHeight": size[0], "imageWidth": size[1]}
    return json.dumps({"version": LABELME, "flags": {}, "shapes": shapes, **names})


def outlines(mask: NDArray[np.bool_]) -> Iterator[list[tuple[int, int]]]:
    """The outer outline of each part of a bool mask ``(H, W)``, clockwise, as its corners (x, y) between pixels.

    Pixels that only touch at a corner belong to different parts.
    """
    edges = _edges(mask)
    while edges:
        start = min(edges, key=lambda corner: (corner[1], corner[0]))  # its upper left corner: of an outer outline
        outline: list[tuple[int, int]] = []
        corner = start
        step = RIGHT if RIGHT in edges[start] else edges[start][0]
        while True:
            choices = edges[corner]
            # Where two parts touch, a right turn stays at the same one.
            found = next(s for s in ((step + 1) % 4, step, (step + 3) % 4) if s in choices)
            if not outline or found != step:
                outline.append(corner)
            choices.remove(found)
            if not choices:
                del edges[corner]
            step, corner = found, (corner[0] + STEPS[found][0], corner[1] + STEPS[found][1])
            if corner == start:
                break
        if _is_clockwise(outline):
            yield outline


def _edges(mask: NDArray[np.bool_]) -> dict[tuple[int, int], list[int]]:
    """The sides of pixels between mask and background as directed steps, by the corner at which they begin."""
    padded = np.pad(mask, 1)
    inner = padded[1:-1, 1:-1]
    edges: dict[tuple[int, int], list[int]] = {}
    # By step: the neighbour that must be background, and the corner of the pixel at which the step begins.
    sides = (
        (RIGHT, padded[:-2, 1:-1], (0, 0)),
        (DOWN, padded[1:-1, 2:], (1, 0)),
        (LEFT, padded[2:, 1:-1], (1, 1)),
        (UP, padded[1:-1, :-2], (0, 1)),
    )
    for step, neighbour, (right, down) in sides:
        ys, xs = np.nonzero(inner & ~neighbour)
        for x, y in zip((xs + right).tolist(), (ys + down).tolist(), strict=True):
            edges.setdefault((x, y), []).append(step)
    return edges


def _is_clockwise(outline: list[tuple[int, int]]) -> bool:
    """Whether the outline goes around a part rather than around a hole in it; y points down."""
    pairs = zip(outline, [*outline[1:], outline[0]], strict=True)
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairs) > 0

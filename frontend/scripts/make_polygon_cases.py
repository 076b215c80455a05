"""Writes tests/unit/polygon_cases.json: masks as run lengths, with the package's polygons and YOLO labels."""

import json
from pathlib import Path

import numpy as np

from sam2fast.io.rle import encode_rle
from sam2fast.results import polygons_of
from sam2fast.results.label_files import yolo_line, yolo_polygon

OUT = Path(__file__).parents[1] / "tests" / "unit" / "polygon_cases.json"


def case(name: str, mask: np.ndarray) -> dict[str, object]:
    rle = encode_rle(mask)
    parts = polygons_of(rle, tolerance=0)
    shapes = [" ".join(f"{x},{y}" for x, y in ring) for part in parts for ring in (part.outer, *part.holes)]
    line = yolo_line(3, yolo_polygon(parts, mask.shape)) if parts else None
    height, width = mask.shape
    return {"name": name, "height": height, "width": width, "counts": rle["counts"], "rings": shapes, "line": line}


def masks() -> dict[str, np.ndarray]:
    """Masks by their name."""
    random = np.random.default_rng(0)
    square = np.zeros((8, 12), bool)
    square[1:6, 1:6] = True
    hole, whisker, touching = square.copy(), square.copy(), square.copy()
    hole[3, 3] = False
    whisker[3, 6:10] = True
    touching[6:8, 6:10] = True
    ring = np.hypot(*np.mgrid[-10:11, -10:11])
    self_touching = np.pad(np.ones((6, 6), bool), 1)
    self_touching[2:6, 2:6] = self_touching[1, 6] = False
    return {
        "nothing": np.zeros((4, 6), bool),
        "everything": np.ones((5, 3), bool),
        "square": square,
        "hole": hole,
        "whisker": whisker,
        "touching": touching,
        "self touching": self_touching,
        "disc in a ring": (ring < 4) | ((ring > 6) & (ring < 10)),
        "sparse": random.random((9, 11)) < 0.3,
        "noise": random.random((13, 17)) < 0.6,
        "dense": random.random((16, 14)) < 0.85,
    }


OUT.write_text(json.dumps([case(name, mask) for name, mask in masks().items()], indent=2) + "\n")

"""Writes tests/unit/rle_cases.json: masks as rows of 0 and 1, with their pycocotools strings."""

import json
from pathlib import Path

import numpy as np
from pycocotools import mask as coco

OUT = Path(__file__).parents[1] / "tests" / "unit" / "rle_cases.json"


def case(name: str, mask: np.ndarray) -> dict[str, object]:
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    rows = ["".join(map(str, row)) for row in mask.astype(int).tolist()]
    return {"name": name, "counts": encoded["counts"].decode(), "area": int(coco.area(encoded)), "rows": rows}


random = np.random.default_rng(0)
disc = np.hypot(*np.mgrid[-20:20, -30:30]) < 17
columns = np.zeros((50, 70), bool)
columns[:, 20:60] = True  # one run of 2,000 pixels, which takes three digits
shrinking = np.tri(24, 30, dtype=bool)  # runs become shorter: negative differences
CASES = [
    case("nothing", np.zeros((4, 6), bool)),
    case("everything", np.ones((5, 3), bool)),
    case("one pixel", np.eye(1, dtype=bool)),
    case("noise", random.random((13, 17)) < 0.5),
    case("disc", disc),
    case("columns", columns),
    case("shrinking", shrinking),
]
OUT.write_text(json.dumps(CASES, indent=1) + "\n")

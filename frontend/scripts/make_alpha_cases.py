"""Writes tests/unit/alpha_cases.json: masks as rows of 0 and 1, and the server's soft alpha in hexadecimal digits."""

import json
from pathlib import Path

import numpy as np

from sam2fast.demo.server.alpha import Edges, MaskWithLogits, alpha_of

OUT = Path(__file__).parents[1] / "tests" / "unit" / "alpha_cases.json"


def case(name: str, mask: np.ndarray, feather: float) -> dict[str, object]:
    image = np.zeros((*mask.shape, 3), np.uint8)
    alpha = alpha_of([MaskWithLogits(mask)], Edges("feather", feather), image)
    rows = ["".join(map(str, row)) for row in mask.astype(int).tolist()]
    return {"name": name, "feather": feather, "rows": rows, "alpha": [row.tobytes().hex() for row in alpha]}


disc = np.hypot(*np.mgrid[-9:10, -14:15]) < 7
corner = np.zeros((12, 16), bool)
corner[:5, :6] = True  # reaches the border
CASES = [
    case("nothing", np.zeros((4, 6), bool), 2),
    case("everything", np.ones((5, 3), bool), 2),
    case("disc", disc, 3),
    case("wide", disc, 8.5),
    case("corner", corner, 2),
    case("noise", np.random.default_rng(0).random((13, 17)) < 0.5, 1),
]
OUT.write_text(json.dumps(CASES) + "\n")

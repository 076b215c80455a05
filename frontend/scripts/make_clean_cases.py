"""Writes tests/unit/clean_cases.json: masks as run lengths, before and after the server has cleaned them."""

import json
from pathlib import Path

import numpy as np

from sam2fast.demo.server.clean_masks import clean_rle
from sam2fast.io.rle import encode_rle

OUT = Path(__file__).parents[1] / "tests" / "unit" / "clean_cases.json"


def case(name: str, mask: np.ndarray, area: int) -> dict[str, object]:
    rle = encode_rle(mask)
    height, width = mask.shape
    cleaned = clean_rle(rle, area)["counts"]
    return {"name": name, "height": height, "width": width, "counts": rle["counts"], "area": area, "cleaned": cleaned}


def cases() -> list[dict[str, object]]:
    random = np.random.default_rng(0)
    nothing = np.zeros((6, 9), bool)
    equal, diagonal, framed, crossed = nothing.copy(), nothing.copy(), ~nothing, ~nothing
    equal[0, 5] = equal[3, 0] = True  # the first in rows is not the first in columns
    diagonal[1, 1] = diagonal[2, 2] = diagonal[3, 1] = diagonal[5, 5] = True
    framed[0, 0] = framed[2:4, 2:4] = framed[3, 8] = False
    crossed[2] = False
    radius = np.hypot(*np.mgrid[-40:40, -50:50])
    rings = (radius < 3) | ((radius > 6) & (radius < 30))
    disc = (radius < 30) ^ (random.random(radius.shape) < 0.02)
    return [
        case("nothing", nothing, 4),
        case("everything", ~nothing, 4),
        case("equal specks", equal, 4),
        case("diagonal neighbours", diagonal, 3),
        case("diagonal neighbours at the limit", diagonal, 4),
        case("holes at the border", framed, 4),
        case("a hole at the limit", framed, 5),
        case("two parts that become one", crossed, 20),
        case("a speck in a hole", rings, 64),
        case("a speck in a small hole", rings, 200),
        *(case(f"a disc with noise, {area} pixels", disc, area) for area in (1, 2, 3, 8, 100)),
        *(
            case(f"noise of {share}, {area} pixels", random.random((23, 31)) < share, area)
            for share in (0.1, 0.3, 0.5, 0.7, 0.9)
            for area in (2, 5, 40)
        ),
    ]


OUT.write_text(json.dumps(cases(), indent=2) + "\n")

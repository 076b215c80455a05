"""Writes tests/unit/split_cases.json: names, and those that the package chooses for validation."""

import json
from pathlib import Path

from sam2fast.demo.server.photo_routes import Split

OUT = Path(__file__).parents[1] / "tests" / "unit" / "split_cases.json"


def case(count: int, percent: int, seed: int) -> dict[str, object]:
    names = [f"photograph {i} ü.jpg" for i in range(count)]
    chosen = Split(percent, seed).validation(names)
    return {"names": names, "percent": percent, "seed": seed, "validation": sorted(chosen)}


CASES = [(0, 20, 0), (1, 50, 0), (2, 1, 0), (2, 90, 3), (5, 50, 0), (10, 20, 0), (10, 20, 1), (10, 20, 2), (25, 10, 7)]
OUT.write_text(json.dumps([case(*values) for values in CASES], indent=2, ensure_ascii=False) + "\n")

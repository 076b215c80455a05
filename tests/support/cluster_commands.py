"""Arguments of commands on a cluster, and the files that they write."""

import json
from pathlib import Path
from typing import Any

from commands import NANO

MASKS = [*NANO, "--points-per-side", "3", "--pred-iou-thresh", "0.2", "--stability-score-thresh", "0.3"]
NAMES = "abcdef"


def masks_of(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "masks.json").read_text())
    found["info"]["model"].pop("device")
    return found

"""A small SAM 3 with tame weights, in Python and in files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tame_weights
import torch
from video import Session

from sam2fast.build_sam import build_sam2_video_predictor

CONFIG = Path(__file__).with_name("sam3_small.yaml")
SIDE = 168
MAP = SIDE // 14  # side of the map
CLICK = {"point_coords": [[30, 20]], "point_labels": [1]}
SHALLOW = ("model.memory_attention.num_layers=1", "model.memory_encoder.fuser.num_layers=1")


def small_sam3(side: int = SIDE, overrides: Sequence[str] = SHALLOW) -> Any:
    """A video predictor on the CPU."""
    options = {"device": "cpu", "hydra_overrides_extra": list(overrides), "image_size": side}
    return tame_weights.built(build_sam2_video_predictor, CONFIG, None, **options)


def prompts(s: Session) -> None:
    """A click, a box, a mask, and a correction."""
    rows, columns = np.mgrid[0:90, 0:120]
    s.points(0, 1, (60, 40, 1))
    s.mask(0, 2, (columns - 30) ** 2 + (rows - 60) ** 2 < 144)
    s.points(1, 3, box=[20, 20, 70, 60])
    s.propagate(max_frame_num_to_track=3)
    s.points(2, 1, (65, 45, 0))
    s.propagate()


def write_small_sam3(file: Path) -> None:
    """Writes the weights of :data:`CONFIG`."""
    torch.save({"model": small_sam3(overrides=()).state_dict()}, file)

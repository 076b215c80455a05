"""Tracks a short clip by the ONNX runtime in Python, for the tracker in the page to be compared with.

Usage: python track_reference.py MODEL STRATEGY OUT

Writes the frames as RGB bytes, also in the size of the model's input, and the masks after every step.
"""

import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from sam2fast.demo.server.gallery import HEIGHT, WIDTH, still_life
from sam2fast.deploy.onnx import OnnxVideoPredictor, load_model
from sam2fast.io.rle import encode_rle

FRAMES = 6
VASE, BOWL = [[125.0, 200.0]], [240.0, 140.0, 400.0, 290.0]

model, strategy, out = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
predictor = OnnxVideoPredictor(load_model(model))
frames = list(islice(still_life(), 0, 3 * FRAMES, 3))
state = predictor.init_state(frames, strategy=strategy)
steps: list[dict[str, Any]] = []


def keep(frame: int, ids: list[int], logits: np.ndarray) -> None:
    """Adds the masks of a frame."""
    masks = {obj_id: encode_rle(mask[0] > 0)["counts"] for obj_id, mask in zip(ids, logits, strict=True)}
    steps.append({"frame": frame, "masks": masks})


def track(start: int, reverse: bool = False) -> None:
    """Adds the masks of a pass."""
    for frame, ids, logits in predictor.propagate_in_video(state, start, reverse=reverse):
        keep(frame, ids, logits)


keep(*predictor.add_new_points_or_box(state, 0, 1, VASE, [1]))
keep(*predictor.add_new_points_or_box(state, 0, 2, box=BOWL))
track(0)
# A correction on a tracked frame, and first prompts there: of both halves of a disc, and of a part of one.
keep(*predictor.add_new_points_or_box(state, 3, 1, [[150.0, 180.0], [300.0, 60.0]], [1, 0]))
rows, columns = np.mgrid[:HEIGHT, :WIDTH]
disc = np.hypot(rows - 90, columns - 350) < 40
keep(*predictor.add_new_mask(state, 3, 3, disc & (columns < 350)))
keep(*predictor.add_new_mask(state, 3, 4, disc & (columns >= 350)))
keep(*predictor.add_new_mask(state, 3, 5, disc & (columns < 330)))
track(3)
track(3, reverse=True)
predictor.remove_object(state, 2)
predictor.clear_all_prompts_in_frame(state, 3, 1)
track(3)
out.mkdir()
np.stack(frames).tofile(out / "frames.rgb")
np.stack([state.frames[frame] for frame in range(FRAMES)]).tofile(out / "inputs.rgb")
(out / "steps.json").write_text(json.dumps({"height": HEIGHT, "width": WIDTH, "steps": steps}))

"""One tracked frame as a line of ``masks.jsonl``."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from sam2fast.cli.errors import UserError
from sam2fast.cli.results import DIGITS
from sam2fast.cli.segmenter import NOT_FINITE
from sam2fast.kernels.run_lengths import encode_upsampled, run_length_areas
from sam2fast.rle import compress_run_lengths
from sam2fast.tracking.scores import TrackScores
from sam2fast.video_results.overlaps import boxes_of, visible_parts


def frame_record(
    frame: int, time: float | None, ids: Sequence[Any], masks: Tensor, scores: TrackScores, size: tuple[int, int]
) -> dict[str, Any]:
    """Run lengths, areas, boxes and scores of all objects on a frame.

    Where masks overlap, an object that does not have the greatest logit everywhere also has ``visible``, the part of
    its mask where it does.

    Args:
        time: seconds since the first frame, where the video knows.
        masks: ``(N, 1, h, w)`` low-resolution logits, or ``(N, 1, H, W)`` such as a predictor gives without overlaps.
        scores: of the same objects.
        size: (H, W) of the video.

    Raises:
        UserError: a score is not finite.
    """
    runs = encode_upsampled(masks[:, 0], size)
    rles, boxes, areas = compress_run_lengths(runs), boxes_of(runs), run_length_areas(runs).tolist()
    iou, presence = scores.iou.tolist(), scores.object_score.tolist()
    if not np.isfinite([*iou, *presence]).all():
        raise UserError(f"frame {frame}: {NOT_FINITE}")
    objects: list[dict[str, Any]] = [
        {
            "id": ids[i],
            "rle": rles[i],
            "area": areas[i],
            "box": boxes[i],
            "score": round(iou[i], DIGITS),
            "object_score": round(presence[i], DIGITS),
        }
        for i in range(len(ids))
    ]
    visible = visible_parts(masks, runs)
    if visible is not None:
        seen = zip(objects, run_length_areas(visible).tolist(), compress_run_lengths(visible), strict=True)
        for entry, area, rle in seen:
            if area != entry["area"]:
                entry["visible"] = rle
    seconds = None if time is None else round(time, DIGITS)
    return {"frame": frame, "time": seconds, "objects": objects}


def as_line(record: Mapping[str, Any]) -> str:
    """A record as JSON, without a line feed."""
    return json.dumps(record, separators=(",", ":"), allow_nan=False)

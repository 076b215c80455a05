"""One tracked frame as a line of ``masks.jsonl``."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from sam2fast.cli.errors import UserError
from sam2fast.cli.results import DIGITS
from sam2fast.cli.segmenter import NOT_FINITE
from sam2fast.kernels.mask_ops import suppress_overlaps, upsample_and_threshold, upsample_masks
from sam2fast.kernels.run_lengths import RunLengths, encode_masks, encode_upsampled
from sam2fast.rle import compress_run_lengths
from sam2fast.tracking.scores import TrackScores


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
    rles, boxes, areas = compress_run_lengths(runs), boxes_of(runs), areas_of(runs)
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
    if _may_overlap(boxes) and bool((upsample_and_threshold(masks, size).sum(0) > 1).any()):
        visible = encode_masks(suppress_overlaps(upsample_masks(masks, size))[:, 0] > 0)
        for entry, area, rle in zip(objects, areas_of(visible), compress_run_lengths(visible), strict=True):
            if area != entry["area"]:
                entry["visible"] = rle
    seconds = None if time is None else round(time, DIGITS)
    return {"frame": frame, "time": seconds, "objects": objects}


def as_line(record: Mapping[str, Any]) -> str:
    """A record as JSON, without a line feed."""
    return json.dumps(record, separators=(",", ":"), allow_nan=False)


def areas_of(runs: RunLengths) -> list[int]:
    """Foreground pixels of each mask."""
    counts, offsets = runs.counts.cpu().numpy(), runs.offsets.tolist()
    pairs = zip(offsets[:-1], offsets[1:], strict=True)
    return [int(counts[first + 1 : last : 2].sum(dtype=np.int64)) for first, last in pairs]


def boxes_of(runs: RunLengths) -> list[list[int] | None]:
    """[x, y, width, height] around each mask as COCO has it; none for an empty one."""
    counts, offsets = runs.counts.cpu().numpy(), runs.offsets.tolist()
    height = runs.size[0]
    boxes: list[list[int] | None] = []
    for first, last in zip(offsets[:-1], offsets[1:], strict=True):
        edges = np.cumsum(counts[first:last], dtype=np.int64)
        begins, ends = edges[0::2][: len(edges) // 2], edges[1::2] - 1  # of runs of foreground; the last pixel too
        if not len(begins):
            boxes.append(None)
            continue
        columns, last_columns = begins // height, ends // height
        if (columns != last_columns).any():  # it holds the lowest row of one column and the first of the next
            top, bottom = 0, height - 1
        else:
            top, bottom = int((begins % height).min()), int((ends % height).max())
        x = int(columns[0])
        boxes.append([x, top, int(last_columns[-1]) - x + 1, bottom - top + 1])
    return boxes


def _may_overlap(boxes: Sequence[list[int] | None]) -> bool:
    there = [box for box in boxes if box is not None]
    return any(
        ax < bx + bw and bx < ax + aw and ay < by + bh and by < ay + ah
        for i, (ax, ay, aw, ah) in enumerate(there)
        for bx, by, bw, bh in there[:i]
    )

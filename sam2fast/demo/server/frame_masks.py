"""The masks of one frame as run lengths, and as a part of the stream of tracked frames.

The stream is the official demo's, with two more keys for each object: ``iou`` and ``object_score``.
Source: ``demo/backend/server/app.py`` and ``inference/multipart.py`` of the official repository.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sam2fast.io.rle import RLE, compress_run_lengths
from sam2fast.kernels.run_lengths import encode_upsampled
from sam2fast.results.overlaps import visible_parts
from sam2fast.tracking.outputs import TrackScores
from sam2fast.tracking.proposals import ClickCandidates

CONTENT_TYPE = "multipart/x-savi-stream; boundary=frame"
SCORE_DIGITS = 4
_HEADERS = (
    b"--frame\r\n"
    b"Content-Type: application/json; charset=utf-8\r\n"
    b"Frame-Current: -1\r\n"
    b"Frame-Total: -1\r\n"
    b"Mask-Type: RLE[]\r\n"
    b"Content-Length: %d\r\n"
    b"\r\n"
)


class ObjectMask(NamedTuple):
    """The mask of one object on one frame. ``visible`` is its part with the greatest logit of all objects."""

    rle: RLE
    visible: RLE
    scores: tuple[float, float] | None = None


class ProposedMask(NamedTuple):
    """A mask that the model proposes for clicks, with its predicted IoU and the logit of the object's presence."""

    rle: RLE
    iou: float
    object_score: float


FrameMasks = tuple[int, Mapping[int, ObjectMask]]  # frame index and masks by object id


@torch.inference_mode()
def encode_frame(
    ids: Sequence[int], logits: Tensor, size: tuple[int, int], scores: TrackScores | None = None
) -> dict[int, ObjectMask]:
    """The masks of all objects by id.

    Args:
        logits: ``(N, 1, h, w)``, at the model's or the video's resolution.
        size: (H, W) of the video.
        scores: of tracked objects.
    """
    if not len(ids):
        return {}
    runs = encode_upsampled(logits[:, 0], size)
    seen = visible_parts(logits, runs)
    masks = compress_run_lengths(runs)
    visible = masks if seen is None else compress_run_lengths(seen)
    known: Sequence[tuple[float, float] | None] = [None] * len(ids)
    if scores is not None:
        known = list(zip(scores.iou.tolist(), scores.object_score.tolist(), strict=True))
    return {i: ObjectMask(*parts) for i, parts in zip(ids, zip(masks, visible, known, strict=True), strict=True)}


@torch.inference_mode()
def encode_candidates(found: ClickCandidates, size: tuple[int, int]) -> list[ProposedMask]:
    """ClickCandidates at the video's size (H, W)."""
    masks = compress_run_lengths(encode_upsampled(found.logits[:, 0], size))
    return [ProposedMask(mask, iou, found.score) for mask, iou in zip(masks, found.ious, strict=True)]


def encode_part(frame: int, masks: Mapping[int, ObjectMask]) -> bytes:
    """One frame's part of the stream; neither a line break nor a closing boundary follows it."""
    results = []
    for object_id, mask in masks.items():
        scores = zip(("iou", "object_score"), (round(value, SCORE_DIGITS) for value in mask.scores or ()), strict=False)
        rle = {"size": mask.rle["size"], "counts": mask.rle["counts"]}
        results.append({"object_id": object_id, "mask": rle, **dict(scores)})
    body = json.dumps({"frame_index": frame, "results": results}).encode()
    return _HEADERS % len(body) + body

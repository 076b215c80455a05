"""The masks of one frame as run lengths, and as a part of the stream of tracked frames.

The stream is byte for byte the original demo's.
Source: ``demo/backend/server/app.py`` and ``inference/multipart.py`` of the original.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sam2fast.io.rle import RLE, compress_run_lengths
from sam2fast.kernels.run_lengths import encode_upsampled
from sam2fast.video_results.overlaps import visible_parts

CONTENT_TYPE = "multipart/x-savi-stream; boundary=frame"
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
    """The mask of one object on one frame.

    Attributes:
        rle: the mask.
        visible: the part of it where the object has the greatest logit of all objects; these parts never overlap.
    """

    rle: RLE
    visible: RLE


FrameMasks = tuple[int, Mapping[int, ObjectMask]]  # frame index and masks by object id


@torch.inference_mode()
def encode_frame(ids: Sequence[int], logits: Tensor, size: tuple[int, int]) -> dict[int, ObjectMask]:
    """The masks of all objects by id.

    Args:
        logits: ``(N, 1, h, w)``, at the model's or the video's resolution.
        size: (H, W) of the video.
    """
    if not len(ids):
        return {}
    runs = encode_upsampled(logits[:, 0], size)
    seen = visible_parts(logits, runs)
    masks = compress_run_lengths(runs)
    visible = masks if seen is None else compress_run_lengths(seen)
    return {i: ObjectMask(*pair) for i, pair in zip(ids, zip(masks, visible, strict=True), strict=True)}


def encode_part(frame: int, masks: Mapping[int, ObjectMask]) -> bytes:
    """One frame's part of the stream; neither a line break nor a closing boundary follows it."""
    results = [
        {"object_id": object_id, "mask": {"size": mask.rle["size"], "counts": mask.rle["counts"]}}
        for object_id, mask in masks.items()
    ]
    body = json.dumps({"frame_index": frame, "results": results}).encode()
    return _HEADERS % len(body) + body

"""The stream of tracked frames, byte for byte as the original's demo sends it.

Source: ``demo/backend/server/app.py`` and ``inference/multipart.py`` of the original.
"""

import json
from collections.abc import Mapping

from sam2fast.demo.server.masks import ObjectMask

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


def encode_part(frame: int, masks: Mapping[int, ObjectMask]) -> bytes:
    """One frame's part of the stream; neither a line break nor a last boundary follows it."""
    results = [
        {"object_id": object_id, "mask": {"size": mask.rle["size"], "counts": mask.rle["counts"]}}
        for object_id, mask in masks.items()
    ]
    body = json.dumps({"frame_index": frame, "results": results}).encode()
    return _HEADERS % len(body) + body

"""Wrong requests to the routes of a session are refused and change nothing."""

import json
import math
from io import BytesIO

import numpy as np
import pytest
from demo_client import zipped
from PIL import Image

from sam2fast.demo.server.app import SERVICE
from sam2fast.io.label_maps import label_png
from sam2fast.io.rle import encode_rle

FRAMES, SIZE = 5, (48, 64)


def png(*size: int) -> bytes:
    file = BytesIO()
    Image.new("RGB", size[::-1]).save(file, "PNG")
    return file.getvalue()


def objects(*ids: float) -> list:
    return [{"id": i, "name": ""} for i in ids]


LABELS, OTHER_SIZE = label_png(np.ones(SIZE, np.uint8)), {"size": [4, 4], "counts": "0"}
COCO = {"images": [{"id": 7, "file_name": "3.jpg"}], "annotations": [{"image_id": 7, "segmentation": OTHER_SIZE}]}
LARGE = {"size": [1 << 20, 1 << 20], "counts": "0"}
HUGE = {"images": COCO["images"], "annotations": [{"image_id": 7, "segmentation": LARGE}]}
NO_MASKS: dict = {"objects": [], "frames": []}
PREVIEW = {"frameIndex": 0, "objectId": 1, "points": [[0.3, 0.4]], "labels": [1]}
MASK = {"frameIndex": 0, "objectId": 1, "mask": encode_rle(np.ones(SIZE, bool))}


@pytest.mark.parametrize(
    ("route", "body", "word"),
    [
        ("masks", {**MASK, "frameIndex": 9}, "no frame 9"),
        ("masks", {**MASK, "frameIndex": True}, "frameIndex"),
        ("masks", {**MASK, "objectId": "1"}, "objectId"),
        ("masks", {**MASK, "mask": None}, "size"),
        ("masks", {**MASK, "mask": OTHER_SIZE}, "size"),
        ("masks", {**MASK, "mask": {"size": list(SIZE), "counts": "??"}}, "run lengths"),
        ("masks", {**MASK, "mask": encode_rle(np.zeros(SIZE, bool))}, "empty"),
        ("read_masks", b"", "cannot be read"),
        ("read_masks?frame=first", b"", "frame is 'first'"),
        ("read_masks", b"{}", "cannot be read"),
        ("read_masks", b"\x89PNG damaged", "cannot be read as masks: 'cannot identify the image'"),
        ("read_masks", b"PK\x03\x04 damaged", "cannot be read"),
        ("read_masks", label_png(np.zeros(SIZE, np.uint8)), "no masks"),
        ("read_masks", label_png(np.ones((40, 40), np.uint8)), "expected the shape of"),
        ("read_masks", b"\xff\xd8\xff JPEG", "expected a PNG with labels, COCO's JSON"),
        ("read_masks", json.dumps(HUGE).encode(), "at most 33554432 pixels"),
        ("read_masks", json.dumps(HUGE).replace("1048576", "-4").encode(), "has the size [-4, -4]"),
        ("read_masks", zipped({"00009.png": LABELS}), "frame 9"),
        ("read_masks", zipped({"mask.png": LABELS}), "no frame number"),
        ("read_masks", json.dumps(COCO).encode(), "do not add up"),
        ("export?format=coco_rle", {}, "expected masks"),
        ("export?format=coco_rle", {"objects": [], "frames": [{"frame": 0}]}, "expected masks"),
        ("export?format=coco_rle", {"objects": objects(math.inf), "frames": []}, "expected masks"),
        ("export?format=coco_rle", {"objects": [], "frames": [{"frame": 0, "masks": []}] * 6}, "5 frames"),
        ("export?format=coco_rle", {"objects": objects(*range(33)), "frames": []}, "32 objects"),
        ("export?format=coco_rle", {"objects": objects(1), "frames": [{"frame": 7, "masks": []}]}, "no frame 7"),
        ("export?format=green_mp4&quality=low", NO_MASKS, "no quality 'low'; expected one of high, smaller"),
        ("export?format=prores_mov&quality=smaller", NO_MASKS, "prores_mov has no choice of quality"),
        ("export?format=coco&quality=smaller", NO_MASKS, "coco has no choice of quality"),
        ("preview", {**PREVIEW, "frameIndex": 9}, "no frame 9"),
        ("preview", {**PREVIEW, "objectId": "1"}, "objectId"),
        ("preview", {**PREVIEW, "points": [[2, 0]]}, "not in the image"),
        ("preview", {**PREVIEW, "points": [], "labels": []}, "at least 1"),
        ("preview", {**PREVIEW, "points": [1]}, "expected clicks"),
        ("preview", {**PREVIEW, "points": [[10**400, 0]]}, "expected clicks"),
        ("preview", {**PREVIEW, "labels": [1, 1]}, "2 labels"),
        ("encode", b"no zip", "ZIP"),
        ("encode?quality=low", zipped({"0.png": png(*SIZE)}), "no quality 'low'; expected one of high, smaller"),
        ("encode", zipped({}), "no frames"),
        ("encode", zipped({"0.png": png(9, 9)}), "size"),
        ("encode", zipped({f"{number}.png": png(*SIZE) for number in range(FRAMES + 1)}), "5 frames"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refusals(client, app, session, route, body, word):
    options = {"data": body} if isinstance(body, bytes) else {"json": body}
    answer = client.http.post(f"/api/sessions/{session}/{route}", **options)
    error = answer.get_json()["error"]
    assert (answer.status_code, error["code"]) == (400, "BAD_INPUT") and word in error["message"]
    assert client.facts(session)["objects"] == []
    assert list(app.extensions[SERVICE].library.incoming.iterdir()) == []

"""The operations of the official demo's front end, replayed in its order, from its own origin."""

import json
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from demo_client import masks_of

from sam2fast.io.rle import decode_rle

ORIGIN = "http://localhost:7262"
FRAMES, HEIGHT, WIDTH = 5, 48, 64
ON_SQUARE, ON_DISC = [16 / WIDTH, 19 / HEIGHT], [50 / WIDTH, 34 / HEIGHT]
VIDEO = "id path posterPath url posterUrl width height"
MASKS = "frameIndex rleMaskList { objectId rleMask { counts size } }"
# By the field: the type of its input, and what is read.
MUTATIONS = {
    "startSession": "sessionId",
    "closeSession": "success",
    "addPoints": MASKS,
    "clearPointsInFrame": MASKS,
    "removeObject": MASKS,
    "clearPointsInVideo": "success",
    "cancelPropagateInVideo": "success",
}


class OfficialFrontend:
    """Sends Relay's requests: named operations with their input in one variable."""

    def __init__(self, http: Any) -> None:
        self.http = http

    def post(self, path: str, **options: Any) -> Any:
        preflight = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
        allowed = self.http.options(path, headers={**preflight, "Access-Control-Request-Headers": "content-type"})
        assert allowed.status_code < 300 and "Content-Type" in allowed.headers["Access-Control-Allow-Headers"]
        answer = self.http.post(path, headers={"Origin": ORIGIN}, **options)
        assert answer.status_code == 200, answer.data
        self.check_readable(answer)
        return answer

    def get(self, address: str) -> Any:
        answer = self.http.get(address, headers={"Origin": ORIGIN})
        assert answer.status_code == 200
        self.check_readable(answer)
        return answer

    def query(self, name: str, fields: str) -> Any:
        body = {"query": f"query {name} {{ {fields} }}", "variables": {}}
        return self.post("/graphql", json=body).get_json()["data"]

    def mutate(self, field: str, **fields: Any) -> Any:
        name = field[0].upper() + field[1:]
        query = f"mutation {name}Mutation($input: {name}Input!) {{ {field}(input: $input) {{ {MUTATIONS[field]} }} }}"
        answer = self.post("/graphql", json={"query": query, "variables": {"input": fields}}).get_json()
        assert "errors" not in answer, answer
        return answer["data"][field]

    def upload(self, content: bytes) -> Any:
        query = f"mutation UploadVideoMutation($file: Upload!) {{ uploadVideo(file: $file) {{ {VIDEO} }} }}"
        form = {
            "operations": json.dumps({"query": query, "variables": {"file": None}}),
            "map": json.dumps({"file": ["variables.file"]}),
            "file": (BytesIO(content), "clip.mov", "video/quicktime"),
        }
        return self.post("/graphql", data=form, content_type="multipart/form-data").get_json()["data"]["uploadVideo"]

    def track(self, session: str, start: int) -> Iterator[dict[str, Any]]:
        """The bodies of the stream, one at a time, by the rules of the official parser."""
        body = {"session_id": session, "start_frame_index": start}
        answer = self.post("/propagate_in_video", json=body, buffered=False)
        assert answer.content_type.startswith("multipart/x-savi-stream; boundary=")
        boundary = b"--" + answer.content_type.partition("boundary=")[2].encode()
        buffer = b""
        for chunk in answer.response:
            buffer += chunk
            while b"\r\n\r\n" in buffer:
                head, _, rest = buffer.partition(b"\r\n\r\n")
                first, *lines = head.split(b"\r\n")
                assert first == boundary
                length = int(dict(line.decode().split(": ") for line in lines)["Content-Length"])
                if len(rest) < length:
                    break
                buffer = rest[length:]
                yield json.loads(rest[:length])
        assert buffer == b""  # an end in the middle of a part is an error

    @staticmethod
    def check_readable(answer: Any) -> None:
        """Whether a page of this origin, which sends credentials, may read an answer."""
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert answer.headers["Access-Control-Allow-Credentials"] == "true"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"  # posters are images of the page


@pytest.fixture(scope="module")
def predictor(nano_predictor):
    return nano_predictor


@pytest.fixture
def frontend(make_server) -> OfficialFrontend:
    return OfficialFrontend(make_server(allow_origins=(ORIGIN,)).test_client())


def test_a_visit_from_the_default_video_to_the_last_correction(frontend, clip_file):
    videos = [
        edge["node"]
        for edge in frontend.query("GalleryQuery", f"videos {{ edges {{ node {{ {VIDEO} }} }} }}")["videos"]["edges"]
    ]
    video = frontend.query("DefaultVideoQuery", f"defaultVideo {{ {VIDEO} }}")["defaultVideo"]
    assert video in videos and (video["width"], video["height"]) == (WIDTH, HEIGHT)
    assert frontend.get(video["url"]).data == clip_file.read_bytes()
    assert frontend.get(video["posterUrl"]).content_type == "image/jpeg"

    session = frontend.mutate("startSession", path=video["path"])["sessionId"]

    def add(frame: int, obj: int, points: list[list[float]], labels: list[int]) -> dict[int, np.ndarray]:
        prompt = {"frameIndex": frame, "objectId": obj, "points": points, "labels": labels, "clearOldPoints": True}
        answer = frontend.mutate("addPoints", sessionId=session, **prompt)
        assert answer["frameIndex"] == frame
        return masks_of(answer)

    assert add(0, 0, [ON_SQUARE], [1])[0][19, 16]  # ids begin at 0
    corrected = add(0, 0, [ON_SQUARE, ON_DISC], [1, 0])
    assert corrected[0][19, 16] and not corrected[0][34, 50]
    both = add(0, 1, [ON_DISC], [1])
    assert list(both) == [0, 1] and both[1][34, 50]

    stream = frontend.track(session, 0)
    assert next(stream)["frame_index"] == 0
    assert frontend.mutate("cancelPropagateInVideo", sessionId=session) == {"success": True}
    assert len(list(stream)) < FRAMES - 1

    frames = list(frontend.track(session, 0))
    assert [body["frame_index"] for body in frames] == list(range(FRAMES))
    for body in frames:
        assert [result["object_id"] for result in body["results"]] == [0, 1]
        assert all(decode_rle(result["mask"]).shape == (HEIGHT, WIDTH) for result in body["results"])

    add(2, 0, [ON_DISC], [0])  # a correction, taken back
    assert list(masks_of(frontend.mutate("clearPointsInFrame", sessionId=session, frameIndex=2, objectId=0))) == [0, 1]
    updated = frontend.mutate("removeObject", sessionId=session, objectId=1)
    assert all(list(masks_of(frame)) == [0] for frame in updated)
    assert [body["frame_index"] for body in frontend.track(session, 2)] == [2, 3, 4, 2, 1, 0]

    assert frontend.mutate("clearPointsInVideo", sessionId=session) == {"success": True}
    assert frontend.mutate("closeSession", sessionId=session) == {"success": True}
    assert frontend.mutate("closeSession", sessionId=session) == {"success": False}  # again, when the page closes


def test_an_upload_is_opened_like_a_video_of_the_gallery(frontend, clip_file):
    video = frontend.upload(clip_file.read_bytes())
    assert video["path"].startswith("uploads/") and frontend.get(video["url"]).content_type == "video/mp4"
    session = frontend.mutate("startSession", path=video["path"])["sessionId"]
    prompt = {"frameIndex": 0, "objectId": 0, "points": [ON_SQUARE], "labels": [1], "clearOldPoints": True}
    assert masks_of(frontend.mutate("addPoints", sessionId=session, **prompt))[0].any()
    assert frontend.mutate("closeSession", sessionId=session) == {"success": True}

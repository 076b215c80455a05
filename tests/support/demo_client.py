"""A client of the web demo's API, for Flask's test client and what answers like it."""

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from sam2fast.io.rle import decode_rle

MASKS = "{frameIndex rleMaskList{objectId rleMask{size counts order}}}"
ADD = f"mutation($i:AddPointsInput!){{addPoints(input:$i){MASKS}}}"
REMOVE = f"mutation($i:RemoveObjectInput!){{removeObject(input:$i){MASKS}}}"
CLEAR_FRAME = f"mutation($i:ClearPointsInFrameInput!){{clearPointsInFrame(input:$i){MASKS}}}"
CLEAR_VIDEO = "mutation($i:ClearPointsInVideoInput!){clearPointsInVideo(input:$i){success}}"
CANCEL = "mutation($i:CancelPropagateInVideoInput!){cancelPropagateInVideo(input:$i){success}}"
START = "mutation($i:StartSessionInput!){startSession(input:$i){sessionId}}"
CLOSE = "mutation($i:CloseSessionInput!){closeSession(input:$i){success}}"
UPLOAD = (
    "mutation($file:Upload!,$start:Float,$seconds:Float){uploadVideo(file:$file,startTimeSec:$start,"
    "durationTimeSec:$seconds){path posterPath url width height}}"
)
Masks = dict[int, np.ndarray]  # bool (H, W), by object


class Refusal(NamedTuple):
    """An error that the client receives instead of an answer."""

    status: int
    code: str | None
    message: str


class DemoClient:
    """Sends the front end's requests by Flask's test client."""

    def __init__(self, http: Any) -> None:
        self.http = http

    def graphql(self, query: str, **variables: Any) -> Any:
        """The data of an answer, or the first refusal."""
        return _answer(self.http.post("/graphql", json={"query": query, "variables": variables}))

    def mutate(self, query: str, **fields: Any) -> Any:
        """The one field of a mutation's answer, or a refusal."""
        data = self.graphql(query, i=fields)
        return data if isinstance(data, Refusal) else next(iter(data.values()))

    def start(self, path: str = "gallery/clip.mp4") -> Any:
        """A session's id, or a refusal."""
        found = self.mutate(START, path=path)
        return found if isinstance(found, Refusal) else found["sessionId"]

    def close(self, session: str) -> bool:
        return self.mutate(CLOSE, sessionId=session)["success"]

    def add(
        self,
        session: str,
        points: Sequence[Sequence[float]] = ((0.3, 0.4),),
        labels: Sequence[int] = (1,),
        frame: int = 0,
        obj: int = 1,
        clear: bool = True,
    ) -> Any:
        """The masks of all objects on the frame, or a refusal."""
        fields = {"frameIndex": frame, "objectId": obj, "clearOldPoints": clear}
        found = self.mutate(ADD, sessionId=session, points=points, labels=labels, **fields)
        return found if isinstance(found, Refusal) else masks_of(found)

    def track(self, session: str, start: int = 0, **more: Any) -> Any:
        """Frames and their masks in the order in which they come, or a refusal."""
        answer = self.http.post("/propagate_in_video", json={"session_id": session, "start_frame_index": start, **more})
        return list(parts_of(answer.data)) if answer.status_code == 200 else _refusal(answer.status_code, answer.data)

    def begin_track(self, session: str, **body: Any) -> Any:
        """The stream of a track, whose first frame has come; it can be closed."""
        body["session_id"] = session
        stream = self.http.post("/propagate_in_video", json=body, buffered=False).response
        assert b'"frame_index": 0' in next(stream)
        return stream

    def facts(self, session: str) -> Any:
        return self.http.get(f"/api/sessions/{session}").get_json()

    def export(self, session: str, query: str, body: Any = None) -> bytes:
        """Returns an exported file of the session's masks, or of the masks that a page posts as ``body``.

        Args:
            query: Format and options: ``cutout&size=seen``.
        """
        url = f"/api/sessions/{session}/export?format={query}"
        answer = self.http.get(url) if body is None else self.http.post(url, json=body)
        assert answer.status_code == 200, answer.data
        return answer.data

    def upload(self, content: bytes, name: str = "clip.mp4", job: str | None = None, **variables: Any) -> Any:
        """The video's description, or a refusal."""
        form = {
            "operations": json.dumps({"query": UPLOAD, "variables": {"file": None, **variables}}),
            "map": json.dumps({"file": ["variables.file"]}),
            "file": (BytesIO(content), name),
        }
        url = "/graphql" if job is None else f"/graphql?job={job}"
        data = _answer(self.http.post(url, data=form, content_type="multipart/form-data"))
        return data if isinstance(data, Refusal) else data["uploadVideo"]


def unzipped(content: bytes) -> dict[str, bytes]:
    """Returns the files of a ZIP file by name."""
    with zipfile.ZipFile(BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(files: Mapping[str, bytes]) -> bytes:
    """Returns a ZIP file with these contents by name."""
    content = BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, file in files.items():
            archive.writestr(name, file)
    return content.getvalue()


def pixels_of(content: bytes) -> np.ndarray:
    """Returns the pixels of an image file."""
    return np.asarray(Image.open(BytesIO(content)))


def masks_of(answer: Mapping[str, Any]) -> Masks:
    """The masks of an answer on a frame."""
    return {entry["objectId"]: decode_rle(entry["rleMask"]) for entry in answer["rleMaskList"]}


def parts_of(stream: bytes) -> Iterator[tuple[int, Masks]]:
    """Frames of a stream, read by the lengths that it states."""
    while stream:
        head, _, rest = stream.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        headers = dict(line.decode().split(": ") for line in lines[1:])
        assert lines[0] == b"--frame", lines[0]
        length = int(headers["Content-Length"])
        body, stream = json.loads(rest[:length]), rest[length:]
        yield body["frame_index"], {entry["object_id"]: decode_rle(entry["mask"]) for entry in body["results"]}


def _answer(answer: Any) -> Any:
    body = answer.get_json()
    errors = body.get("errors")
    if answer.status_code == 200 and not errors:
        return body["data"]
    return _refusal(answer.status_code, answer.data)


def _refusal(status: int, body: bytes) -> Refusal:
    told = json.loads(body)
    if "errors" in told:
        (error, *_) = told["errors"]
        return Refusal(status, error.get("extensions", {}).get("code"), error["message"])
    return Refusal(status, told["error"]["code"], told["error"]["message"])

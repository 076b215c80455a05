"""The requests to the web demo's server in docs/serve.md, and the answers that it shows."""

import json
import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from demo_client import START, DemoClient
from document_blocks import blocks_of
from document_commands import Line, lines_of
from flask.testing import FlaskClient
from mini_model import mini_predictor

from sam2fast.demo.server.app import SERVICE, make_app
from sam2fast.demo.server.library import GALLERY
from sam2fast.demo.server.settings import ServerSettings

PAGE, ADDRESS = "docs/serve.md", "http://127.0.0.1:7263"
LINES = [line for block in blocks_of("shell") for line in lines_of(block) if line.program == "curl"]


@pytest.fixture(scope="module")
def server(written_stage: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    data = tmp_path_factory.mktemp("data")
    (data / GALLERY).mkdir()
    (data / GALLERY / "clip.mp4").write_bytes((written_stage / "clip.mp4").read_bytes())
    app = make_app(ServerSettings(data), mini_predictor())
    yield app.test_client()
    app.extensions[SERVICE].close()


def as_curl_does(line: Line, server: FlaskClient) -> Any:
    """The answer to a curl command: -H a header, -d a body, -F a form field, -s."""
    words, url, asked = list(line.words[1:]), "", dict[str, Any]()
    while words:
        word = words.pop(0)
        if word == "-s":
            continue
        if not word.startswith("-"):
            url = word
        elif word == "-d":
            asked["data"] = words.pop(0)
        elif word == "-H":
            name, _, value = words.pop(0).partition(": ")
            asked.setdefault("headers", {})[name] = value
        elif word == "-F":
            name, _, value = words.pop(0).partition("=")
            field = (BytesIO(Path(value[1:]).read_bytes()), value[1:]) if value.startswith("@") else value
            asked.setdefault("data", {})[name] = field
        else:
            raise AssertionError(f"{line.where}: curl's {word} is not known here")
    assert url.startswith(ADDRESS), line.where
    return server.post(url.removeprefix(ADDRESS), **asked)


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.where)
def test_requests_are_answered(line: Line, server: FlaskClient, stage: Path) -> None:
    answer = as_curl_does(line, server)
    assert answer.status_code == 200 and "errors" not in answer.json, f"{line.where}: {answer.data!r}"
    assert answer.json["data"], line.where


def test_the_stream_has_the_documented_form(server: FlaskClient) -> None:
    """Its first part has the document's headers in order, and JSON of the same structure."""
    (shown,) = [block for block in blocks_of("text") if block.file == PAGE and block.text.startswith("--frame")]
    client = DemoClient(server)
    session = client.mutate(START, path="gallery/clip.mp4")["sessionId"]
    client.add(session)
    answer = server.post("/propagate_in_video", json={"session_id": session, "start_frame_index": 0}).data.decode()
    client.close(session)
    first = answer.split("--frame")[1].strip().replace("\r\n", "\n")
    assert facts_of(shown.text.removeprefix("--frame").strip()) == facts_of(first), shown.where


def facts_of(part: str) -> tuple[list[str], Any]:
    """Headers without the value of the length, and the JSON with types as values."""
    head, _, body = part.partition("\n\n")
    headers = [re.sub(r"^(Content-Length:) \d+$", r"\1", line) for line in head.splitlines()]
    return headers, types_in(json.loads(body))


def types_in(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: types_in(inner) for key, inner in value.items()}
    return [types_in(inner) for inner in value] if isinstance(value, list) else type(value)


def test_the_page_has_requests() -> None:
    assert len(LINES) == 2 and all(line.where.startswith(PAGE) for line in LINES)

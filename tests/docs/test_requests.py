"""The requests to the web demo's server in docs/serve.md, and the answers that it shows."""

import argparse
import json
import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from demo_client import START, DemoClient
from document_blocks import Command, blocks_of, commands
from flask.testing import FlaskClient
from mini_model import mini_predictor

from sam2fast.demo.server.app import SERVICE, make_app
from sam2fast.demo.server.library import GALLERY
from sam2fast.demo.server.settings import ServerSettings

REQUESTS = [command for block in blocks_of("shell") for command in commands(block) if command.program == "curl"]
CURL = argparse.ArgumentParser(exit_on_error=False)
CURL.add_argument("-s", action="store_true")
CURL.add_argument("url")
CURL.add_argument("-H", default="")
CURL.add_argument("-d")
CURL.add_argument("-F", action="append", default=[])


@pytest.fixture(scope="module")
def server(written_stage: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    data = tmp_path_factory.mktemp("data")
    (data / GALLERY).mkdir()
    (data / GALLERY / "clip.mp4").write_bytes((written_stage / "clip.mp4").read_bytes())
    app = make_app(ServerSettings(data), mini_predictor())
    yield app.test_client()
    app.extensions[SERVICE].close()


@pytest.mark.parametrize("command", REQUESTS, ids=lambda command: command.where)
def test_requests_are_answered(command: Command, server: FlaskClient, stage: Path) -> None:
    asked = CURL.parse_args(command.words[1:])
    fields = dict(field.split("=", 1) for field in asked.F)
    files = {
        name: (BytesIO(Path(value[1:]).read_bytes()), value[1:]) for name, value in fields.items() if value[0] == "@"
    }
    kind = asked.H.removeprefix("Content-Type: ") or None
    address = asked.url.removeprefix("http://127.0.0.1:7263")
    answer = server.post(address, data=asked.d or fields | files, content_type=kind)
    assert answer.status_code == 200, answer.data
    assert answer.json and answer.json["data"] and "errors" not in answer.json, answer.data


def test_the_stream_has_the_documented_form(server: FlaskClient) -> None:
    """Its first part has the document's headers in order, and JSON of the same structure."""
    (shown,) = [block.text for block in blocks_of("text") if block.text.startswith("--frame")]
    client = DemoClient(server)
    session = client.mutate(START, path="gallery/clip.mp4")["sessionId"]
    client.add(session)
    answer = server.post("/propagate_in_video", json={"session_id": session, "start_frame_index": 0}).data.decode()
    client.close(session)
    assert headers_and_types(shown) == headers_and_types(answer.replace("\r\n", "\n"))


def headers_and_types(answer: str) -> tuple[str, Any]:
    """Of the first part: headers without the value of the length, and the JSON with types as values."""
    head, _, body = answer.split("--frame")[1].strip().partition("\n\n")
    return re.sub(r"(?<=Content-Length: )\d+", "", head), types_in(json.loads(body))


def types_in(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: types_in(inner) for key, inner in value.items()}
    return [types_in(inner) for inner in value] if isinstance(value, list) else type(value)

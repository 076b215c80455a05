"""Error messages do not reveal where files are on the server."""

import shutil
from pathlib import Path

import pytest
from demo_client import DemoClient

from sam2fast.demo.server.app import SERVICE


@pytest.fixture(scope="module")
def predictor(narrow_predictor):
    return narrow_predictor


@pytest.fixture
def server(make_server):
    return make_server()


def root_of(app) -> Path:
    return app.extensions[SERVICE].library.root


def assert_hides_paths(app, *messages: str) -> None:
    for text in messages:
        assert text and str(root_of(app)) not in text and "/tmp" not in text, text


def test_an_empty_gallery(server):
    (root_of(server) / "gallery/clip.mp4").unlink()
    assert_hides_paths(server, DemoClient(server.test_client()).graphql("{defaultVideo{path}}").message)


def test_a_damaged_video(server, clip_file):
    client, file = DemoClient(server.test_client()), root_of(server) / "gallery/clip.mp4"
    file.write_bytes(clip_file.read_bytes()[:300])
    refused = client.start("gallery/clip.mp4")
    assert refused.code == "BAD_INPUT" and "gallery/clip.mp4" in refused.message
    assert_hides_paths(server, refused.message)


def test_a_video_that_is_damaged_while_it_is_used(server, clip_file):
    """Messages of frames, exports, tracks and the session status."""
    client, file = DemoClient(server.test_client()), root_of(server) / "gallery/clip.mp4"
    session = client.start("gallery/clip.mp4")
    client.add(session)
    file.write_bytes(clip_file.read_bytes()[:300])
    frame = client.http.get(f"/api/sessions/{session}/frames/3.jpg")
    export = client.http.get(f"/api/sessions/{session}/export?format=overlay_mp4")
    assert frame.status_code >= 400 and export.status_code >= 400
    assert_hides_paths(server, *(answer.get_json()["error"]["message"] for answer in (frame, export)))
    client.track(session)
    if problem := client.facts(session)["problem"]:  # its frames may have been decoded before
        assert_hides_paths(server, problem)


def test_an_upload_that_is_not_a_video(server, clip_file):
    client = DemoClient(server.test_client())
    refused = client.upload(clip_file.read_bytes()[:300])
    assert refused.code == "BAD_VIDEO"
    assert_hides_paths(server, refused.message)


def test_a_deleted_gallery(server):
    client = DemoClient(server.test_client())
    shutil.rmtree(root_of(server))
    answers = [client.http.get("/gallery/clip.mp4"), client.http.get("/api/sessions/x/export?format=cutout")]
    assert_hides_paths(server, *(answer.get_data(as_text=True) for answer in answers))
    assert_hides_paths(server, client.start("gallery/clip.mp4").message)

"""Clients are told what is wrong, and not where files lie on the server's machine."""

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


def assert_tells_no_place(app, *told: str) -> None:
    for text in told:
        assert text and str(root_of(app)) not in text and "/tmp" not in text, text


def test_an_empty_gallery(server):
    (root_of(server) / "gallery/film.mp4").unlink()
    assert_tells_no_place(server, DemoClient(server.test_client()).graphql("{defaultVideo{path}}").message)


def test_a_damaged_film(server, film):
    client, file = DemoClient(server.test_client()), root_of(server) / "gallery/film.mp4"
    file.write_bytes(film.read_bytes()[:300])
    refused = client.start("gallery/film.mp4")
    assert refused.code == "BAD_INPUT" and "gallery/film.mp4" in refused.message
    assert_tells_no_place(server, refused.message)


def test_a_film_that_is_damaged_while_it_is_used(server, film):
    """By frames, in an export, in a track, and in what the session says of it afterwards."""
    client, file = DemoClient(server.test_client()), root_of(server) / "gallery/film.mp4"
    session = client.start("gallery/film.mp4")
    client.add(session)
    file.write_bytes(film.read_bytes()[:300])
    frame = client.http.get(f"/api/sessions/{session}/frames/3.jpg")
    export = client.http.get(f"/api/sessions/{session}/export?format=overlay_mp4")
    assert frame.status_code >= 400 and export.status_code >= 400
    assert_tells_no_place(server, *(answer.get_json()["error"]["message"] for answer in (frame, export)))
    client.track(session)
    if problem := client.facts(session)["problem"]:  # its frames may be decoded already
        assert_tells_no_place(server, problem)


def test_an_upload_that_is_none(server, film):
    client = DemoClient(server.test_client())
    refused = client.upload(film.read_bytes()[:300])
    assert refused.code == "BAD_VIDEO"
    assert_tells_no_place(server, refused.message)


def test_a_gallery_that_is_gone(server):
    client = DemoClient(server.test_client())
    shutil.rmtree(root_of(server))
    answers = [client.http.get("/gallery/film.mp4"), client.http.get("/api/sessions/x/export?format=cutout")]
    assert_tells_no_place(server, *(answer.get_data(as_text=True) for answer in answers))
    assert_tells_no_place(server, client.start("gallery/film.mp4").message)

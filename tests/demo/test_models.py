"""The choice of a model and a tracking strategy, and downloads that a client asks for."""

import threading
from pathlib import Path

import pytest
from demo_client import DemoClient
from mini_model import mini_predictor
from waiting import wait_until

from sam2fast.demo.server import models, real_clips
from sam2fast.demo.server.app import SERVICE
from sam2fast.demo.server.background import Download, Downloads
from sam2fast.demo.server.library import GALLERY
from sam2fast.demo.server.prompt_limits import MemoryBudget
from sam2fast.downloads.catalog import OFFLINE_VARIABLES


@pytest.fixture
def changeable(make_server):
    """A server whose model may be changed; its models are random."""
    loaded = []

    def load(name):
        if name == "mini":
            raise ValueError("the file is damaged")
        loaded.append(mini_predictor())
        return loaded[-1]

    return make_server(load, model="sam2.1_hiera_t"), loaded


def refusal(answer):
    return answer.status_code, answer.get_json()["error"]["code"]


def status(http, name):
    return next(model for model in http.get("/api/models").get_json()["models"] if model["name"] == name)


def test_another_model_takes_over_and_sessions_of_the_earlier_one_end(changeable):
    app, loaded = changeable
    client = DemoClient(app.test_client())
    assert client.http.get("/api/models").get_json()["current"] == "tiny"  # by its shortest name
    session = client.start()
    client.add(session)
    stream = client.begin_track(session)

    assert client.http.post("/api/models/nano/use").status_code == 200
    service = app.extensions[SERVICE]
    assert service.predictor is loaded[0] and service.calls._predictor is loaded[0]
    assert client.http.get("/api/limits").get_json()["model"] == "nano"
    assert client.http.get(f"/api/sessions/{session}").status_code == 404
    assert len(list(stream)) <= 1 and len(service.sessions) == 0
    assert isinstance(client.add(client.start()), dict)


def test_a_model_that_cannot_be_loaded_changes_nothing(changeable):
    app, _ = changeable
    client = DemoClient(app.test_client())
    session = client.start()
    answer = client.http.post("/api/models/mini/use")
    assert refusal(answer) == (400, "BAD_INPUT") and "the file is damaged" in answer.get_json()["error"]["message"]
    assert client.http.get("/api/models").get_json()["current"] == "tiny"
    assert isinstance(client.add(session), dict)
    assert refusal(client.http.post("/api/models/huge/use")) == (404, "NOT_FOUND")


def test_a_download_reports_its_progress_and_then_the_model_can_be_used(changeable, tmp_path, monkeypatch):
    app, _ = changeable
    http = app.test_client()
    monkeypatch.setenv("SAM2FAST_CACHE", str(tmp_path))
    found, go_on = [], threading.Event()
    monkeypatch.setattr(models, "find_checkpoint", lambda name: tmp_path if found else None)

    def get(name, quiet):
        (tmp_path / "sam2.1_hiera_small.pt.part").write_bytes(bytes(46 * 10**6))
        assert go_on.wait(10)
        found.append(name)

    monkeypatch.setattr(models, "get_checkpoint", get)
    for variable in OFFLINE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    assert status(http, "small")["state"] == "missing"
    assert refusal(http.post("/api/models/small/use")) == (400, "BAD_INPUT")
    assert http.post("/api/models/small/download").status_code == 200
    assert wait_until(lambda: status(http, "small")["share"] == 0.25)
    assert status(http, "small")["state"] == "downloading"
    assert http.post("/api/models/small/download").status_code == 200  # it runs already
    go_on.set()
    assert wait_until(lambda: status(http, "small")["state"] == "ready")
    assert found == ["small"]
    assert http.post("/api/models/small/use").status_code == 200


def test_a_failed_download_says_why_and_can_be_tried_again():
    outcomes = iter([OSError("no room"), KeyError("bug"), None])
    is_there = []

    def run():
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome
        is_there.append(True)

    downloads = Downloads({"it": Download(lambda: bool(is_there), run, list, 10)})
    for problem in ("no room", "the download failed; the server's log says more"):
        downloads.start("it")
        assert wait_until(lambda: downloads.status("it")["state"] == "failed")
        assert downloads.status("it")["problem"] == problem
    downloads.start("it")
    assert wait_until(lambda: downloads.status("it")["state"] == "ready")
    downloads.start("it")  # nothing is left to do
    assert downloads.status("it") == {"state": "ready", "share": 1.0, "problem": None}


def test_a_part_that_is_renamed_while_its_size_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    go_on = threading.Event()
    downloads = Downloads({"it": Download(lambda: False, go_on.wait, lambda: [tmp_path / "gone.part"], 10)})
    downloads.start("it")
    try:
        assert downloads.status("it") == {"state": "downloading", "share": 0.0, "problem": None}
    finally:
        go_on.set()


def test_a_shared_or_offline_server_refuses(client, changeable, monkeypatch):
    assert client.http.get("/api/models").get_json()["mayChange"] is False
    for action in ("use", "download"):
        assert refusal(client.http.post(f"/api/models/nano/{action}")) == (403, "NOT_ALLOWED")
    monkeypatch.setenv("SAM2FAST_OFFLINE", "1")
    app, _ = changeable
    http = app.test_client()
    assert (
        http.get("/api/models").get_json()["offline"]
        == "SAM2FAST_OFFLINE is set on the server, so it downloads nothing."
    )
    assert refusal(http.post("/api/models/small/download")) == (403, "NOT_ALLOWED")
    assert refusal(http.post("/api/real_clips")) == (403, "NOT_ALLOWED")
    assert http.get("/api/real_clips").get_json()["isOffline"] is True


def test_a_session_has_its_own_strategy(client, app):
    def start(**body):
        return client.http.post("/api/sessions", json={"path": "gallery/clip.mp4", **body})

    sessions = app.extensions[SERVICE].sessions
    for body, name in (({}, "Sam2"), ({"strategy": "samurai"}, "Samurai"), ({"strategy": "d4sm"}, "D4sm")):
        session = start(**body).get_json()["sessionId"]
        assert type(sessions.get(session).state.strategy).__name__ == name
        client.add(session)
        assert len(client.track(session)) == 5
        client.close(session)
    for strategy in ("sam2long", "magic", 3):  # sam2long shows no frame before the last
        assert refusal(start(strategy=strategy)) == (400, "BAD_INPUT")
    assert refusal(client.http.post("/api/sessions", json=["gallery/clip.mp4"])) == (400, "BAD_INPUT")


def test_a_strategy_that_keeps_all_frames_leaves_room_for_fewer_objects(make_server):
    app = make_server()
    client, calls = DemoClient(app.test_client()), app.extensions[SERVICE].calls
    calls._budget = MemoryBudget(results=10, reach=1)  # one object on all five frames, in both kinds of results
    session = client.http.post("/api/sessions", json={"path": "gallery/clip.mp4", "strategy": "samurai"}).get_json()
    assert isinstance(client.add(session["sessionId"], obj=1), dict)
    assert client.add(session["sessionId"], obj=2).code == "TOO_MANY"
    other = client.start()
    assert isinstance(client.add(other, obj=1), dict) and isinstance(client.add(other, obj=2), dict)


def test_real_clips_come_into_the_gallery(tmp_path, monkeypatch):
    library = real_clips.Library(tmp_path)
    fetched = []

    def fetch(urls, part, sha256, quiet):
        fetched.append((urls, sha256))
        part.write_bytes(b"video")

    monkeypatch.setattr(real_clips, "fetch", fetch)
    download = real_clips.real_clips(library)
    assert not download.is_ready()
    download.run()
    assert download.is_ready()
    assert [urls for urls, _ in fetched] == [[f"{real_clips.URL}/{clip.name}"] for clip in real_clips.CLIPS]
    assert all(len(sha256) == 64 for _, sha256 in fetched)
    names = sorted(path.name for path in (tmp_path / GALLERY / "sam2").iterdir())
    assert names == [clip.name for clip in real_clips.CLIPS]
    assert sum(part.stat().st_size for part in download.parts() if part.is_file()) == 5 * len(names)
    (tmp_path / GALLERY / "sam2" / names[2]).unlink()  # as after a download that failed there
    del fetched[:]
    download.run()
    assert [urls for urls, _ in fetched] == [[f"{real_clips.URL}/{names[2]}"]]

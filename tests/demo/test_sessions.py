"""Limits and expiry of sessions, their turns in the model's thread, and their memory."""

import gc
import threading
import weakref
from functools import partial
from pathlib import Path

import pytest
from at_once import at_once
from demo_client import DemoClient, Refusal
from waiting import wait_until

from sam2fast.demo.server.app import SERVICE
from sam2fast.demo.server.demo_errors import BusyError
from sam2fast.demo.server.model_calls import TrackPlan
from sam2fast.demo.server.service import DemoService
from sam2fast.demo.server.sessions import Session, SessionStore
from sam2fast.video_io import VideoError


def test_the_number_of_sessions_is_limited(make_server):
    client = DemoClient(make_server(max_sessions=2, session_minutes=3).test_client())
    first, second = client.start(), client.start()
    assert len({first, second}) == 2
    refused = client.start()
    assert refused.code == "BUSY"
    assert "busy: 2 sessions of at most 2 are open; try again in about 3 minutes" in refused.message
    client.close(first)
    assert not isinstance(client.start(), Refusal)


def test_a_video_that_cannot_be_opened_leaves_no_session(make_server):
    app = make_server(max_sessions=1)
    client, library = DemoClient(app.test_client()), app.extensions[SERVICE].library
    (library.root / "gallery" / "broken.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(500))
    for _ in range(2):
        refused = client.start("gallery/broken.mp4")
        assert refused.code == "BAD_INPUT" and "gallery/broken.mp4 cannot be read as a video" in refused.message
    assert not isinstance(client.start(), Refusal)
    # It is not in the gallery either.
    videos = client.graphql("{videos{edges{node{path}}}}")["videos"]["edges"]
    assert [edge["node"]["path"] for edge in videos] == ["gallery/clip.mp4"]


def test_a_closed_session_closes_its_video(make_server):
    app = make_server()
    client = DemoClient(app.test_client())
    session = client.start()
    frames = app.extensions[SERVICE].sessions.get(session).state.frames
    client.close(session)

    def is_closed():
        try:
            frames[0]
        except VideoError as error:
            return "closed" in str(error)
        return False

    assert wait_until(is_closed)


def test_idle_sessions_expire_and_used_ones_do_not(make_server):
    gc.freeze()  # collections pass over what is older
    app = make_server(session_minutes=15)
    client, store = DemoClient(app.test_client()), app.extensions[SERVICE].sessions
    idle, used = client.start(), client.start()
    ended = store.get(idle)
    state = weakref.ref(ended.state)
    store.get(used).last_use -= 800
    assert 200 < client.http.post(f"/api/sessions/{used}/renew").get_json()["secondsLeft"] <= 900
    ended.last_use -= 1000
    store.sweep()
    assert len(store) == 1 and store.get(used)
    assert client.add(idle).code == "NO_SESSION"
    # The sweeper's thread may still be closing it.
    assert wait_until(lambda: gc.collect() is not None and state() is None)


def test_a_session_that_cannot_be_freed_does_not_block_others(caplog):
    freed = []

    def free(session: Session) -> None:
        freed.append(session.path)
        if session.path == "broken":
            raise RuntimeError("it cannot be freed")

    store = SessionStore(4, 0.1, free)
    for path in ("broken", "other"):
        store.add(Session(path, Path()))
        assert wait_until(lambda path=path: path in freed)  # a session is removed from the store before it is freed
        assert len(store) == 0
    assert wait_until(lambda: "it cannot be freed" in caplog.text)
    store.close_all()
    assert freed == ["broken", "other"] and "it cannot be freed" in caplog.text


def test_reading_the_status_does_not_renew_a_session(client, session, app):
    held = app.extensions[SERVICE].sessions.get(session)
    held.last_use -= 100
    assert client.facts(session)["secondsLeft"] == pytest.approx(800, abs=5)
    client.http.get(f"/api/sessions/{session}/frames/0.jpg")
    assert client.facts(session)["secondsLeft"] == pytest.approx(900, abs=5)


def queued(service: DemoService) -> int:
    """The number of waiting calls."""
    return service.model._executor._work_queue.qsize()


def test_closed_sessions_leave_no_objects(client, app):
    """Checks live objects, because the process's memory has other causes, too."""
    store, states = app.extensions[SERVICE].sessions, []
    gc.freeze()
    for number in range(30):
        session = client.start()
        states.append(weakref.ref(store.get(session).state))
        if number % 10 == 0:
            client.add(session)
        assert client.close(session)
    gc.collect()
    assert len(store) == 0
    assert [number for number, state in enumerate(states) if state() is not None] == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("Prefetch")]


def test_a_click_waits_only_for_earlier_calls(client, app, monkeypatch):
    """A click that arrives while the model is busy runs before the track's first frame, in the model's thread."""
    service, turns, go_on = app.extensions[SERVICE], [], threading.Event()
    tracking, clicking = client.start(), client.start()
    client.add(tracking)
    run = service.model._run

    def recorded(function, *arguments):
        turns.append(function.__name__)
        return run(function, *arguments)

    monkeypatch.setattr(service.model, "_run", recorded)
    click = (service.calls.add_points, clicking, 0, 1, [[0.3, 0.4]], [1], True)
    works = [
        partial(service.model.call, lambda: go_on.wait(60)),
        lambda: list(service.track(tracking, TrackPlan(0))),
        partial(service.call, *click),
    ]
    threads = [threading.Thread(target=work) for work in works]
    for number, thread in enumerate(threads):
        thread.start()
        assert wait_until(lambda number=number: turns and queued(service) == number)
    go_on.set()
    for thread in threads:
        thread.join(60)
    # The track's first turn prepares it, and the click comes before its first frame.
    assert turns[1:4] == ["begin_track", "add_points", "next_frame"] and turns.count("next_frame") > 5
    for session in (tracking, clicking):
        client.close(session)


def test_closing_while_others_track(client, app):
    """Closing a session during its track ends the track, from any thread."""
    service, failures = app.extensions[SERVICE], []
    sessions = [client.start() for _ in range(4)]
    for session in sessions:
        client.add(session)

    def track(session: str) -> None:
        try:
            for frame, _ in service.track(session, TrackPlan(0)):
                if frame == 1:
                    service.sessions.close(session)
        except Exception as error:
            failures.append(error)

    at_once(partial(service.sessions.close, sessions[0]), *(partial(track, session) for session in sessions))
    assert all("Cannot find session" in str(error) for error in failures) and len(failures) <= 1
    assert len(service.sessions) == 0


def test_a_closing_server_refuses_requests(make_server):
    app = make_server()
    client, service = DemoClient(app.test_client()), app.extensions[SERVICE]
    session = client.start()
    client.add(session)
    parts = client.begin_track(session)
    assert client.http.get("/ready").status_code == 200
    service.close()
    with pytest.raises(BusyError, match="shutting down"):  # the connection breaks off: it is not the video's end
        list(parts)
    assert client.http.get("/ready").status_code == 503
    assert client.http.get("/healthy").data == b"OK"
    assert client.start().code == "BUSY"
    assert client.add(session).code == "NO_SESSION"

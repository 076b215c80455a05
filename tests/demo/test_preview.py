"""Masks that are proposed before a click, and the order of calls in the model's thread."""

import threading

import numpy as np
import pytest
import torch
from waiting import wait_until

from sam2fast.demo.server.app import SERVICE
from sam2fast.demo.server.demo_errors import BusyError
from sam2fast.demo.server.model_thread import ModelThread
from sam2fast.io.rle import decode_rle

ON_SQUARE, ON_DISC = (16 / 64, 19 / 48), (50 / 64, 34 / 48)


@pytest.fixture(scope="module")
def predictor(nano_predictor):
    return nano_predictor


def preview(client, session, points, labels=None, frame=0, obj=1, **more):
    body = {"frameIndex": frame, "objectId": obj, "points": points, "labels": labels or [1] * len(points), **more}
    return client.http.post(f"/api/sessions/{session}/preview", json=body)


def proposed(*args, **more) -> list[np.ndarray]:
    masks = preview(*args, **more).get_json()["masks"]
    assert [mask["iou"] for mask in masks] == sorted((mask["iou"] for mask in masks), reverse=True)
    return [decode_rle({"size": mask["size"], "counts": mask["counts"]}) for mask in masks]


def test_a_preview_is_what_the_click_finds(client, session):
    three = proposed(client, session, [ON_SQUARE])
    assert len(three) == 3 and client.facts(session)["objects"] == []
    np.testing.assert_array_equal(three[0], client.add(session, [ON_SQUARE])[1])
    np.testing.assert_array_equal(proposed(client, session, [ON_SQUARE]), three)  # in place of the click
    (refined,) = proposed(client, session, [ON_SQUARE, ON_DISC], [1, 0], refine=True)
    assert client.facts(session)["framesWithMasks"] == [0]
    np.testing.assert_array_equal(refined, client.add(session, [ON_SQUARE, ON_DISC], [1, 0])[1])


def test_a_preview_of_a_correction_attends_to_memories(client, session):
    client.add(session, [ON_SQUARE])
    before = dict(client.track(session))
    corrected = proposed(client, session, [ON_DISC], frame=3, refine=True)
    np.testing.assert_array_equal(corrected[0], client.add(session, [ON_DISC], frame=3)[1])
    alone = proposed(client, session, [ON_DISC], frame=3, obj=2)
    assert any((mask != other).any() for mask, other in zip(corrected, alone, strict=True))
    again = dict(client.track(session, object_ids=[1]))
    np.testing.assert_array_equal(again[0][1], before[0][1])


def test_only_the_newest_refinement_is_computed_and_all_candidates(client, session, app):
    service = app.extensions[SERVICE]
    found, go_on = {}, threading.Event()

    def ask(number):
        found[number] = preview(client, session, [ON_SQUARE], refine=number > 1).get_json()["masks"]

    held = service.sessions.get(session)
    threads = [threading.Thread(target=service.model.call, args=(go_on.wait, 60))]
    threads[0].start()
    for number in (1, 2, 3):
        threads.append(threading.Thread(target=ask, args=(number,)))
        threads[-1].start()
        assert wait_until(lambda number=number: len(service.model._calls) == number)
    assert held.newest_preview == 2
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert len(found[1]) == 3 and found[2] == [] and len(found[3]) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frameIndex": 9}, "no frame 9"),
        ({"objectId": "1"}, "objectId '1'"),
        ({"points": [[2, 0]]}, "not in the image"),
        ({"points": [], "labels": []}, "at least 1"),
        ({"points": [1]}, "expected clicks such as"),
        ({"points": [[10**400, 0]]}, "expected clicks such as"),
        ({"labels": [1, 1]}, "2 labels"),
    ],
)
def test_invalid_previews_are_refused(client, session, change, message):
    answer = preview(client, session, [ON_SQUARE], **change) if "points" not in change else None
    if answer is None:
        body = {"frameIndex": 0, "objectId": 1, "points": [], "labels": [1], **change}
        answer = client.http.post(f"/api/sessions/{session}/preview", json=body)
    assert answer.status_code == 400 and message in answer.get_json()["error"]["message"]


def test_calls_go_before_the_frames_of_all_tracks_but_do_not_stop_them():
    thread, go_on, order = ModelThread(torch.device("cpu")), threading.Event(), []

    def start(send, name):
        threads.append(threading.Thread(target=send, args=(order.append, name)))
        threads[-1].start()
        count = len(threads) - 1
        assert wait_until(lambda: len(thread._calls) + len(thread._frames) == count)

    started = threading.Event()
    threads = [threading.Thread(target=thread.call, args=(lambda: (started.set(), go_on.wait(60)),))]
    threads[0].start()
    assert started.wait(60)  # what is counted below waits behind it
    for name in ("frame 1", "frame 2", "frame 3"):
        start(thread.track_frame, name)
    for name in ("click 1", "click 2", "click 3", "click 4"):
        start(thread.call, name)
    go_on.set()
    for one in threads:
        one.join(60)
    assert order == ["frame 1", "click 1", "frame 2", "click 2", "frame 3", "click 3", "click 4"]
    thread.close()


def test_closing_cancels_what_waits():
    thread, go_on, refused = ModelThread(torch.device("cpu")), threading.Event(), []

    def wait(send):
        try:
            send(lambda: None)
        except BusyError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=thread.call, args=(go_on.wait, 60))]
    threads += [threading.Thread(target=wait, args=(send,)) for send in (thread.call, thread.track_frame)]
    for one in threads:
        one.start()
    assert wait_until(lambda: thread._calls and thread._frames)
    thread.close()
    go_on.set()
    for one in threads:
        one.join(60)
    wait(thread.call)
    assert refused == ["the server is shutting down"] * 3

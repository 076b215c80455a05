"""Masks that are proposed before a click."""

import threading

import numpy as np
import pytest
from waiting import wait_until

from sam2fast.demo.server.app import SERVICE
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

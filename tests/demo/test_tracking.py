"""Clicks and tracks over HTTP give the predictor's results."""

import json
import logging
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from demo_client import ADD, CANCEL, CLEAR_FRAME, CLEAR_VIDEO, REMOVE, Refusal, masks_of, parts_of

from sam2fast.demo.server import serving
from sam2fast.demo.server.app import SERVICE
from sam2fast.demo.server.connections import set_timeouts
from sam2fast.demo.server.prompt_limits import MemoryBudget
from sam2fast.io.rle import decode_rle, encode_rle

FRAMES, HEIGHT, WIDTH = 5, 48, 64
ON_SQUARE, ON_DISC = (16 / WIDTH, 19 / HEIGHT), (50 / WIDTH, 34 / HEIGHT)
BOX_OF_DISC = ((41 / WIDTH, 25 / HEIGHT), (59 / WIDTH, 43 / HEIGHT))


class DirectPredictor:
    """The same calls on the predictor itself, in pixels."""

    def __init__(self, predictor: Any, source: Any) -> None:
        self.predictor, self.state = predictor, predictor.init_state(source)

    def add(self, frame: int = 0, obj: int = 1, **prompt: Any) -> dict[int, np.ndarray]:
        return self._masks(*self.predictor.add_new_points_or_box(self.state, frame, obj, **prompt)[1:])

    def track(self, **options: Any) -> Iterator[tuple[int, dict[int, np.ndarray]]]:
        for frame, ids, logits in self.predictor.propagate_in_video(self.state, progress=False, **options):
            yield frame, self._masks(ids, logits)

    @staticmethod
    def _masks(ids: list[int], logits: Any) -> dict[int, np.ndarray]:
        return {i: mask for i, mask in zip(ids, (logits[:, 0] > 0).numpy(), strict=True)}


@pytest.fixture(scope="module")
def predictor(nano_predictor):
    return nano_predictor


@pytest.fixture
def direct(predictor, clip_file) -> DirectPredictor:
    return DirectPredictor(predictor, clip_file)


def assert_same(found: dict[int, np.ndarray], expected: dict[int, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for obj, mask in expected.items():
        np.testing.assert_array_equal(found[obj], mask)


@pytest.mark.parametrize(
    ("clicks", "expected"),
    [
        ([([ON_SQUARE, ON_DISC], [1, 0])], [{"points": [[16, 19], [50, 34]], "labels": [1, 0]}]),
        ([([*BOX_OF_DISC, ON_DISC], [2, 3, 1])], [{"box": [41, 25, 59, 43], "points": [[50, 34]], "labels": [1]}]),
        (
            [([ON_SQUARE], [1]), ([ON_DISC], [0], False)],
            [{"points": [[16, 19]], "labels": [1]}, {"points": [[50, 34]], "labels": [0], "clear_old_points": False}],
        ),
        (
            [([ON_SQUARE], [1]), ([ON_DISC], [1])],
            [{"points": [[16, 19]], "labels": [1]}, {"points": [[50, 34]], "labels": [1]}],
        ),
    ],
    ids=["shares of the image", "labels 2 and 3 are a box", "added", "instead of earlier ones"],
)
def test_points(client, session, direct, clicks, expected):
    for points, labels, *clear in clicks:
        found = client.add(session, points, labels, clear=not clear)
    for prompt in expected:
        masks = direct.add(**prompt)
    assert_same(found, masks)
    assert found[1].shape == (HEIGHT, WIDTH) and found[1].any()


def test_masks_are_cocos_run_lengths(client, session, direct):
    prompt = {"frameIndex": 0, "clearOldPoints": True, "objectId": 1, "labels": [1], "points": [ON_SQUARE]}
    answer = client.mutate(ADD, sessionId=session, **prompt)
    mask = direct.add(points=[[16, 19]], labels=[1])[1]
    expected = {**encode_rle(mask), "order": "F"}
    assert answer == {"frameIndex": 0, "rleMaskList": [{"objectId": 1, "rleMask": expected}]}


def test_stream_is_the_originals_with_scores(client, session, direct):
    """Byte for byte, but for two more keys of each object."""
    client.add(session, [ON_SQUARE])
    answer = client.http.post("/propagate_in_video", json={"session_id": session, "start_frame_index": 0})
    assert answer.status_code == 200
    assert answer.content_type == "multipart/x-savi-stream; boundary=frame"

    direct.add(points=[[16, 19]], labels=[1])
    expected = b""
    for frame, _, logits, scores in direct.predictor.propagate_in_video(
        direct.state, start_frame_idx=0, progress=False, return_scores=True
    ):
        rle = encode_rle((logits[0, 0] > 0).numpy())
        mask = f'{{"size": [48, 64], "counts": {json.dumps(rle["counts"])}}}'
        found = f'"iou": {round(float(scores.iou[0]), 4)}, "object_score": {round(float(scores.object_score[0]), 4)}'
        body = f'{{"frame_index": {frame}, "results": [{{"object_id": 1, "mask": {mask}, {found}}}]}}'
        expected += (
            b"--frame\r\nContent-Type: application/json; charset=utf-8\r\nFrame-Current: -1\r\nFrame-Total: -1\r\n"
            b"Mask-Type: RLE[]\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body.encode()
        )
    assert answer.data == expected


def test_forwards_then_backwards_with_the_start_twice(client, session, direct):
    client.add(session, [ON_SQUARE], frame=3)
    client.add(session, BOX_OF_DISC, [2, 3], frame=0, obj=2)
    found = client.track(session, start=3)
    assert [frame for frame, _ in found] == [3, 4, 3, 2, 1, 0]

    direct.add(frame=3, points=[[16, 19]], labels=[1])
    direct.add(frame=0, obj=2, box=[41, 25, 59, 43])
    expected = [*direct.track(start_frame_idx=3), *direct.track(start_frame_idx=3, reverse=True)]
    for (_, masks), (_, truth) in zip(found, expected, strict=True):
        assert_same(masks, truth)


@pytest.mark.parametrize(
    ("start", "more", "frames"),
    [
        (0, {}, [0, 1, 2, 3, 4]),
        (3, {"direction": "forward"}, [3, 4]),
        (1, {"direction": "backward"}, [1, 0]),
        (0, {"direction": "backward"}, []),
        (4, {"direction": "both"}, [4, 4, 3, 2, 1, 0]),
        (2, {"direction": "forward", "end_frame_index": 3}, [2, 3]),
        (2, {"direction": "forward", "end_frame_index": 2}, [2]),
        (2, {"direction": "backward", "end_frame_index": 1}, [2, 1]),
    ],
)
def test_order_of_frames(client, session, start, more, frames):
    client.add(session, frame=start)
    assert [frame for frame, _ in client.track(session, start, **more)] == frames
    assert client.facts(session)["trackedFrames"] == sorted(set(frames))


def test_nothing_to_track(client, session):
    assert client.track(session)[:2] == (409, "NOTHING_TO_TRACK")
    client.add(session)
    client.mutate(CLEAR_FRAME, sessionId=session, frameIndex=0, objectId=1)
    assert client.track(session)[:2] == (409, "NOTHING_TO_TRACK")


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"session_id": None}, "session_id"),
        ({"start_frame_index": 5}, "no frame 5"),
        ({"start_frame_index": "0"}, "start_frame_index"),
        ({"direction": "up"}, "direction"),
        ({"end_frame_index": 3}, "end_frame_index is 3"),
        ({"end_frame_index": 1, "start_frame_index": 2, "direction": "forward"}, "end_frame_index is 1"),
        ({"end_frame_index": 9, "direction": "forward"}, "no frame 9"),
        ({"end_frame_index": "3", "direction": "forward"}, "end_frame_index"),
        ({"object_ids": [7]}, "no object 7"),
        ({"object_ids": []}, "object_ids"),
        ({"object_ids": [True]}, "object_ids"),
        ({"object_ids": 1}, "object_ids"),
    ],
    ids=str,
)
def test_wrong_tracks_are_refused_before_the_stream(client, session, body, word):
    client.add(session)
    answer = client.http.post("/propagate_in_video", json={"session_id": session, **body})
    error = answer.get_json()["error"]
    assert (answer.status_code, error["code"]) == (400, "BAD_INPUT") and word in error["message"]
    assert client.facts(session)["trackedFrames"] == []


@pytest.mark.parametrize(
    ("end", "tracked"),
    [
        (lambda client, session: client.mutate(CANCEL, sessionId=session) == {"success": True}, [0]),
        (lambda client, session: len(client.track(session)) == FRAMES, list(range(FRAMES))),
        (lambda client, session: client.mutate(CLEAR_VIDEO, sessionId=session) == {"success": True}, []),
        (lambda client, session: client.close(session) and not client.close(session), None),
    ],
    ids=["cancelled", "replaced by another", "cleared", "closed"],
)
def test_what_ends_a_track(client, session, end, tracked):
    client.add(session)
    parts = client.begin_track(session)
    assert end(client, session)
    assert list(parts) == []
    if tracked is not None:
        facts = client.facts(session)
        assert facts["isTracking"] is False and facts["trackedFrames"] == tracked
        assert facts["objects"] == [1][: len(tracked)] and facts["framesWithMasks"] == tracked
        client.add(session)
        assert len(client.track(session)) == FRAMES


def test_a_closed_stream_ends_its_track(client, session, app):
    client.add(session)
    stream = client.begin_track(session)
    assert client.facts(session)["isTracking"] is True
    stream.close()
    facts = client.facts(session)
    assert facts["isTracking"] is False and facts["trackedFrames"] == [0] and facts["problem"] is None
    app.extensions[SERVICE].model.call(lambda: None)  # the model's thread is free


def test_a_slow_client_delays_no_other(client, session):
    client.add(session)
    parts = client.begin_track(session)  # and pauses
    other = client.start()
    client.add(other)
    assert len(client.track(other)) == FRAMES
    assert len(list(parts)) == FRAMES - 1
    client.close(other)


def test_a_stalled_client_times_out():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        set_timeouts(ours, receive=0.05, send=0.1)
        for wait in (lambda: ours.recv(1), lambda: ours.sendall(bytes(1 << 24))):
            with pytest.raises(BlockingIOError) as timed_out:
                wait()
    raised = timed_out.type, timed_out.value, timed_out.tb
    record = logging.LogRecord("gunicorn.error", logging.ERROR, "", 0, "", (), raised)
    assert not serving._is_logged(record)
    record.exc_info = None
    assert serving._is_logged(record)


def test_removing_an_object_returns_the_others_on_its_prompted_frames(client, session):
    client.add(session, [ON_SQUARE], obj=1)
    both = client.add(session, [ON_DISC], obj=2)
    client.add(session, [ON_DISC], frame=3, obj=2)
    answer = client.mutate(REMOVE, sessionId=session, objectId=2)
    assert [entry["frameIndex"] for entry in answer] == [0, 3]
    assert_same(masks_of(answer[0]), {1: both[1]})
    assert not masks_of(answer[1])[1].any()
    assert client.facts(session)["framesWithMasks"] == [0]  # the other frame has no prompts left
    assert client.mutate(REMOVE, sessionId=session, objectId=2) == []
    assert client.mutate(REMOVE, sessionId=session, objectId=1) == []
    assert client.facts(session)["framesWithMasks"] == []


def test_clearing_a_frame_returns_the_remaining_masks(client, session):
    client.add(session, [ON_SQUARE], obj=1)
    both = client.add(session, [ON_DISC], obj=2)
    left = masks_of(client.mutate(CLEAR_FRAME, sessionId=session, frameIndex=0, objectId=2))
    assert_same(left, {1: both[1], 2: np.zeros((HEIGHT, WIDTH), dtype=bool)})
    assert client.facts(session)["framesWithMasks"] == [0]
    # Replacing the points by none is the same as clearing them.
    assert not client.add(session, [], [], obj=1)[1].any()
    assert client.facts(session)["framesWithMasks"] == []


def test_clearing_an_object_ends_the_track(client, session):
    """The track could not go on: nothing shows the object."""
    client.add(session, [ON_SQUARE], obj=1)
    client.add(session, [ON_DISC], obj=2)
    client.add(session, [ON_DISC], frame=3, obj=2)
    for frame, tracks in ((0, True), (3, False)):
        parts = client.begin_track(session)
        client.mutate(CLEAR_FRAME, sessionId=session, frameIndex=frame, objectId=2)
        assert (len(list(parts)) == FRAMES - 1) == tracks
        assert client.facts(session)["problem"] is None


def test_corrections_stay_when_the_video_is_tracked_again(client, session):
    client.add(session, [ON_SQUARE])
    client.track(session)
    corrected = client.add(session, BOX_OF_DISC, [2, 3], frame=3)
    again = dict(client.track(session))
    np.testing.assert_array_equal(again[3][1], corrected[1])


def test_corrections_keep_other_masks_whose_results_were_dropped(client, session, app, monkeypatch):
    calls = app.extensions[SERVICE].calls
    # Three tracked frames of each of two objects.
    monkeypatch.setattr(calls, "_budget", MemoryBudget(results=9, reach=2))
    client.add(session, [ON_SQUARE], obj=1)
    client.add(session, BOX_OF_DISC, [2, 3], obj=2)
    tracked = dict(client.track(session))
    state = app.extensions[SERVICE].sessions.get(session).state
    assert 1 not in state.objects[2].tracked and tracked[1][2].any()
    corrected = client.add(session, BOX_OF_DISC, [2, 3], frame=1, obj=1)
    np.testing.assert_array_equal(corrected[2], tracked[1][2])
    assert (corrected[1] != tracked[1][1]).any()
    left = masks_of(client.mutate(CLEAR_FRAME, sessionId=session, frameIndex=1, objectId=1))
    assert_same(left, {1: np.zeros_like(corrected[1]), 2: corrected[2]})
    (answer,) = client.mutate(REMOVE, sessionId=session, objectId=1)
    assert answer["frameIndex"] == 0 and client.facts(session)["framesWithMasks"] == list(range(FRAMES))


def test_an_object_added_during_a_track_keeps_its_mask(client, session, app):
    client.add(session, [ON_SQUARE], obj=1)
    parts = client.begin_track(session)
    new = client.add(session, BOX_OF_DISC, [2, 3], frame=2, obj=2)
    assert b'"object_id": 2' not in b"".join(parts)
    answer = client.http.get(f"/api/sessions/{session}/export?format=coco_rle")
    assert answer.headers["Content-Disposition"] == "attachment; filename=clip_youtube_vis.json"
    export = answer.get_json()
    assert [export["videos"][0][key] for key in ("height", "width", "length")] == [HEIGHT, WIDTH, FRAMES]
    (found,) = [annotation for annotation in export["annotations"] if annotation["object"] == 2]
    assert [rle is not None for rle in found["segmentations"]] == [False, False, True, False, False]
    np.testing.assert_array_equal(decode_rle(found["segmentations"][2]), new[2])


def test_session_status(client, session):
    client.add(session, frame=2)
    facts = client.facts(session)
    assert {name: facts[name] for name in ("path", "fps", "numFrames", "width", "height", "objects")} == {
        "path": "gallery/clip.mp4", "fps": 25.0, "numFrames": 5, "width": 64, "height": 48, "objects": [1],
    }  # fmt: skip
    assert facts["framesWithMasks"] == [2] and facts["trackedFrames"] == []
    client.track(session, 2)
    assert client.facts(session)["trackedFrames"] == list(range(FRAMES))


def test_unknown_sessions(client):
    for answer in (
        client.add("nobody"),
        client.mutate(REMOVE, sessionId="nobody", objectId=1),
        client.mutate(CLEAR_VIDEO, sessionId="nobody"),
        client.mutate(CANCEL, sessionId="nobody"),
        client.mutate(CLEAR_FRAME, sessionId="nobody", frameIndex=0, objectId=1),
    ):
        assert answer == Refusal(200, "NO_SESSION", answer.message)
        assert "Cannot find session 'nobody'" in answer.message and "expired" in answer.message
    assert client.track("nobody")[:2] == (404, "NO_SESSION")
    for path in ("", "/export?format=coco_rle", "/frames/0.jpg"):
        answer = client.http.get(f"/api/sessions/nobody{path}")
        assert (answer.status_code, answer.get_json()["error"]["code"]) == (404, "NO_SESSION")
    assert client.http.post("/api/sessions/nobody/renew").status_code == 404
    assert client.close("nobody") is False


def test_only_some_objects_are_tracked(client, session):
    """Their masks are those of a track of all objects; the masks of the others stay."""
    client.add(session, [ON_SQUARE], obj=1)
    client.add(session, BOX_OF_DISC, [2, 3], obj=2)
    whole = dict(client.track(session))
    client.add(session, [ON_DISC], obj=1, frame=3)
    part = dict(client.track(session, object_ids=[2]))
    for frame, masks in part.items():
        assert_same(masks, {2: whole[frame][2]})
    assert client.facts(session)["objects"] == [1, 2]
    assert_same(dict(client.track(session))[4], {1: dict(client.track(session))[4][1], 2: whole[4][2]})


@pytest.mark.parametrize(("removed", "left"), [([2], [3]), ([2, 3], [])])
def test_selected_objects_that_are_removed_meanwhile(client, session, removed, left):
    """The track goes on with the others, also in the second direction, and ends if there are none."""
    for obj, point in ((1, ON_SQUARE), (2, ON_DISC), (3, ON_DISC)):
        client.add(session, [point], obj=obj)
    parts = client.begin_track(session, object_ids=[2, 3])
    for obj in removed:
        client.mutate(REMOVE, sessionId=session, objectId=obj)
    found = [sorted(masks) for _, masks in parts_of(b"".join(parts))]
    assert found == [left] * len(found) and len(found) == (FRAMES - 1 if left else 0)
    facts = client.facts(session)
    assert facts["problem"] is None and facts["objects"] == [1, *left]

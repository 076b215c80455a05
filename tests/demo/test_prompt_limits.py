"""Invalid prompts are refused with a message and change nothing."""

import copy
import json

import pytest
from demo_client import CLEAR_FRAME, DemoClient, Refusal

from sam2fast.demo.server.prompt_limits import MAX_POINTS, MemoryBudget

P = [0.3, 0.4]


@pytest.mark.parametrize(
    ("points", "labels", "message"),
    [
        ([P], [], "1 points and 0 labels"),
        ([[0.3]], [1], "a point has 1 numbers"),
        ([[1.2, 0.4]], [1], "[1.2, 0.4] is not in the image"),
        ([[480, 320]], [1], "shares of its width and height"),
        ([P], [4], "no label 4"),
        ([P] * (MAX_POINTS + 1), [1] * (MAX_POINTS + 1), f"{MAX_POINTS + 1} points are too many"),
        ([P], [2], "one pair of labels"),
        ([P, [0.5, 0.5]], [3, 2], "one pair of labels"),
        ([P, P, [0.5, 0.5]], [1, 2, 3], "before all other points"),
        ([P, [0.5, 0.5], P, [0.5, 0.5]], [2, 3, 2, 3], "one pair of labels"),
        ([[0.5, 0.5], P], [2, 3], "the corners of the box are swapped"),
    ],
)
def test_points(client, session, points, labels, message):
    refused = client.add(session, points, labels)
    assert isinstance(refused, Refusal) and refused.code == "BAD_INPUT" and message in refused.message
    assert client.facts(session)["objects"] == []


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", '"0.5"', "null", "true", "[0.5]"])
def test_invalid_numbers(client, session, number):
    fields = {"sessionId": session, "frameIndex": 0, "clearOldPoints": True, "objectId": 1, "labels": [1]}
    body = json.dumps(
        {
            "query": "mutation($i:AddPointsInput!){addPoints(input:$i){frameIndex}}",
            "variables": {"i": {**fields, "points": [["X", 0.5]]}},
        }
    ).replace('"X"', number)
    answer = client.http.post("/graphql", data=body, content_type="application/json")
    (error,) = answer.get_json()["errors"]
    assert "Float" in error["message"] and "points" in error["message"]
    assert client.facts(session)["objects"] == []


@pytest.mark.parametrize("frame", [-1, 5, 2**31 - 1])
def test_frames(client, session, frame):
    for refused in (
        client.add(session, frame=frame),
        client.mutate(CLEAR_FRAME, sessionId=session, frameIndex=frame, objectId=1),
    ):
        assert refused.code == "BAD_INPUT" and f"no frame {frame} in this video; its frames are 0 to 4" in refused[2]
    answer = client.http.get(f"/api/sessions/{session}/frames/{frame}.jpg")
    assert answer.status_code == 404
    assert client.facts(session)["objects"] == []


def test_objects(client, session):
    client.add(session)
    refused = client.mutate(CLEAR_FRAME, sessionId=session, frameIndex=0, objectId=9)
    assert refused.code == "BAD_INPUT" and "no object 9 in this session; the objects are: 1" in refused.message


def test_a_box_cannot_be_added_to_earlier_points(client, session):
    before = client.add(session, [P])
    refused = client.add(session, [P, [0.5, 0.5]], [2, 3], clear=False)
    assert "a box cannot be added to earlier points" in refused.message
    joined = client.add(session, [P, P], [1, 1], clear=False)
    assert list(joined) == list(before) == [1]
    client.add(session, [P] * (MAX_POINTS - 3), [1] * (MAX_POINTS - 3), clear=False)
    assert "too many" in client.add(session, [P], clear=False).message


def test_memory_limits_objects_and_prompts(make_server):
    tight = DemoClient(make_server(session_megabytes=2).test_client())
    session, limits = tight.start(), tight.http.get("/api/limits").get_json()
    limit = limits["maxObjects"]
    # A result takes 21 KiB here; tracking an object needs its last 15 results; prompts get as many again.
    assert limit == 3
    for obj in range(limit):
        tight.add(session, obj=obj)
    refused = tight.add(session, obj=limit)
    assert refused.code == "TOO_MANY" and f"this session may have {limit} objects" in refused.message
    assert tight.facts(session)["objects"] == list(range(limit))
    tight.add(session, obj=0, frame=1)


@pytest.mark.parametrize(("strategy", "limits"), [("sam2", [3, 3, 3]), ("samurai", [3, 2, 1])])
def test_a_strategy_that_looks_further_keeps_all_frames_of_each_object(strategy, limits, predictor):
    served = copy.copy(predictor)
    served.strategy = strategy
    budget = MemoryBudget.of(served, 2)
    assert [budget.objects(num_frames) for num_frames in (5, 24, 240)] == limits

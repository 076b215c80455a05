"""Malformed requests get clear errors and do not harm the server."""

import json
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from demo_client import DemoClient
from graphql import (
    GraphQLInputObjectType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLSchema,
    build_schema,
    get_introspection_query,
    get_named_type,
)

from sam2fast.demo.server.app import SERVICE
from sam2fast.demo.server.graphql_api import make_schema

DEEP = 3000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'"{defaultVideo{path}}"',
        b"{",
        b"\xff\xfe\x00",
        b'{"query": 3}',
        b'{"query": ""}',
        b'{"query": "{"}',
        b'{"query": "{defaultVideo{nothing}}"}',
        b'{"query": "mutation{startSession{sessionId}}"}',
        b'{"query": "{defaultVideo{path}}", "variables": []}',
        b'{"query": "query A{defaultVideo{path}}", "operationName": "B"}',
        b'{"query": "fragment F on Video{...F} {defaultVideo{...F}}"}',
        b'[{"query": "{defaultVideo{path}}"}]',
        b"[" * DEEP + b"]" * DEEP,
        b'{"query": "' + b"{a" * DEEP + b"}" * DEEP + b'"}',
        b'{"query": "{' + b"a" * 30_000 + b'}"}',
    ],
    ids=lambda body: body[:40].decode("ascii", "replace"),
)
def test_bodies(client, body):
    answer = client.http.post("/graphql", data=body, content_type="application/json")
    body = answer.get_json()
    assert answer.status_code in (200, 400) and body["errors"][0]["message"]
    assert "Traceback" not in answer.get_data(as_text=True)
    assert client.graphql("{defaultVideo{path}}")["defaultVideo"]["path"] == "gallery/clip.mp4"


def test_requests_of_other_kinds(client):
    query = "{defaultVideo{path}}"
    for answer in (
        client.http.get("/graphql", query_string={"query": query}),
        client.http.get("/graphql", headers={"Accept": "text/html"}),
        client.http.post("/graphql", data=query, content_type="text/plain"),
        client.http.post("/graphql", data=query, content_type="application/graphql"),
        client.http.post("/graphql", data=b"x", content_type="multipart/form-data"),
        client.http.post("/graphql", data=b"--x\r\nbroken", content_type="multipart/form-data; boundary=x"),
        client.http.post("/graphql", data={"operations": "{", "map": "{}"}, content_type="multipart/form-data"),
        client.http.post("/graphql", data={"operations": "{}", "map": "[1]"}, content_type="multipart/form-data"),
        client.http.post("/graphql", data={"operations": "[]", "map": "{}"}, content_type="multipart/form-data"),
        client.http.post("/graphql", data={"map": '{"a":["b"]}'}, content_type="multipart/form-data"),
    ):
        assert 400 <= answer.status_code < 500, answer.data
        assert answer.get_json()["errors"][0]["message"]
    for method in ("put", "delete", "patch"):
        assert getattr(client.http, method)("/graphql").status_code == 405


def test_bodies_of_the_stream_route(client):
    for body in (b"", b"{", b"null", b"[" * DEEP, b'{"session_id": "' + b"x" * 10_000 + b'"}', b"\xff", b"1" * 5000):
        answer = client.http.post("/propagate_in_video", data=body)
        error = answer.get_json()["error"]
        assert answer.status_code in (400, 404) and error["code"] in ("BAD_INPUT", "NO_SESSION")
        assert 10 < len(error["message"]) < 300


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x"])
def test_only_files_may_be_large(client, kind):
    """Routes without files refuse large bodies of any content type."""
    answer = client.http.post("/propagate_in_video", data=bytes((1 << 20) + 1), content_type=kind)
    expected = {"code": "TOO_LARGE", "message": "the request is too large; it may have 1 MB"}
    assert (answer.status_code, answer.get_json()["error"]) == (413, expected)


def test_queries_are_small(client):
    """Reading a megabyte of points takes GraphQL seconds, in which all threads are slow."""
    points = [[0.123456789012345, 0.123456789012345]] * 256
    query = "mutation($input: AddPointsInput!){addPoints(input: $input){frameIndex}}"

    def ask(points: list[list[float]], is_form: bool) -> tuple[int, dict[str, Any]]:
        prompt = {"sessionId": "x", "frameIndex": 0, "objectId": 1, "labels": [1] * len(points), "points": points}
        text = json.dumps({"query": query, "variables": {"input": {**prompt, "clearOldPoints": True}}})
        body = {"data": {"operations": text, "map": "{}"}, "content_type": "multipart/form-data"}
        answer = client.http.post(
            "/graphql", **(body if is_form else {"data": text, "content_type": "application/json"})
        )
        (error,) = answer.get_json()["errors"]
        return answer.status_code, {"code": error["extensions"]["code"], "message": error["message"]}

    for is_form, what in ((False, "request"), (True, "query")):
        assert ask(points, is_form)[1]["code"] == "NO_SESSION"
        expected = {"code": "TOO_LARGE", "message": f"the {what} is too large; it may have 32 kB"}
        assert ask(points * 8, is_form) == (413, expected)


def test_expensive_queries_are_refused(client):
    aliases = " ".join(f"a{number}:defaultVideo{{path}}" for number in range(20))
    assert "aliases" in client.graphql(f"{{{aliases}}}").message
    tokens = "path " * 3000
    assert "token" in client.graphql(f"{{defaultVideo{{{tokens}}}}}").message.lower()
    # Introspection can be nested in circles, whose answers grow with every round.
    circles = "fields{type{" * 6 + "name" + "}}" * 6
    assert "introspection" in client.graphql(f"{{__schema{{types{{{circles}}}}}}}").message.lower()


def _chain(length: int, last: str, spreads: int = 2) -> str:
    """A query of fragments that each spread the next one several times."""
    fragments = (f"fragment f{i} on Query{{{f'...f{i + 1} ' * spreads}}}" for i in range(length))
    return "{...f0}" + " ".join(fragments) + f" fragment f{length} on Query{{{last}}}"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (_chain(15, "defaultVideo{path}"), "more than 500 selections"),
        (_chain(15, "...f0"), "more than 500 selections"),
        (_chain(40, "defaultVideo{path}"), "more than 20 levels"),
        (_chain(200, "defaultVideo{path}", 1), "more than 20 levels"),
        ("{" + "defaultVideo{path} " * 400 + "}", "more than 500 selections"),
        ("{" + "defaultVideo{path} " * 120 + "}", "more than 40 fields of the same name"),
        ("{" + "videos{edges{node{path}}} " * 41 + "}", "more than 40 fields of the same name"),
        ("{...f0}" + "".join(f"fragment f{i} on Query{{__typename}}" for i in range(41)), "more than 40 fields of"),
        ("{a" * 30 + "}" * 30, "more than 20 levels"),
        (_chain(1, "a:defaultVideo{path} b:defaultVideo{path}"), "more than 5 aliases"),
        ("{...nowhere ...nowhere}", "Unknown fragment 'nowhere'"),
        (_chain(2, "...f0"), "Cannot spread fragment 'f0' within itself"),
    ],
    ids=lambda text: text[:30],
)
def test_bombs_are_refused_at_once(client, query, message):
    assert message in client.graphql(query).message


def test_queries_are_validated_one_at_a_time(client, monkeypatch):
    """Several at a time would delay all other threads."""
    inside, most = [], []
    strawberry_schema = sys.modules["strawberry.schema.schema"]
    validate = strawberry_schema.validate_document

    def observed(*args):
        inside.append(1)
        most.append(len(inside))
        try:
            time.sleep(0.02)
            return validate(*args)
        finally:
            inside.pop()

    monkeypatch.setattr(strawberry_schema, "validate_document", observed)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: client.graphql("{defaultVideo{path}}"), range(8)))
    assert len(most) == 8 and max(most) == 1
    assert all(answer["defaultVideo"]["path"] for answer in answers)


def test_the_introspection_query_of_clients_is_answered(client):
    assert client.graphql(get_introspection_query(descriptions=True))["__schema"]["types"]


def test_internal_errors_are_not_described(client, app, monkeypatch, caplog):
    def fail(*_: Any) -> None:
        raise RuntimeError("the password is swordfish")

    monkeypatch.setattr(app.extensions[SERVICE].library, "gallery", fail)
    refused = client.graphql("{videos{edges{cursor}}}")
    assert refused.message == "the server failed; its log says more"
    monkeypatch.setattr(app.extensions[SERVICE].sessions, "get", fail)
    answer = client.http.get("/api/sessions/x")
    assert answer.status_code == 500
    assert answer.get_json()["error"] == {"code": "INTERNAL", "message": "the server failed; its log says more"}
    assert caplog.text.count("swordfish") >= 2


class Fuzzer:
    """Calls random fields of the schema with random values, mostly ``valid`` ones by argument name."""

    def __init__(self, schema: GraphQLSchema, seed: int, valid: dict[str, list[Any]]) -> None:
        self.schema, self.random, self.valid = schema, random.Random(seed), valid

    def request(self) -> tuple[str, dict[str, Any]]:
        """A query and its variables."""
        root = self.random.choice([self.schema.query_type, self.schema.mutation_type, self.schema.mutation_type])
        name, field = self.random.choice(list(root.fields.items()))
        variables, declared, passed = {}, [], []
        for argument, kind in field.args.items():
            if isinstance(kind.type, GraphQLNonNull) or self.random.random() < 0.5:
                declared.append(f"${argument}:{kind.type}")
                passed.append(f"{argument}:${argument}")
                variables[argument] = self.value(argument, kind.type)
        head = "query" if root is self.schema.query_type else "mutation"
        signature = f"({','.join(declared)})" if declared else ""
        call = f"{name}({','.join(passed)})" if passed else name
        return f"{head}{signature}{{{call}{self.selection(get_named_type(field.type))}}}", variables

    def selection(self, kind: Any) -> str:
        fields = getattr(kind, "fields", None)
        if not fields:
            return ""
        chosen = self.random.sample(sorted(fields), self.random.randint(1, len(fields)))
        return "{" + " ".join(name + self.selection(get_named_type(fields[name].type)) for name in chosen) + "}"

    def value(self, name: str, kind: Any) -> Any:
        if self.random.random() < 0.03:
            return self.random.choice([None, [], {}, "", -1, 1e300, True, "x" * 5000, [[[[]]]]])
        if isinstance(kind, GraphQLNonNull):
            return self.value(name, kind.of_type)
        if isinstance(kind, GraphQLList):
            return [self.value(name, kind.of_type) for _ in range(self.random.choice([0, 1, 1, 1, 2, 2, 3]))]
        if isinstance(kind, GraphQLInputObjectType):
            return {field: self.value(field, content.type) for field, content in kind.fields.items()}
        if name in self.valid and self.random.random() < 0.8:
            return self.random.choice(self.valid[name])
        return {
            "String": lambda: self.random.choice(["", "../..", "gallery/clip.mp4", "\0", "🜚", "a" * 1000, "null"]),
            "Int": lambda: self.random.choice([0, 1, 2, 3, -1, 2**31 - 1, -(2**31), 2**40]),
            "Float": lambda: self.random.choice([0.0, 0.3, 0.5, 1.0, -0.1, 1e9, -1e308, 5e-324]),
            "Boolean": lambda: self.random.random() < 0.5,
        }.get(kind.name, lambda: self.random.choice([None, "file", 3]))()


def test_random_calls_get_answers(make_server):
    app = make_server(max_sessions=4)
    client, service = DemoClient(app.test_client()), app.extensions[SERVICE]
    valid: dict[str, list[Any]] = {"path": ["gallery/clip.mp4"], "sessionId": [client.start() for _ in range(2)]}
    valid |= {"labels": [0, 1], "points": [0.2, 0.5], "frameIndex": [0, 1, 4], "objectId": [0, 1]}
    fuzzer = Fuzzer(build_schema(make_schema().as_str()), 0, valid)
    answered, refused = 0, set()
    for _ in range(200):
        query, variables = fuzzer.request()
        answer = client.http.post("/graphql", data=json.dumps({"query": query, "variables": variables}),
                                  content_type="application/json")  # fmt: skip
        assert answer.status_code == 200, (query, variables, answer.data)
        body = answer.get_json()
        answered += "errors" not in body
        for error in body.get("errors", ()):
            assert error.get("extensions", {}).get("code") != "INTERNAL" and "the server failed" not in error["message"]
            refused.add(error["message"][:30])
        for session in service.sessions._sessions.values():
            for masks in session.masks.values():
                assert all(mask.rle["size"] == [48, 64] for mask in masks.values())
    assert answered > 20 and len(refused) > 10
    assert client.http.get("/ready").status_code == 200

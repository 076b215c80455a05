"""The web demo still answers others while clients attack it; all attacks are on the loopback, and bounded."""

import contextlib
import http.client
import json
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from demo_process import DemoProcess, serving

SECONDS = 4.0  # of each attack
CLIENTS = 520  # without the token; more than the server has threads
HOST = b"Host: 127.0.0.1\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoProcess]:
    with serving(tmp_path_factory.mktemp("data"), "--model", "nano") as one:
        yield one


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoProcess]:
    with serving(tmp_path_factory.mktemp("data"), "--model", "nano", "--token", "abc123") as one:
        yield one


@contextlib.contextmanager
def connections(server: DemoProcess, count: int, first: bytes) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(_connect(server, first)) for _ in range(count)]


def _connect(server: DemoProcess, first: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    connection.sendall(first)
    return connection


def drip(clients: list[socket.socket], more: bytes) -> None:
    for one in clients:
        with contextlib.suppress(OSError):  # the server has closed it
            one.send(more)


def delay(server: DemoProcess, meanwhile: Callable[[], object]) -> float:
    """Returns the median seconds of answers during :data:`SECONDS`; the first may wait for hundreds of refusals."""
    seconds, end = [], time.monotonic() + SECONDS
    while time.monotonic() < end:
        meanwhile()
        seconds.append(_seconds_of_answer(server))
        time.sleep(0.2)
    return statistics.median(seconds)


def limit(server: DemoProcess) -> float:
    """Returns the allowed delay, measured before the attack: two seconds, or more on busy processors."""
    with connections(server, CLIENTS, b"GET /healthy HTTP/1.1\r\n" + HOST + b"\r\n"):
        return 2 + 5 * _seconds_of_answer(server)


def _seconds_of_answer(server: DemoProcess) -> float:
    begin = time.monotonic()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as client:
        client.request("GET", "/healthy")
        assert client.getresponse().status == 200
    return time.monotonic() - begin


HEADERS = b"GET /healthy HTTP/1.1\r\n" + HOST + b"X: "
BODY = b"POST /graphql HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"


@pytest.mark.parametrize(
    ("count", "first", "more"),
    [(60, HEADERS, b"x"), (60, BODY, b" "), (400, b"", b"")],
    ids=["headers", "bodies", "idle"],
)
def test_slow_clients(server, count, first, more):
    """They send a byte five times a second, or nothing."""
    allowed = limit(server)
    with connections(server, count, first) as slow:
        assert delay(server, lambda: drip(slow, more)) < allowed


@pytest.mark.parametrize(("first", "answer"), [(HEADERS, b""), (BODY, b"HTTP/1.1 400 ")], ids=["headers", "bodies"])
def test_what_drips_is_cut_off(server, first, answer):
    """Headers without an answer."""
    with connections(server, 1, first) as (slow,):
        end, found = time.monotonic() + 40, None
        slow.settimeout(0.5)
        with contextlib.suppress(ConnectionError):
            while not found and time.monotonic() < end:
                slow.sendall(b" ")
                with contextlib.suppress(TimeoutError):
                    found = slow.recv(1000)
        assert time.monotonic() < end and (found or b"").startswith(answer)


@pytest.mark.parametrize(
    ("first", "more"),
    [
        (b"POST /graphql HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000\r\n\r\n", b"x"),
        (b"POST /graphql HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000\r\nExpect: 100-continue\r\n\r\n", b"x"),
        (b"POST /healthy HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000\r\n\r\n", b"x"),
        (b"GET /healthy HTTP/1.1\r\n" + HOST + b"\r\nGET /healthy HTTP/1.1\r\nX: ", b"x"),
        (b"\r\n\r\nGET /healthy", b"x"),
    ],
    ids=["length", "chunks", "continue", "public path", "second request", "empty lines"],
)
def test_clients_without_the_token_that_drip(guarded, first, more):
    allowed = limit(guarded)
    with connections(guarded, CLIENTS, first) as slow:
        assert delay(guarded, lambda: drip(slow, more)) < allowed


def test_a_refused_request_is_closed_after_its_answer(guarded):
    head = b"POST /graphql HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n"
    with connections(guarded, 1, head % 9000000) as (slow,):
        slow.sendall(bytes(1000))
        slow.settimeout(5)
        answer = b""
        while block := slow.recv(10000):
            answer += block
        assert answer.startswith(b"HTTP/1.1 401 ") and b"\r\nConnection: close\r\n" in answer
    # A client that first sends all of it gets the answer, too.
    with connections(guarded, 1, head % 3000000) as (large,):
        large.sendall(bytes(3000000))
        assert large.recv(10000).startswith(b"HTTP/1.1 401 ")


def test_a_slow_upload_arrives(guarded):
    """At 2 kB per second, for longer than a body without a minimum rate may take."""
    body = json.dumps({"query": "{__typename}", "padding": "x" * 24000}).encode()
    head = b"POST /graphql HTTP/1.1\r\n" + HOST + b"Authorization: Bearer abc123\r\nContent-Type: application/json\r\n"
    with connections(guarded, 1, head + b"Content-Length: %d\r\n\r\n" % len(body)) as (slow,):
        for place in range(0, len(body), 1000):
            slow.sendall(body[place : place + 1000])
            time.sleep(0.5)
        assert b"HTTP/1.1 200 OK" in slow.recv(1000)


def test_more_slow_bodies_than_threads(server):
    """Without a token all of them may send bodies; the last ones are refused, and health is answered."""
    allowed = limit(server)
    with connections(server, CLIENTS, BODY) as slow:
        assert delay(server, lambda: None) < allowed
        slow[-1].settimeout(5)
        answer = slow[-1].recv(1000)
        assert answer.startswith(b"HTTP/1.1 503 ") and b'"code":"BUSY"' in answer


def test_bombs_of_fragments(server):
    fragments = "".join(f"fragment f{i} on Query{{...f{i + 1} ...f{i + 1}}}" for i in range(40))
    body = json.dumps({"query": f"{{...f0}}{fragments}fragment f40 on Query{{defaultVideo{{path}}}}"}).encode()
    head = f"POST /graphql HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    answered = []

    def attack() -> None:
        with _connect(server, head.encode() + b"\r\n\r\n" + body) as connection:
            answered.append(b"HTTP/1.1 200" in connection.recv(1000))

    threads = [threading.Thread(target=attack) for _ in range(26)]
    allowed = limit(server)
    for thread in threads:
        thread.start()
    assert delay(server, lambda: None) < allowed
    for thread in threads:
        thread.join(60)
    assert answered == [True] * 26

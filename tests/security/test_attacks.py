"""The web demo while clients attack it: it answers others within two seconds.

All on the loopback, each attack bounded in connections and time.
"""

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from demo_process import DemoProcess, serving

pytestmark = pytest.mark.long

SECONDS = 4.0  # of each attack


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoProcess]:
    with serving(tmp_path_factory.mktemp("data"), "--model", "nano") as one:
        yield one


@contextlib.contextmanager
def connections(server: DemoProcess, count: int, first: bytes) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(_connect(server, first)) for _ in range(count)]


def _connect(server: DemoProcess, first: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    connection.sendall(first)
    return connection


def slowest_answer(server: DemoProcess, meanwhile: Callable[[], object]) -> float:
    """The seconds of the slowest of the answers to ``/healthy``, asked all the time."""
    slowest, end = 0.0, time.monotonic() + SECONDS
    while time.monotonic() < end:
        meanwhile()
        begin = time.monotonic()
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as client:
            client.request("GET", "/healthy")
            assert client.getresponse().status == 200
        slowest = max(slowest, time.monotonic() - begin)
        time.sleep(0.2)
    return slowest


def test_slow_headers(server):
    """60 clients send a byte of their headers five times a second."""
    with connections(server, 60, b"GET /healthy HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ") as slow:
        assert slowest_answer(server, lambda: [one.sendall(b"x") for one in slow]) < 2


def test_headers_that_never_end_are_cut_off(server):
    with connections(server, 1, b"GET /healthy HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ") as (slow,):
        begin = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() < begin + 40:
                slow.sendall(b"x")
                time.sleep(0.5)
        assert 10 < time.monotonic() - begin < 25


def test_idle_connections(server):
    with connections(server, 400, b""):
        assert slowest_answer(server, lambda: None) < 2


def test_slow_bodies(server):
    with connections(server, 60, b"POST /graphql HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n") as slow:
        assert slowest_answer(server, lambda: [one.sendall(b" ") for one in slow]) < 2


def test_bombs_of_fragments(server):
    fragments = "".join(f"fragment f{i} on Query{{...f{i + 1} ...f{i + 1}}}" for i in range(40))
    body = json.dumps({"query": f"{{...f0}}{fragments}fragment f40 on Query{{defaultVideo{{path}}}}"}).encode()
    head = f"POST /graphql HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    answered = []

    def attack() -> None:
        with _connect(server, head.encode() + b"\r\n\r\n" + body) as connection:
            answered.append(b"HTTP/1.1 200" in connection.recv(1000))

    threads = [threading.Thread(target=attack) for _ in range(26)]
    for thread in threads:
        thread.start()
    assert slowest_answer(server, lambda: None) < 2
    for thread in threads:
        thread.join(60)
    assert answered == [True] * 26

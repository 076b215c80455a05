"""The pace of requests, and which connections may be used again."""

import time
from types import SimpleNamespace

import pytest
from gunicorn.http.body import Body, ChunkedReader, LengthReader
from gunicorn.http.unreader import IterUnreader

from sam2fast.demo.server import connections


class Arriving:
    """A socket whose data arrives by a clock of its own."""

    def __init__(self, monkeypatch, blocks: list[tuple[float, int]]) -> None:
        self.now, self.blocks = 0.0, iter(blocks)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def recv(self, size: int) -> bytes:
        seconds, count = next(self.blocks)
        self.now += seconds
        return bytes(count)


def receive(socket: Arriving, blocks: int) -> int:
    paced = connections._PacedSocket(socket)
    return sum(len(paced.recv(1 << 16)) for _ in range(blocks))


def test_a_slow_line_is_fast_enough(monkeypatch):
    """1100 bytes per second, for 100 seconds."""
    assert receive(Arriving(monkeypatch, [(1.0, 1100)] * 100), 100) == 110_000


@pytest.mark.parametrize("first", [0, 1 << 20], ids=["from the beginning", "after a megabyte"])
def test_a_client_that_drips_is_too_slow(monkeypatch, first):
    socket = Arriving(monkeypatch, [(0.0, first), *[(3.0, 1)] * 20])
    with pytest.raises(TimeoutError, match="too slowly"):
        receive(socket, 21)
    assert socket.now <= connections.PACE_SECONDS + 3.0


def test_the_servers_own_work_does_not_count(monkeypatch):
    socket = Arriving(monkeypatch, [(0.1, 100)] * 50)
    paced = connections._PacedSocket(socket)
    for _ in range(50):
        assert len(paced.recv(1000)) == 100
        socket.now += 60  # the server writes to its disk


def test_an_unread_body_closes_the_connection():
    blocks = IterUnreader([b"abcdef"])
    request = SimpleNamespace(body=Body(LengthReader(blocks, 6)))
    assert connections._is_unread(request)
    request.body.read(6)
    assert not connections._is_unread(request)
    assert not connections._is_unread(SimpleNamespace(body=Body(LengthReader(blocks, 0))))
    message = SimpleNamespace(body=None, parse_headers=list)
    chunks = SimpleNamespace(body=Body(ChunkedReader(message, IterUnreader([b"3\r\nabc\r\n0\r\n\r\n"]))))
    assert connections._is_unread(chunks)
    assert chunks.body.read() == b"abc"
    assert not connections._is_unread(chunks)

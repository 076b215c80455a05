"""One file from a server that stalls, breaks off, lies about the length or refuses: whole, or not at all."""

import itertools
import re
import socket
from dataclasses import replace
from types import SimpleNamespace

import pytest
from checkpoint_faults import announce, cut, drip, reset, stall, status
from checkpoint_server import make_checkpoint

from sam2fast.downloads import transfer
from sam2fast.downloads.errors import SourceError
from sam2fast.downloads.progress import Progress

DATA = make_checkpoint()
HALF = 150_000


def test_a_file_arrives(server, fetch, left):
    server.add("/file.pt", DATA)
    assert fetch().read_bytes() == DATA
    assert left() == ["file.pt"] and len(server.asked) == 1


class TestBrokenConnections:
    @pytest.mark.parametrize("fault", [cut, reset], ids=["cut", "reset"])
    def test_the_rest_is_asked_for(self, server, fetch, left, waits, fault):
        server.add("/file.pt", DATA, fault(HALF))
        assert fetch().read_bytes() == DATA
        first, second = server.asked
        assert "Range" not in first.headers
        begin = int(second.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        assert (0 if fault is reset else HALF) <= begin <= HALF  # a reset may swallow what was on its way
        assert second.headers.get("If-Range") == ('"v1"' if begin else None)
        assert server.sent == HALF + len(DATA) - begin
        assert left() == ["file.pt"] and waits == [1.0]

    def test_a_server_that_stalls(self, server, fetch, policy, monkeypatch, caplog):
        """Patience ends when all is there that ever comes: on a busy machine that may take any time."""
        server.add("/file.pt", DATA, stall(HALF))
        sockets, connect, patience = [], socket.create_connection, 60.0

        def connected(*args, **kwargs):
            sockets.append(connect(*args, **kwargs))
            return sockets[-1]

        class Arrived(Progress):
            arrived = 0

            def advance(self, count):
                self.arrived += count
                if self.arrived == HALF:
                    assert sockets[0].gettimeout() == patience
                    sockets[0].settimeout(0.1)

        monkeypatch.setattr(socket, "create_connection", connected)
        assert fetch(replace(policy, stall_timeout=patience), Arrived()).read_bytes() == DATA
        assert "nothing arrived in time; trying again" in caplog.text
        assert server.asked[1].headers["Range"] == f"bytes={HALF}-"

    def test_a_server_that_drips(self, server, fetch, policy, monkeypatch, caplog):
        """By a clock on which each byte takes minutes, until it is asked again."""
        server.add("/file.pt", DATA, drip)
        seconds = itertools.count(step=100)
        clock = SimpleNamespace(monotonic=lambda: next(seconds) if len(server.asked) == 1 else 0)
        monkeypatch.setattr(transfer, "time", clock)
        assert fetch(replace(policy, stall_timeout=60)).read_bytes() == DATA
        assert re.search(r"sent only \d+ bytes in 100 s; trying again", caplog.text)

    def test_a_server_that_never_answers(self, server, fetch, impatient, waits):
        server.add("/file.pt", DATA, *[lambda handler, file: handler.site.go_on.wait(30)] * 9)
        with pytest.raises(SourceError, match=r"nothing arrived in time \(3 attempts\)"):
            fetch(replace(impatient, attempts=3))
        assert waits == [1.0, 2.0]

    def test_it_is_given_up_at_some_time(self, server, fetch, left, policy, waits):
        server.add("/file.pt", DATA, *[cut(HALF)] * 9)
        with pytest.raises(SourceError, match=f"ended after {HALF} of {len(DATA)} bytes .5 attempts"):
            fetch()
        assert left() == ["file.pt.part", "file.pt.part.json"]

    def test_progress_gives_new_attempts(self, server, fetch, policy, waits):
        server.add("/file.pt", DATA, *[cut(at) for at in range(20_000, 300_000, 20_000)])
        assert fetch(replace(policy, progress=20_000)).read_bytes() == DATA
        assert waits == [1.0] * 14 and server.sent == len(DATA)

    def test_no_server(self, fetch, waits):
        with pytest.raises(SourceError, match=r"cannot be reached \(.*refused.*\) \(2 attempts\)"):
            fetch(url="http://127.0.0.1:9/file.pt")
        assert waits == [1.0]

    def test_waits_are_shortened_at_random(self, server, fetch, policy, waits):
        server.add("/file.pt", DATA, status(500), status(500))
        fetch(replace(policy, draw=lambda: 0.5))
        assert waits == [0.75, 1.5]


class TestLengths:
    def test_more_is_announced_once(self, server, fetch):
        server.add("/file.pt", DATA, announce(100))
        assert fetch().read_bytes() == DATA

    def test_more_is_announced_always(self, server, fetch, left):
        server.add("/file.pt", DATA, *[announce(100)] * 20)
        with pytest.raises(SourceError, match="attempts"):
            fetch()
        assert "file.pt" not in left() and len(server.asked) == 5

    def test_less_is_announced_once(self, server, fetch):
        server.add("/file.pt", DATA, announce(-100))
        assert fetch().read_bytes() == DATA

    def test_less_is_announced_always(self, server, fetch, left):
        server.add("/file.pt", DATA, *[announce(-100)] * 20)
        with pytest.raises(SourceError, match="what arrives is cut off or damaged"):
            fetch()
        assert left() == [] and len(server.asked) == 2

    def test_another_length_than_was_known(self, server, fetch, left):
        server.add("/file.pt", DATA)
        with pytest.raises(SourceError, match=f"announces {len(DATA)} bytes instead of 5"):
            fetch(size=5)
        assert left() == []

    def test_no_length(self, server, fetch):
        def nothing_said(handler, file):
            handler.send_response(200)
            handler.end_headers()
            handler.wfile.write(file.data[: HALF if len(handler.site.asked) == 1 else None])

        server.add("/file.pt", DATA, nothing_said, nothing_said)
        assert fetch().read_bytes() == DATA
        assert len(server.asked) == 2


class TestStatus:
    @pytest.mark.parametrize("code", [400, 403, 404, 410, 501])
    def test_refused_for_good(self, server, fetch, code, waits):
        server.add("/file.pt", DATA, status(code))
        with pytest.raises(SourceError, match=f"answers {code} "):
            fetch()
        assert len(server.asked) == 1 and waits == []

    @pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
    def test_refused_for_the_moment(self, server, fetch, code, waits):
        server.add("/file.pt", DATA, status(code), status(code))
        assert fetch().read_bytes() == DATA
        assert waits == [1.0, 2.0]

    def test_refused_too_often(self, server, fetch):
        server.add("/file.pt", DATA, *[status(500)] * 9)
        with pytest.raises(SourceError, match="answers 500 Internal Server Error .5 attempts"):
            fetch()

    def test_the_server_says_when_to_come_back(self, server, fetch, waits):
        server.add("/file.pt", DATA, status(503, "7"), status(503, "Sat, 01 Jan 2022 00:00:00 GMT"), status(503, "?"))
        fetch()
        assert waits == [7.0, 2.0, 4.0]

    def test_a_wait_that_is_too_long(self, server, fetch, waits):
        server.add("/file.pt", DATA, status(503, "3600"))
        with pytest.raises(SourceError, match="503 Service Unavailable, and asks to wait for 3600 s"):
            fetch()
        assert waits == []

    def test_no_content(self, server, fetch):
        server.add("/file.pt", DATA, status(204))
        with pytest.raises(SourceError, match="answers 204"):
            fetch()

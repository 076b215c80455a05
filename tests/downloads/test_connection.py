"""Redirects, logins and addresses."""

import time
import urllib.request

import pytest
from checkpoint_faults import cut, redirect
from checkpoint_server import make_checkpoint

from sam2fast.downloads import connection
from sam2fast.downloads.errors import RefusedError, SourceError

DATA = make_checkpoint()


@pytest.fixture
def elsewhere(server) -> str:
    """The same server under another name."""
    return f"http://localhost:{server.port}"


class TestRedirects:
    def test_are_followed(self, server, fetch, elsewhere):
        server.add("/file.pt", DATA, redirect("/second"))
        server.add("/second", DATA, redirect(f"{elsewhere}/third.pt"))
        server.add("/third.pt", DATA)
        assert fetch().read_bytes() == DATA
        assert [asked.path for asked in server.asked] == ["/file.pt", "/second", "/third.pt"]

    def test_the_rest_is_asked_for_behind_them(self, server, fetch):
        server.add("/file.pt", DATA, redirect("/second"), redirect("/second"))
        server.add("/second", DATA, cut(100_000))
        assert fetch().read_bytes() == DATA
        assert server.gets("/second")[1].headers["Range"] == "bytes=100000-"
        assert server.sent == len(DATA)

    def test_in_a_circle(self, server, fetch):
        server.add("/file.pt", DATA, *[redirect("/file.pt")] * 50)
        with pytest.raises(SourceError, match="leads nowhere"):
            fetch()
        assert len(server.asked) <= 12

    def test_without_end(self, server, fetch):
        for step in range(50):
            server.add(f"/{step}", DATA, redirect(f"/{step + 1}"))
        with pytest.raises(SourceError, match="leads nowhere"):
            fetch(url=f"{server.url}/0")
        assert len(server.asked) <= 12

    @pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://host/file.pt", "data:,x"])
    def test_to_something_else(self, server, fetch, to, left):
        server.add("/file.pt", DATA, redirect(to))
        with pytest.raises(SourceError):
            fetch()
        assert left() == [] and len(server.asked) == 1

    def test_from_https_to_http(self):
        request = urllib.request.Request("https://host/file.pt")
        with pytest.raises(RefusedError, match="from https to http://host/file.pt"):
            connection._Redirects(False).redirect_request(request, None, 302, "", {}, "http://host/file.pt")


class TestLogins:
    HEADERS = {"Authorization": "Bearer secret"}

    def test_stay_with_their_host(self, server, fetch, elsewhere):
        server.add("/file.pt", DATA, redirect("/second"))
        server.add("/second", DATA, redirect(f"{elsewhere}/third.pt"))
        server.add("/third.pt", DATA, redirect("/fourth.pt"))
        server.add("/fourth.pt", DATA)
        assert fetch(headers=self.HEADERS).read_bytes() == DATA
        assert [asked.headers.get("Authorization") for asked in server.asked] == ["Bearer secret"] * 2 + [None] * 2

    def test_in_an_address(self, server, policy):
        server.add("/text", b"hello")
        assert connection.read_small(f"http://me:p%40ss@127.0.0.1:{server.port}/text", policy) == b"hello"
        assert server.asked[0].headers["Authorization"] == "Basic bWU6cEBzcw=="  # me:p@ss


@pytest.mark.parametrize("url", ["file:///etc/passwd", "/etc/passwd", "ftp://host/x", "http://[", "http://a b/", ""])
def test_no_address(url, fetch):
    with pytest.raises(SourceError):
        fetch(url=url)


def test_a_small_answer_that_is_large(server, policy):
    server.add("/text", DATA)
    with pytest.raises(RefusedError, match="more than 1000 bytes"):
        connection.read_small(f"{server.url}/text", policy, most=1000)


def test_dates_to_come_back_at():
    assert connection._retry_after("3.5") == 3.5
    assert connection._retry_after("Sat, 01 Jan 2022 00:00:00 GMT") == 0
    in_an_hour = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 3600))
    assert 3500 < connection._retry_after(in_an_hour) <= 3600
    assert connection._retry_after("soon") is None


def test_a_proxy_of_the_environment_is_asked(server, fetch, monkeypatch):
    """The server, as a proxy, is asked for the whole address."""
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("http_proxy", server.url)
    server.files["http://files.invalid/file.pt"] = server.add("/file.pt", DATA)
    assert fetch(url="http://files.invalid/file.pt").read_bytes() == DATA

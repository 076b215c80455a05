"""Downloads of one file from an unreliable server: resumed, checked, and never incomplete under the final name."""

import os
import shutil
import socket
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
from checkpoint_faults import announce, cut, ignore_range, reset, stall, status, web_page, wrong_part
from checkpoint_server import make_checkpoint

from sam2fast.downloads import DownloadError, transfer
from sam2fast.downloads.transfer import FAILURES, fetch, install

DATA, OTHER = make_checkpoint(seed=0), make_checkpoint(seed=1)
HALF = 150_000


@pytest.fixture
def download(tmp_path, server, waits):
    """Downloads ``/file.pt`` to a file with this name."""

    def run(url=f"{server.url}/file.pt"):
        make = partial(fetch, [url], sha256=None, quiet=True)
        return install(tmp_path / "to/file.pt", make, lambda path: True, quiet=True)

    return run


@pytest.fixture
def names(tmp_path):
    return lambda: sorted(os.listdir(tmp_path / "to"))


def ranges(server):
    return [asked.headers.get("Range") for asked in server.asked]


@pytest.mark.parametrize(
    "faults",
    [[cut(HALF)], [reset(HALF)], [stall(HALF)], [cut(HALF), ignore_range], [cut(HALF), wrong_part]],
    ids=["cut", "reset", "stalled", "another part", "a wrong part"],
)
def test_what_a_call_survives(server, download, names, waits, monkeypatch, faults):
    """The server is asked for the rest."""
    monkeypatch.setattr(transfer, "TIMEOUT", 0.4)
    server.add("/file.pt", DATA, *faults)
    assert download().read_bytes() == DATA and names() == ["file.pt"]
    assert len(waits) >= 1 and ranges(server)[0] is None and ranges(server)[1].startswith("bytes=")


def test_the_next_call_goes_on(server, download, names):
    server.add("/file.pt", DATA, cut(HALF), *[status(503)] * (FAILURES - 1))
    with pytest.raises(DownloadError, match="503 Service Unavailable, 3 times in a row"):
        download()
    assert names() == ["file.pt.part"]
    assert download().read_bytes() == DATA
    assert ranges(server) == [None] + [f"bytes={HALF}-"] * FAILURES and names() == ["file.pt"]


def test_all_bytes_are_there_before_the_new_name(server, download, tmp_path):
    (tmp_path / "to").mkdir()
    (tmp_path / "to/file.pt.part").write_bytes(DATA)
    server.add("/file.pt", DATA)
    assert download().read_bytes() == DATA and server.sent == 0


def test_another_version_is_never_mixed_in(server, download, names):
    """The checksums inside the checkpoint reveal it; the next call starts again."""
    file = server.add("/file.pt", DATA, cut(HALF), *[status(503)] * 2)
    with pytest.raises(DownloadError, match="503"):
        download()
    file.data = OTHER
    with pytest.raises(DownloadError, match="is damaged"):
        download()
    assert names() == []
    assert download().read_bytes() == OTHER


def test_wrong_sizes(server, download, names):
    """Too few announced bytes damage the file; with too many, the server reports the size."""
    server.add("/file.pt", DATA, announce(-10), announce(10))
    with pytest.raises(DownloadError, match="is damaged"):
        download()
    assert names() == []
    assert download().read_bytes() == DATA and ranges(server)[1:] == [None, f"bytes={len(DATA)}-"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (web_page, "is a web page, not a checkpoint"),
        *((status(code), f"/file.pt: HTTP status {code} ") for code in (401, 403, 404, 410)),
    ],
    ids=["a login page", 401, 403, 404, 410],
)
def test_what_is_not_tried_again(server, download, names, waits, fault, message):
    server.add("/file.pt", DATA, fault)
    with pytest.raises(DownloadError, match=message):
        download()
    assert names() == [] and waits == [] and len(server.asked) == 1


def test_no_redirect_from_https_to_http(monkeypatch, download):
    answer = nullcontext(SimpleNamespace(url="http://host/file.pt"))
    monkeypatch.setattr(transfer.urllib.request, "urlopen", lambda *_, **__: answer)
    with pytest.raises(DownloadError, match="redirects from https to http://host/file.pt"):
        download("https://host/file.pt")


def test_no_network(download, waits):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DownloadError, match=r"no connection \(.*refused"):
        download(f"http://127.0.0.1:{port}/file.pt")
    with pytest.raises(DownloadError, match="no connection"):
        download("http://nowhere.invalid/file.pt")
    assert waits == []


def test_no_room(server, download, names, monkeypatch):
    server.add("/file.pt", DATA)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(DownloadError, match="has no room for 0.3 MB"):
        download()
    assert names() == []


def test_a_disk_that_is_full_while_it_is_written(server, download, names):
    """A limit on the size of files stands for a full disk."""
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    server.add("/file.pt", DATA)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, before[1]))
    try:
        with pytest.raises(DownloadError, match="cannot write in .*/to: File too large"):
            download()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert names() == ["file.pt.part"]
    assert download().read_bytes() == DATA and server.sent < 2 * len(DATA)

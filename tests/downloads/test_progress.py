"""What the user sees while bytes arrive."""

import io

import pytest
from checkpoint_faults import cut
from checkpoint_server import make_checkpoint

from sam2fast.downloads import progress
from sam2fast.downloads.progress import BarProgress, LineProgress, Progress, default_progress

DATA = make_checkpoint()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("shown", [LineProgress, BarProgress])
def test_a_transfer_that_is_taken_up_again(server, fetch, shown, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    server.add("/file.pt", DATA, cut(150_000))
    stream = Terminal()
    fetch(progress=shown(stream))
    text = stream.getvalue()
    assert "file.pt: 0.3 of 0.3 MB, 100%" in text if shown is LineProgress else "file.pt: 100%" in text


def test_lines_are_few(server, fetch):
    server.add("/file.pt", DATA, cut(150_000))
    stream = io.StringIO()
    fetch(progress=LineProgress(stream))
    assert stream.getvalue().splitlines() == ["file.pt: 0.0 of 0.3 MB, 0%", "file.pt: 0.3 of 0.3 MB, 100%"]


def test_without_a_length():
    stream = io.StringIO()
    lines = LineProgress(stream)
    lines.start("file.pt", 0, None)
    lines.advance(10)
    lines.close()
    assert stream.getvalue() == "file.pt: 0.0 MB\n"


def test_the_choice(monkeypatch):
    monkeypatch.setattr("sys.stderr", Terminal())
    assert type(default_progress()) is BarProgress
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert type(default_progress()) is LineProgress
    assert type(default_progress(quiet=True)) is Progress
    monkeypatch.setattr("sys.stderr", None)  # as in a program without a console
    assert type(default_progress()) is Progress

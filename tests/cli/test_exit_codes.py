"""Exit codes and messages of exceptions that a command raises."""

import errno
import importlib
import io
import os

import av
import pytest
from commands import fail_at

from sam2fast.cli.user_errors import UserError
from sam2fast.datasets import DatasetError


def after_an_interrupt() -> UserError:
    """As from OmegaConf, which fails where Ctrl-C interrupts it."""
    error = UserError("'NoneType' object has no attribute")
    error.__cause__ = AttributeError()
    error.__cause__.__context__ = KeyboardInterrupt()
    return error


def of_stdout(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.fixture
def raising(run, inputs, monkeypatch):
    """Runs a command in which this exception is raised."""

    def run_raising(error):
        fail_at(monkeypatch, importlib.import_module("sam2fast.cli.options"), "choose_model", 1, error)
        return run("profile", "image.png")

    return run_raising


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (after_an_interrupt(), 130, "interrupted"),
        (EOFError("early"), 1, "an input file ends too early: early"),  # for click it would be Ctrl-D
        (av.error.EOFError(1, "early", "x.mp4"), 1, "an input file ends too early: [Errno 1] early: 'x.mp4'"),
        (of_stdout(errno.ENOSPC), 1, "the disk is full"),
        (of_stdout(errno.EFBIG), 1, "[Errno 27] File too large"),
        (DatasetError("x.json is\n no JSON"), 1, "x.json is no JSON"),
    ],
    ids=["interrupt", "end of file", "end of video", "full disk", "large file", "of the package"],
)
def test_reported(raising, error, code, message):
    result = raising(error)
    assert result.exit_code == code and result.stderr.splitlines()[-1] == f"sam2fast: {message}"


@pytest.mark.parametrize(
    "error",
    [io.UnsupportedOperation("not readable"), ConnectionResetError(104, "reset"), ChildProcessError(10, "none")],
)
def test_bugs_keep_their_traceback(raising, error):
    with pytest.raises(type(error)):
        raising(error)

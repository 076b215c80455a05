"""Unreadable paths in every option: the error is one line, and nothing is written."""

import ctypes
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sam2fast import nano

REFUSED = {"locked/x": "Permission denied|does not exist", "n" * 300: "File name too long|does not exist"}
WEIGHTS = Path(nano.__file__).with_name("weights.safetensors")
WEIGHTS_IN_SHELL = shlex.quote(str(WEIGHTS))
POINT, FIRST = "--point 5,5 --model nano", "--point 0,1,5,5 --model nano"
COMMANDS = (
    f"segment X {POINT}",
    "segment image.png --mask X --model nano",
    "segment image.png --point 5,5 --checkpoint X",
    "segment image.png --point 5,5 --model X/model.yaml",
    f"segment image.png {POINT} --out X",
    "masks X --model nano",
    "masks image.png --model nano --out X",
    "find X --reference image.png --mask labels/a.png --model nano",
    "find image.png --reference X --mask labels/a.png --model nano",
    "find image.png --reference image.png --mask X --model nano",
    "find image.png --reference image.png --mask labels/a.png --model nano --out X",
    f"track X {FIRST}",
    "track frames --mask 0,1,X --model nano",
    "track frames --prompts X --model nano",
    f"track frames {FIRST} --out X",
    "vos --videos X --masks masks --out out --model nano",
    "vos --videos videos --masks X --out out --model nano",
    "vos --videos videos --masks masks --out X --model nano",
    "vos --videos videos --masks masks --out X --overwrite --model nano",
    "vos --videos videos --masks masks --list X --out out --model nano",
    "evaluate --gt X --pred masks",
    "evaluate --gt masks --pred X",
    "evaluate --gt masks --pred masks --processes 1 --keep-first-and-last --csv X",
    "evaluate-images X --masks masks --model nano",
    "evaluate-images images --masks X --model nano",
    "evaluate-images images --masks masks --model nano --out X/run",
    f"demo --image X {POINT}",
    "demo --out X",
    "synthesize --clips 1 --frames 1 --media X",
    "synthesize --clips 1 --frames 1 --out X",
    "profile X",
    "profile image.png --trace X/a.json",
    "convert X out.pt",
    f"convert {WEIGHTS_IN_SHELL} X/out.pt",
    "dataset info X",
    "dataset show X --from davis",
    "dataset convert X out --to davis",
    "dataset convert davis X --from davis --to ytvos",
    "serve --data X",
)
VERSION_3 = 0x20080522  # of the header of capset(2)
OVERRIDES = 0b111  # CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


@contextmanager
def permissions_count() -> Iterator[None]:
    """Returns a context manager in which file permissions apply to root, too."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        yield
        return
    if sys.platform != "linux":
        pytest.skip("here root cannot give up its rights for a while")
    libc = ctypes.CDLL(None, use_errno=True)
    header, before, without = (ctypes.c_uint32 * 2)(VERSION_3, 0), (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    if libc.capget(header, before):
        pytest.skip("capabilities cannot be read here")
    without[:] = before[:]
    without[0] &= ~OVERRIDES  # those in effect, of the first 32
    assert libc.capset(header, without) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0


@pytest.fixture
def locked(inputs):
    """With the unreadable paths."""
    (inputs / "locked").mkdir()
    (inputs / "locked").chmod(0)
    with permissions_count():
        yield inputs
    (inputs / "locked").chmod(0o700)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.replace(WEIGHTS_IN_SHELL, "WEIGHTS"))
def test_the_error_is_one_line(run, locked, command, monkeypatch):
    monkeypatch.setattr("sam2fast.cli.serve.run", None)  # if it was not refused, it would serve forever
    before = sorted(os.listdir(locked))
    for path, message in REFUSED.items():
        result = run(*shlex.split(re.sub(r"\bX\b", path, command)))
        assert result.exit_code in (1, 2, 3), result.stdout
        last = result.stderr.splitlines()[-1]
        assert last.startswith(("sam2fast: ", "Error: ")) and re.search(message, last)
        assert sorted(os.listdir(locked)) == before

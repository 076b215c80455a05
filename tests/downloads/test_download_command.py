"""``sam2fast download``, and how other commands find checkpoints."""

import hashlib
import importlib
import os
import re
import sys
from functools import partial
from pathlib import Path

import pytest
from checkpoint_server import make_checkpoint
from commands import fail_at, invoke

from sam2fast import mini, nano
from sam2fast._official_names import RELEASES, SAM2
from sam2fast.cli.model_choice import choose_model
from sam2fast.downloads import find_checkpoint

FILE = "sam2.1_hiera_tiny.pt"
DATA = make_checkpoint()


@pytest.fixture
def run(waits):
    return partial(invoke, "download")


def test_the_path_is_printed(run, server, machine):
    server.add(f"/meta/{FILE}", DATA)
    result = run("tiny")
    assert result.exit_code == 0
    path = Path(result.stdout.strip())
    assert path == find_checkpoint("tiny") and path.read_bytes() == DATA
    assert f"{FILE}: 100%" in result.stderr
    again = run("sam2.1_hiera_t", "tiny")
    assert again.stdout == result.stdout and again.stderr == ""


def test_the_licence_is_named(run, server):
    """And that there is no checksum to compare with, unless one is given."""
    server.add("/meta/MedSAM2_latest.pt", DATA)
    server.add(f"/meta/{FILE}", DATA)
    shown = run("medsam2").stderr
    assert "MedSAM2_latest.pt: licence of the weights: unverified" in shown and "no checksum of the file" in shown
    shown = run("tiny", "--sha256", hashlib.sha256(DATA).hexdigest()).stderr
    assert "licence of the weights: Apache-2.0\n" in shown


def test_several_names_of_which_one_fails(run, server, machine):
    server.add("/sam2_hiera_small.pt", DATA)
    result = run("large", "sam2_hiera_s", "nano", "--mirror", server.url, "--quiet")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [str(machine / "own/sam2_hiera_small.pt"), str(nano.WEIGHTS)]
    (error,) = result.stderr.splitlines()
    assert error.startswith("sam2fast: sam2.1_hiera_large.pt could not be downloaded: ")
    assert error.count("HTTP status 404 Not Found") == 2 and error.endswith("or pass its path")


def test_all_to_a_folder(run, server, machine):
    for release in RELEASES.values():
        server.add(f"/meta/{release.checkpoint}", DATA)
    result = run("all", "--to", "folder", "--quiet")
    assert result.exit_code == 0
    files = {release.checkpoint for release in SAM2.values()}
    assert {Path(line).name for line in result.stdout.splitlines()} == files
    assert set(os.listdir("folder")) == files


def test_overwrite_and_hash(run, server, machine):
    file = server.add(f"/{FILE}", DATA)
    (machine / "own").mkdir()
    (machine / "own" / FILE).write_bytes(b"something else")
    result = run("tiny", "--mirror", server.url, "--sha256", file.sha256.upper(), "--overwrite")
    assert result.exit_code == 0 and (machine / "own" / FILE).read_bytes() == DATA
    assert run("tiny", "--mirror", server.url, "--sha256", "0" * 64).exit_code == 1


def test_other_models(run, monkeypatch, machine):
    with monkeypatch.context() as patch:
        patch.setattr("sam2fast.cli.download.get_repository", lambda name, quiet: machine / name)
        assert run("someone/fine-tune", "--quiet").stdout == f"{machine}/someone/fine-tune\n"
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    result = run("someone/fine-tune")
    assert result.exit_code == 1 and result.stdout == ""
    assert result.stderr.count("\n") == 1 and 'pip install "sam2fast[hub]"' in result.stderr


def test_list(run, server, machine):
    (machine / "own").mkdir()
    (machine / "own" / FILE).write_bytes(DATA)
    rows = [re.split(" {2,}", line.strip()) for line in run("--list").stdout.splitlines()]
    assert rows[0] == ["name", "file", "MB", "found"] and len(rows) == 3 + len(RELEASES)
    assert [row[:2] for row in rows[1:3]] == [[name, "in the package"] for name in ("nano", "mini")]
    assert ["tiny", FILE, "0.3", str(machine / "own" / FILE)] in rows
    assert ["sam2_hiera_l", "sam2_hiera_large.pt", "898.0", "-"] in rows
    assert ["edgetam", "edgetam.pt", "-", "-"] in rows
    assert [row[2:] for row in rows[1:3]] == [["10.2", str(nano.WEIGHTS.parent)], ["29.1", str(mini.WEIGHTS.parent)]]
    assert server.asked == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "at least one NAME"),
        (("tiny", "../../x"), "no model '../../x'"),
        (("tiny", "--sha256", "abc"), "64 hexadecimal digits"),
        (("someone/model", "--to", "x"), "are for official models; someone/model is not official"),
    ],
)
def test_wrong_usage(run, server, arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2 and message in result.stderr
    assert server.asked == []


def test_an_interruption(run, server, monkeypatch):
    fail_at(monkeypatch, importlib.import_module("sam2fast.cli.download"), "get_checkpoint", 1, KeyboardInterrupt())
    result = run("tiny")
    assert result.exit_code == 130 and "run the same command again to continue" in result.stderr


def test_other_commands_find_what_was_downloaded(run, server):
    server.add(f"/meta/{FILE}", DATA)
    path = run("tiny", "--quiet").stdout.strip()
    assert str(choose_model("tiny", None).checkpoint) == path
    assert str(choose_model(None, None).checkpoint) == path
    assert len(server.asked) == 1

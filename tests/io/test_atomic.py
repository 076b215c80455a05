"""Atomic writes, also by two processes, through links, and to paths that are no files."""

import os
import re
import stat
from pathlib import Path

import pytest

from sam2fast.io.atomic import atomic_path, atomic_write, restore

WRITERS = ["atomic_path", "atomic_write", "in_folder"]


def write(writer: str, path: Path, content: bytes) -> None:
    if writer == "atomic_write":
        with atomic_write(path) as file:
            file.write(content)
    else:
        with atomic_path(path, in_folder=writer == "in_folder") as partial:
            partial.write_bytes(content)


def test_a_killed_replacement_is_undone(tmp_path: Path) -> None:
    """The old folder had been moved away, and the new one was not at its place yet."""
    previous = tmp_path / ".x.1.part" / "x.0"
    previous.mkdir(parents=True)
    (previous / "a").write_text("before")
    (tmp_path / ".x.2.part").mkdir()
    restore(tmp_path / "x")
    assert [*tmp_path.iterdir()] == [tmp_path / "x"] and (tmp_path / "x/a").read_text() == "before"


def test_two_at_once(tmp_path: Path) -> None:
    """As on two machines, where process ids may be equal."""
    path = tmp_path / "a.json"
    with atomic_path(path) as first:
        first.write_text("first")
        with atomic_path(path) as second, atomic_write(path) as third:
            second.write_text("second")
            third.write(b"third")
        assert path.read_text() == "second" and first.read_text() == "first"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", [atomic_path, atomic_write])
def test_a_failed_write_keeps_the_old_file(write, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), write(path) as target:
        (target.write_bytes if write is atomic_path else target.write)(b"half")
        raise ZeroDivisionError
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("there", ["before", None])
def test_a_symlink_stays(writer: str, there: str | None, tmp_path: Path) -> None:
    """Also a dangling link, whose target is created, as with open()."""
    (tmp_path / "to").mkdir()
    if there is not None:
        (tmp_path / "to" / "file").write_text(there)
    os.symlink("to/file", tmp_path / "inner")
    os.symlink("inner", tmp_path / "link")
    write(writer, tmp_path / "link", b"content")
    assert (tmp_path / "to" / "file").read_bytes() == b"content" and os.listdir(tmp_path / "to") == ["file"]
    assert (os.readlink(tmp_path / "link"), os.readlink(tmp_path / "inner")) == ("inner", "to/file")
    assert sorted(os.listdir(tmp_path)) == ["inner", "link", "to"]


def test_temporary_name_behind_a_link(tmp_path: Path) -> None:
    """So that a clean-up does not find files that others write through links of the same name."""
    (tmp_path / "to").mkdir()
    os.symlink("to/file", tmp_path / "link")
    with atomic_write(tmp_path / "link"):
        (left,) = os.listdir(tmp_path / "to")
    assert re.fullmatch(r"\.file\.\d+\.part", left)


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(("name", "word"), [("loop", "loop"), ("pipe", "a pipe"), ("link", "a pipe")])
def test_refusals(writer: str, name: str, word: str, tmp_path: Path) -> None:
    """A circular symlink, and what a file must not replace, such as /dev/stdout."""
    os.symlink("loop", tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    os.symlink("pipe", tmp_path / "link")
    with pytest.raises(OSError, match=word) as caught:
        write(writer, tmp_path / name, b"content")
    assert caught.value.filename == str(tmp_path / name) and (tmp_path / "pipe").is_fifo()
    assert sorted(os.listdir(tmp_path)) == ["link", "loop", "pipe"]


@pytest.mark.parametrize("writer", WRITERS)
def test_the_mode_stays(writer: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("before")
    path.chmod(0o600)
    write(writer, path, b"content")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and path.read_bytes() == b"content"

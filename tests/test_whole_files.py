"""Files that appear whole or not at all, also where two write the same one, and what is no file."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from pipe_ends import reader

from sam2fast.whole_files import behind_links, moved_to, read_limited, written_whole

WAYS = ["moved_to", "written_whole", "in_folder"]


def write(way: str, path: Path, content: bytes) -> None:
    if way == "written_whole":
        with written_whole(path) as file:
            file.write(content)
    else:
        with moved_to(path, in_folder=way == "in_folder") as partial:
            partial.write_bytes(content)


def test_two_at_once(tmp_path: Path) -> None:
    """As on two machines, where both processes have the same number."""
    path = tmp_path / "a.json"
    with moved_to(path) as first:
        first.write_text("first")
        with moved_to(path) as second, written_whole(path) as third:
            second.write_text("second")
            third.write(b"third")
        assert path.read_text() == "second" and first.read_text() == "first"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", [moved_to, written_whole])
def test_what_was_there_stays(write, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), write(path) as target:
        (target.write_bytes if write is moved_to else target.write)(b"half")
        raise ZeroDivisionError
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("there", ["before", None])
def test_a_link_stays(way: str, there: str | None, tmp_path: Path) -> None:
    """Also one to nothing, which then leads to something, as with open()."""
    (tmp_path / "to").mkdir()
    if there is not None:
        (tmp_path / "to" / "file").write_text(there)
    os.symlink("to/file", tmp_path / "inner")
    os.symlink("inner", tmp_path / "link")
    write(way, tmp_path / "link", b"content")
    assert (tmp_path / "to" / "file").read_bytes() == b"content" and os.listdir(tmp_path / "to") == ["file"]
    assert (os.readlink(tmp_path / "link"), os.readlink(tmp_path / "inner")) == ("inner", "to/file")
    assert sorted(os.listdir(tmp_path)) == ["inner", "link", "to"]


def test_a_name_of_ones_own_goes_along_with_a_link(tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    os.symlink("to/file.gz", tmp_path / "link.gz")
    with moved_to(tmp_path / "link.gz", tmp_path / ".part.link.gz") as partial:
        assert partial == tmp_path / "to" / ".part.link.gz"
        partial.write_text("content")
    assert (tmp_path / "link.gz").read_text() == "content" and os.listdir(tmp_path / "to") == ["file.gz"]


@pytest.mark.parametrize("way", WAYS)
def test_a_link_in_a_circle_is_refused(way: str, tmp_path: Path) -> None:
    os.symlink("loop", tmp_path / "loop")
    with pytest.raises(OSError, match="loop") as caught:
        write(way, tmp_path / "loop", b"content")
    assert caught.value.filename == str(tmp_path / "loop") and os.listdir(tmp_path) == ["loop"]


STRANGER = 54321


def owned_by_strangers(names: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Only root may give files away."""
    real = os.lstat

    def lstat(path: str | Path, **options: object) -> os.stat_result:
        found = real(path, **options)  # type: ignore[arg-type]
        return os.stat_result((*found[:4], STRANGER, *found[5:])) if Path(path).name in names else found

    monkeypatch.setattr(os, "lstat", lstat)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("name", "planted"), [("link", "link"), ("link", "inner"), ("pipe", "pipe"), ("own", "pipe")])
def test_what_a_stranger_has_planted_is_refused(
    way: str, name: str, planted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder such as /tmp; also where a link of one's own leads to it."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    (tmp_path / "file").write_text("before")
    os.symlink("../file", folder / "inner")
    os.symlink("inner", folder / "link")
    os.mkfifo(folder / "pipe")
    os.symlink("pipe", folder / "own")
    end = os.open(folder / "pipe", os.O_RDONLY | os.O_NONBLOCK)  # where it is not refused, it does not wait for ever
    owned_by_strangers({planted}, monkeypatch)
    with pytest.raises(PermissionError, match="somebody else has put it") as caught:
        write(way, folder / name, b"content")
    assert caught.value.filename == str(folder / planted)
    os.close(end)
    assert (tmp_path / "file").read_text() == "before"
    assert sorted(os.listdir(folder)) == ["inner", "link", "own", "pipe"]


@pytest.mark.parametrize(("mode", "strangers"), [(0o1777, set()), (0o755, {"link", "pipe"}), (0o777, {"link", "pipe"})])
def test_other_links_and_pipes_are_not(
    mode: int, strangers: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One's own, and all where no system would refuse them."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(mode)
    os.symlink("../file", tmp_path / "shared" / "link")
    os.mkfifo(tmp_path / "shared" / "pipe")
    owned_by_strangers(strangers, monkeypatch)
    write("moved_to", tmp_path / "shared" / "link", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"
    read = reader(tmp_path / "shared" / "pipe")
    write("moved_to", tmp_path / "shared" / "pipe", b"content")
    assert read() == b"content"


def test_where_the_system_does_not_follow_nobody_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link through a folder's link that is a stranger's, say; which systems look at that is theirs to say."""
    os.symlink("file", tmp_path / "link")

    real = os.stat

    def refusing(path: str | Path, **options: object) -> os.stat_result:
        if Path(path).name == "link":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", refusing)
    with pytest.raises(PermissionError):
        behind_links(tmp_path / "link")


@pytest.mark.parametrize("way", WAYS)
def test_no_room_for_what_a_pipe_is_to_get(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not the pipe that is full."""
    from killed import Fault, forked  # which skips where there is no fork

    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    os.mkfifo(tmp_path / "pipe")
    ended = forked(lambda: write(way, tmp_path / "pipe", bytes(1000)), Fault(size=999, number=None))
    assert ended.code == 1 and f"File too large: '{tmp_path}/temporary/sam2fast-" in ended.stderr
    assert os.listdir(tmp_path / "temporary") == []


def test_no_folder_for_what_a_pipe_is_to_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where all that Python tries are full."""

    def none(prefix: str) -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr("tempfile.mkdtemp", none)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError, match="No usable temporary directory"), moved_to(tmp_path / "pipe"):
        pass


def test_what_a_killed_writer_leaves_behind_a_link_has_that_name(tmp_path: Path) -> None:
    """So that whoever cleans up there does not meet files of others who write through links of the same name."""
    (tmp_path / "to").mkdir()
    os.symlink("to/file", tmp_path / "link")
    with written_whole(tmp_path / "link"):
        (left,) = os.listdir(tmp_path / "to")
    assert re.fullmatch(r"\.file\.\d+\.tmp", left)


@pytest.mark.parametrize("way", WAYS)
def test_a_pipe_gets_it(way: str, tmp_path: Path) -> None:
    """Also through a link, and nothing of what is not whole."""
    os.mkfifo(tmp_path / "pipe")
    os.symlink("pipe", tmp_path / "link")
    with pytest.raises(ZeroDivisionError), moved_to(tmp_path / "link") as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    content = os.urandom(200_000)  # more than a pipe holds
    read = reader(tmp_path / "pipe")
    write(way, tmp_path / "link", content)
    assert read() == content
    assert (tmp_path / "pipe").is_fifo() and sorted(os.listdir(tmp_path)) == ["link", "pipe"]
    assert not partial.parent.exists()


def node(path: Path, kind: int, major: int, minor: int) -> Path:
    """A device of the test's own: the machine's are not for experiments."""
    try:
        os.mknod(path, kind | 0o600, os.makedev(major, minor))
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError as error:
        if kind == stat.S_IFCHR:
            pytest.skip(f"devices cannot be made here: {error}")
    return path


@pytest.mark.parametrize("way", WAYS)
def test_a_device_stays(way: str, tmp_path: Path) -> None:
    null, full = node(tmp_path / "null", stat.S_IFCHR, 1, 3), node(tmp_path / "full", stat.S_IFCHR, 1, 7)
    write(way, null, b"content")
    with pytest.raises(OSError, match="No space left") as caught:
        write(way, full, b"content")
    assert caught.value.filename == str(full)
    assert null.is_char_device() and full.is_char_device() and len(os.listdir(tmp_path)) == 2


def test_a_disk_is_not_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "disk", os.stat
    path.write_text("a file system")

    def of_disk(file: object, **options: object) -> os.stat_result:
        found = real(file, **options)
        return os.stat_result((stat.S_IFBLK | 0o600, *found[1:])) if file == path else found

    monkeypatch.setattr(os, "stat", of_disk)
    with pytest.raises(OSError, match="a disk, which is not written over"), moved_to(path):
        pass
    assert path.read_text() == "a file system"


PRINTS = """
import sys
from pathlib import Path
from sam2fast.whole_files import moved_to
print("before")
with moved_to(Path("/dev/stdout")) as partial:
    partial.write_text("content\\n")
print("after")
"""


@pytest.mark.skipif(not os.path.exists("/dev/stdout"), reason="this system has no /dev/stdout")
@pytest.mark.parametrize("is_file", [False, True])
def test_stdout_gets_it_in_its_turn(is_file: bool, tmp_path: Path) -> None:
    with open(tmp_path / "out", "wb") as out:
        ended = subprocess.run([sys.executable, "-c", PRINTS], stdout=out if is_file else subprocess.PIPE, check=True)
    assert ((tmp_path / "out").read_bytes() if is_file else ended.stdout) == b"before\ncontent\nafter\n"


def test_what_has_no_end_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"x" * 100)
    assert len(read_limited(tmp_path / "text", 100)) == 100
    with pytest.raises(OSError, match="more than"):
        read_limited(tmp_path / "text", 99)
    with pytest.raises(OSError, match="more than 64 MiB"):
        read_limited(node(tmp_path / "zero", stat.S_IFCHR, 1, 5))

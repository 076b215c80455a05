"""Who may read a file that is written anew: nobody who could not before."""

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sam2fast import kept_rights
from sam2fast.checkpoints.replacing import CONFIG_FILE, WEIGHTS_FILE, replacing
from sam2fast.kept_rights import hand_on
from sam2fast.whole_files import moved_to, written_whole

if sys.platform == "win32":
    pytest.skip("modes say little here", allow_module_level=True)

WAYS = ["moved_to", "written_whole", "in_folder", "replacing"]
OTHER = 54321  # a user, and a group


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@contextmanager
def writing(way: str, path: Path) -> Iterator[Path]:
    """The file that is written meanwhile."""
    if way == "written_whole":
        with written_whole(path) as file:
            file.write(b"new")
            file.flush()
            yield Path(file.name)
        return
    with replacing(path, force=True) if way == "replacing" else moved_to(path, in_folder=way == "in_folder") as partial:
        partial.write_bytes(b"new")
        yield partial


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def is_private(path: Path) -> bool:
    """Whether nobody else can come at it: by its own mode, or that of a folder that is there for it alone."""
    return not mode(path) & 0o077 or path.parent.name.startswith(".") and not mode(path.parent) & 0o077


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("before", "after"), [(0o600, 0o600), (0o664, 0o664), (0o640, 0o640), (0o444, 0o444), (0o6755, 0o755)], ids=oct
)
def test_the_mode_stays(way: str, before: int, after: int, tmp_path: Path) -> None:
    """But for what makes a program run as somebody else; and nothing can be read before that it is seen to."""
    path = tmp_path / "results.json"
    path.write_text("old")
    path.chmod(before)
    with writing(way, path) as partial:
        assert is_private(partial) and path.read_text() == "old"
    assert path.read_text() == "new" and mode(path) == after and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("way", WAYS)
def test_a_new_file_follows_the_umask(way: str, tmp_path: Path) -> None:
    for umask in (0o022, 0o002, 0o077):
        os.umask(umask)
        path = tmp_path / oct(umask)
        with writing(way, path):
            pass
        assert mode(path) == 0o666 & ~umask


@pytest.mark.parametrize("way", WAYS)
def test_the_mode_is_that_of_the_end(way: str, tmp_path: Path) -> None:
    """Somebody has thought better of it while hours of work went into the new one, or has removed the old one."""
    for number, change in enumerate((lambda path: path.chmod(0o600), Path.unlink)):
        path = tmp_path / str(number)
        path.write_text("old")
        path.chmod(0o644)
        with writing(way, path):
            change(path)
        assert mode(path) == (0o644 if number else 0o600)


def test_what_is_left_of_a_killed_process_is_not_written_to(tmp_path: Path) -> None:
    """It has a mode of its own, and may be open elsewhere."""
    path, left = tmp_path / "a", tmp_path / ".a.part"
    path.write_text("old")
    path.chmod(0o600)
    left.write_text("half")
    with left.open() as elsewhere, moved_to(path, left) as partial:
        partial.write_text("new")
        assert is_private(partial) and elsewhere.read() == "half"
    assert mode(path) == 0o600 and path.read_text() == "new"


def test_a_folder_that_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / WEIGHTS_FILE).write_text("old")
    (path / WEIGHTS_FILE).chmod(0o600)
    path.chmod(0o750)
    with replacing(path, force=True) as partial:
        partial.mkdir()
        for name in (WEIGHTS_FILE, CONFIG_FILE):
            (partial / name).write_text("new")
        assert not mode(partial.parent) & 0o077
    found = {name: mode(path / name) for name in (".", WEIGHTS_FILE, CONFIG_FILE)}
    assert found == {".": 0o750, WEIGHTS_FILE: 0o600, CONFIG_FILE: 0o644}
    assert (path / WEIGHTS_FILE).read_text() == "new" and os.listdir(tmp_path) == ["model"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("way", WAYS)
def test_root_gives_it_back(way: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    os.chown(path, OTHER, OTHER)
    path.chmod(0o640)
    with writing(way, path):
        pass
    assert (path.stat().st_uid, path.stat().st_gid, mode(path)) == (OTHER, OTHER, 0o640)


@pytest.mark.parametrize(
    ("before", "after"), [(0o640, 0o600), (0o664, 0o644), (0o660, 0o600), (0o604, 0o600), (0o644, 0o644)], ids=oct
)
def test_a_group_that_it_cannot_have(before: int, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The group that it has instead does not get the rights of the other one."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    (tmp_path / "new").write_text("new")
    was = (tmp_path / "new").stat()
    hand_on(os.stat_result((stat.S_IFREG | before, *was[1:4], OTHER, OTHER, *was[6:])), tmp_path / "new")
    assert mode(tmp_path / "new") == after and (tmp_path / "new").stat().st_gid == was.st_gid


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("")
    os.symlink("theirs", tmp_path / "link")
    before = mode(tmp_path / "theirs")
    with pytest.raises(OSError, match="link"):
        hand_on(os.stat_result((stat.S_IFREG | 0o666, *(tmp_path / "theirs").stat()[1:])), tmp_path / "link")
    assert mode(tmp_path / "theirs") == before


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Path) -> None:
        real(path)
        raise KeyboardInterrupt

    real = kept_rights.make_private
    monkeypatch.setattr("sam2fast.whole_files.make_private", interrupted)
    (tmp_path / "a").write_text("old")
    with pytest.raises(KeyboardInterrupt), moved_to(tmp_path / "a"):
        pass
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_goes_on_handing_down_its_group(tmp_path: Path) -> None:
    """As all in a folder that a group shares; the kernel has seen to it when it was made."""
    for name, given in (("old", 0o750), ("new", 0o2755)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(given)
    hand_on((tmp_path / "old").stat(), tmp_path / "new")
    assert mode(tmp_path / "new") == 0o2750

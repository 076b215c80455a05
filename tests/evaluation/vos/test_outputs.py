"""A video's folder is complete or absent, whenever the process ends."""

import errno
import itertools
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from file_contents import files_of
from killed import Ended, Fault, forked

from sam2fast.evaluation.vos.outputs import atomic_folder, conflicts, is_done
from sam2fast.io import atomic
from sam2fast.io.atomic import remove_leftovers

END = b"IEND\xaeB`\x82"  # of a complete PNG


def write(folder: Path, made_from: str, content: str, replace: bool = False) -> None:
    with atomic_folder(folder, made_from, replace) as partial:
        (partial / "00000.png").write_bytes(content.encode() + END)
        (partial / "00001.png").write_bytes(content.encode() + END)


def fail_renames(monkeypatch, error: BaseException, when) -> None:
    """Raises an error for the renames from one path to another for which ``when`` is true."""
    original = Path.rename

    def rename(self, target):
        if when(self, Path(target)):
            raise error
        return original(self, target)

    monkeypatch.setattr(Path, "rename", rename)


def test_done_and_other(tmp_path):
    folder = tmp_path / "out" / "a.b"
    assert not is_done(folder, "x") and not conflicts(folder, "x")
    write(folder, "x", "first")
    assert is_done(folder, "x") and not conflicts(folder, "x")
    assert conflicts(folder, "y") and not is_done(folder, "y")
    assert sorted(os.listdir(folder.parent)) == [".a.b.json", "a.b"]
    for content in (b"", b"half"):
        (folder / "00001.png").write_bytes(content)
        assert not is_done(folder, "x") and not conflicts(folder, "x")
    note = folder.parent / ".a.b.json"
    for spoil in (lambda: note.write_bytes(b"\xff"), note.unlink):
        spoil()
        assert conflicts(folder, "x") and not is_done(folder, "x")
    (tmp_path / "empty").mkdir()
    assert not conflicts(tmp_path / "empty", "x")


def test_a_folder_made_from_something_else_stays(tmp_path):
    write(tmp_path / "a", "x", "first")
    before = files_of(tmp_path)
    with pytest.raises(FileExistsError, match="already exists, and does not say what it was made from"):
        write(tmp_path / "a", "y", "second")
    assert files_of(tmp_path) == before
    write(tmp_path / "a", "x", "again")  # the same may always
    assert (tmp_path / "a/00000.png").read_bytes() == b"again" + END
    write(tmp_path / "a", "y", "second", replace=True)
    assert is_done(tmp_path / "a", "y") and (tmp_path / "a/00001.png").read_bytes() == b"second" + END
    assert sorted(os.listdir(tmp_path)) == [".a.json", "a"]


def replaced(out: Path, fault: Fault | None = None) -> Ended:
    """Replaces a folder made from ``x`` by one made from ``y``, in another process."""
    write(out / "a", "x", "first", replace=True)
    return forked(lambda: write(out / "a", "y", "second", replace=True), fault or Fault(folder=out))


def test_killed_at_any_change(tmp_path):
    """No incomplete folder counts as done, and the next run repairs everything."""
    (tmp_path / "whole").mkdir()
    changes = replaced(tmp_path / "whole").changes
    for change in range(changes):
        out = tmp_path / str(change)
        out.mkdir()
        assert replaced(out, Fault(change, out)).code == -signal.SIGKILL
        before, after = is_done(out / "a", "x"), is_done(out / "a", "y")
        if before or after:
            assert (out / "a/00001.png").read_bytes() == (b"first" if before else b"second") + END
        # Two folders and four files are created; two names are moved away, and two take their places.
        assert before == (change <= 6) and after == (change > 9)
        remove_leftovers([out / "a"])
        write(out / "a", "y", "third", replace=True)
        assert sorted(os.listdir(out)) == [".a.json", "a"] and is_done(out / "a", "y")


def test_a_full_disk_changes_nothing(tmp_path):
    before = None
    for change in (0, 1, 5, 6):
        out = tmp_path / str(change)
        out.mkdir()
        ended = replaced(out, Fault(change, out, None))
        before = before or files_of(out)
        assert ("No space left on device" in ended.stderr) == (change < 6)
        assert (files_of(out) == before) == (change < 6) and sorted(os.listdir(out)) == [".a.json", "a"]


@pytest.mark.parametrize("failing", range(4))
def test_an_interrupted_move_changes_nothing(tmp_path, monkeypatch, failing):
    write(tmp_path / "a", "x", "first")
    before, count = files_of(tmp_path), itertools.count()
    fail_renames(monkeypatch, KeyboardInterrupt(), lambda source, target: next(count) == failing)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a", "y", "second", replace=True)
    assert files_of(tmp_path) == before and sorted(os.listdir(tmp_path)) == [".a.json", "a"]


def test_a_folder_that_cannot_be_restored_is_kept(tmp_path, monkeypatch):
    write(tmp_path / "a", "x", "first")
    before = list(files_of(tmp_path / "a").values())
    # Neither the new folder can be moved there nor, afterwards, the old one.
    fail_renames(monkeypatch, OSError(errno.EIO, "the disk is gone"), lambda source, target: target == tmp_path / "a")
    with pytest.raises(OSError, match="the disk is gone"):
        write(tmp_path / "a", "y", "second", replace=True)
    (kept,) = tmp_path.glob(".a.*.part/a.1")
    assert list(files_of(kept).values()) == before


def test_only_leftovers_of_these_videos_go(tmp_path):
    for name in (".a.0123abcd.part", ".b.0123abcd.part", ".a.part", ".a.b.0123abcd.part", "a.0123abcd.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "00000.png").write_text("half")
    remove_leftovers([tmp_path / "a"])
    remove_leftovers([tmp_path / "nowhere/a"])
    left = [".a.b.0123abcd.part", ".a.part", ".b.0123abcd.part", "a.0123abcd.part"]
    assert sorted(os.listdir(tmp_path)) == left


def test_folders_that_tasks_of_a_cluster_may_be_writing_stay(tmp_path):
    """The time of the last addition counts, also in the folder of an object."""
    left = tmp_path / ".a.0123abcd.part"
    cases = ((3600, 60, True, True), (60, 3600, True, True), (3600, 3600, True, False), (60, 60, False, False))
    for age, age_within, is_spread, stays in cases:
        (left / "001").mkdir(parents=True, exist_ok=True)
        for folder, seconds in ((left, age), (left / "001", age_within)):
            os.utime(folder, (time.time() - seconds, time.time() - seconds))
        remove_leftovers([tmp_path / "a"], is_spread)
        assert os.listdir(tmp_path) == [left.name] * stays


def test_a_folder_that_cannot_be_removed_stays(tmp_path, monkeypatch):
    """A folder that cannot be removed is skipped; the others are removed."""
    held, others = tmp_path / ".b.0123abcd.part", [tmp_path / ".a.0123abcd.part", tmp_path / ".c.0123abcd.part"]
    for folder in (held, *others):
        folder.mkdir()
    fail_renames(monkeypatch, PermissionError(errno.EPERM, "denied"), lambda source, target: source == held)
    remove_leftovers([tmp_path / name for name in "abc"])
    assert os.listdir(tmp_path) == [held.name]


def test_a_folder_removed_while_it_is_written_is_never_done(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError), atomic_folder(tmp_path / "a", "x", False) as partial:

        def rmtree(path, **options):
            assert not partial.exists()  # or it could be put in its place while its files go
            shutil.rmtree(path, **options)

        (partial / "00000.png").write_text("first")
        with monkeypatch.context() as patch:
            patch.setattr(atomic, "shutil", type("Shutil", (), {"rmtree": staticmethod(rmtree)}))
            remove_leftovers([tmp_path / "a"])
    assert os.listdir(tmp_path) == []

"""A video's folder is there as a whole or not at all, whenever the process ends."""

import os
from pathlib import Path

import pytest
from vos_sets import files_of

from sam2fast.vos.folders import is_done, is_other, remove_leftovers, whole_folder


class KilledError(BaseException):
    """The end of the process: nothing more is done."""


def write(folder: Path, made_from: str, content: str, replace: bool = False) -> None:
    with whole_folder(folder, made_from, replace) as partial:
        (partial / "00000.png").write_text(content)
        (partial / "00001.png").write_text(content)


def visible(out: Path) -> list[str]:
    return sorted(name for name in os.listdir(out) if not name.startswith("."))


def test_done_and_other(tmp_path):
    folder = tmp_path / "out" / "a.b"
    assert not is_done(folder, "x") and not is_other(folder, "x")
    write(folder, "x", "first")
    assert is_done(folder, "x") and not is_other(folder, "x")
    assert is_other(folder, "y") and not is_done(folder, "y")
    assert sorted(os.listdir(folder.parent)) == [".a.b.json", "a.b"]
    (folder.parent / ".a.b.json").unlink()
    assert is_other(folder, "x") and not is_done(folder, "x")


def test_an_empty_folder_or_a_torn_note_is_nothing(tmp_path):
    (tmp_path / "a").mkdir()
    assert not is_other(tmp_path / "a", "x")
    write(tmp_path / "a", "x", "first")
    (tmp_path / ".a.json").write_bytes(b"\xff")
    assert not is_done(tmp_path / "a", "x") and is_other(tmp_path / "a", "x")


def test_what_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "a", "x", False) as partial:
        (partial / "00000.png").write_text("half")
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


def test_what_something_else_made_stays(tmp_path):
    write(tmp_path / "a", "x", "first")
    before = files_of(tmp_path)
    with pytest.raises(FileExistsError, match="made from something else"):
        write(tmp_path / "a", "y", "second")
    assert files_of(tmp_path) == before
    write(tmp_path / "a", "x", "again")  # the same may always
    assert (tmp_path / "a/00000.png").read_text() == "again"
    write(tmp_path / "a", "y", "second", replace=True)
    assert is_done(tmp_path / "a", "y") and (tmp_path / "a/00001.png").read_text() == "second"
    assert sorted(os.listdir(tmp_path)) == [".a.json", "a"]


STEPS = ("unlink", "rename", "write_text")


@pytest.mark.parametrize("step", range(5))
def test_killed_while_it_is_put_in_its_place(tmp_path, monkeypatch, step):
    """After any of the steps: no folder counts as done that is not whole, and the next run puts all right."""
    write(tmp_path / "a", "x", "first")
    done: list[str] = []

    def until_killed(name):
        original = getattr(Path, name)

        def act(self, *args, **kwargs):
            if len(done) >= step:
                raise KilledError
            done.append(name)
            return original(self, *args, **kwargs)

        return act

    with monkeypatch.context() as patch:
        patch.setattr("sam2fast.vos.folders.shutil.rmtree", lambda *args, **kwargs: None)
        folder = whole_folder(tmp_path / "a", "y", replace=True)
        partial = folder.__enter__()
        (partial / "00000.png").write_text("second")
        for name in STEPS:
            patch.setattr(Path, name, until_killed(name))
        try:
            folder.__exit__(None, None, None)
        except KilledError:
            pass
        else:
            assert step >= 4
    assert done == ["unlink", "rename", "write_text", "rename"][:step]
    assert is_done(tmp_path / "a", "x") == (step == 0)
    assert is_done(tmp_path / "a", "y") == (step >= 4)
    if (tmp_path / "a").exists():
        assert (tmp_path / "a/00000.png").read_text() == ("first" if step < 2 else "second")
    remove_leftovers(tmp_path, {"a"})
    write(tmp_path / "a", "y", "third", replace=True)
    assert sorted(os.listdir(tmp_path)) == [".a.json", "a"] and is_done(tmp_path / "a", "y")


def test_only_leftovers_of_these_videos_go(tmp_path):
    for name in (".a.0123abcd.part", ".b.0123abcd.part", ".a.part", ".a.b.0123abcd.part", "a.0123abcd.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "00000.png").write_text("half")
    (tmp_path / ".a.11111111.part").write_text("a file")
    remove_leftovers(tmp_path, {"a"})
    remove_leftovers(tmp_path / "nowhere", {"a"})
    left = [".a.11111111.part", ".a.b.0123abcd.part", ".a.part", ".b.0123abcd.part", "a.0123abcd.part"]
    assert sorted(os.listdir(tmp_path)) == left

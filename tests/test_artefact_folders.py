"""Where an artefact is written: folders that are there, links to them and mounted disks; whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from disturbed import can_mount, small_disk
from mini_model import mini_model

from sam2fast.exported import artifact, folders, read_facts, write_artifact
from sam2fast.exported.artifact import DECODER, ENCODER, FACTS

WHOLE = sorted([ENCODER, DECODER, FACTS])


@pytest.fixture(scope="module")
def model() -> Any:
    return mini_model().eval()


@pytest.fixture(autouse=True)
def quick_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact, "export_encoder", lambda *_: ENCODER)
    monkeypatch.setattr(artifact, "export_decoder", lambda *_: DECODER)
    monkeypatch.setattr(artifact, "save_program", lambda program, path: path.write_text(program))


@contextmanager
def empty_folder(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder as it is given; what it is in the end is ``folder / "empty"``."""
    real = folder / "empty"
    real.mkdir()
    if kind == "mounted":
        if not can_mount():
            pytest.skip("only root can mount a disk")
        with small_disk(real, 1024):
            yield real
        return
    if kind == "linked":
        os.symlink("empty", folder / "link")
    monkeypatch.chdir(real)
    yield {"linked": folder / "link", "current": Path(), "plain": real}[kind]


KINDS = pytest.mark.parametrize("kind", ["plain", "linked", "current", "mounted"])


@KINDS
def test_an_empty_folder_is_filled(kind: str, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with empty_folder(kind, tmp_path, monkeypatch) as folder:
        beside = os.listdir(tmp_path)
        number = (tmp_path / "empty").stat().st_ino
        facts = write_artifact(model, folder)
        assert read_facts(folder) == facts and sorted(os.listdir(tmp_path / "empty")) == WHOLE
        # Its rights, and whatever is mounted there, stay.
        assert (tmp_path / "empty").stat().st_ino == number and os.listdir(tmp_path) == beside


@KINDS
@pytest.mark.parametrize("failing", ["written", *WHOLE])
def test_it_stays_empty_where_that_fails(
    kind: str, failing: str, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While programs are written, and as each file is moved; the description is the last, and the others go again."""
    real, moved = os.replace, []

    def save(program: str, path: Path) -> None:
        path.write_text("half")
        if failing == "written" and program == DECODER:
            raise OSError("no space left")

    def replace(source: Path, target: Path) -> None:
        if target.name == failing:
            raise OSError("no space left")
        real(source, target)
        moved.append(target.name)

    monkeypatch.setattr(artifact, "save_program", save)
    monkeypatch.setattr(os, "replace", replace)
    with empty_folder(kind, tmp_path, monkeypatch) as folder:
        beside = os.listdir(tmp_path)
        with pytest.raises(OSError, match="no space left"):
            write_artifact(model, folder)
        assert os.listdir(tmp_path / "empty") == [] and os.listdir(tmp_path) == beside
    assert len(moved) == (2 if failing == FACTS else moved.index(ENCODER) + 1 if ENCODER in moved else len(moved))
    assert FACTS not in moved


def test_a_link_to_nothing_leads_to_the_artefact(model: Any, tmp_path: Path) -> None:
    os.symlink("new", tmp_path / "link")
    write_artifact(model, tmp_path / "link")
    assert sorted(os.listdir(tmp_path / "new")) == WHOLE and os.readlink(tmp_path / "link") == "new"
    assert sorted(os.listdir(tmp_path)) == ["link", "new"]


def test_two_at_once(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second is refused, and takes nothing from the first."""

    def save(program: str, path: Path) -> None:
        path.write_text(program)
        with pytest.raises(FileExistsError, match="is not empty, '.part' is in it"):
            write_artifact(model, tmp_path)
        monkeypatch.setattr(folders, "check_folder", Path)
        monkeypatch.setattr(artifact, "check_folder", Path)  # as if it had begun before
        with pytest.raises(FileExistsError):
            write_artifact(model, tmp_path)
        monkeypatch.undo()
        monkeypatch.setattr(artifact, "save_program", lambda program, path: path.write_text(program))

    with monkeypatch.context() as patch:
        patch.setattr(artifact, "export_encoder", lambda *_: ENCODER)
        patch.setattr(artifact, "export_decoder", lambda *_: DECODER)
        monkeypatch.setattr(artifact, "save_program", save)
        facts = write_artifact(model, tmp_path)
    assert read_facts(tmp_path) == facts and sorted(os.listdir(tmp_path)) == WHOLE


def test_what_somebody_else_puts_there_meanwhile_stays(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(program: str, path: Path) -> None:
        path.write_text(program)
        (tmp_path / ENCODER).write_text("theirs")

    monkeypatch.setattr(artifact, "save_program", save)
    with pytest.raises(FileExistsError, match="somebody else has put 'encoder.pt2'"):
        write_artifact(model, tmp_path)
    assert os.listdir(tmp_path) == [ENCODER] and (tmp_path / ENCODER).read_text() == "theirs"


def test_what_cannot_work_is_refused_before_the_export(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(*_: Any) -> None:
        raise AssertionError("minutes of work")

    monkeypatch.setattr(artifact, "export_encoder", export)
    (tmp_path / "file").write_text("")
    os.symlink("loop", tmp_path / "loop")
    for name, message in (("file", "there is a file"), ("file/new", "there is a file"), ("loop", "symbolic links")):
        with pytest.raises(OSError, match=message):
            write_artifact(model, tmp_path / name)
    with pytest.raises(OSError, match="too long"):
        write_artifact(model, tmp_path / ("x" * 256))
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # as of a disk that is only to be read
    with pytest.raises(PermissionError, match="cannot be written there"):
        write_artifact(model, tmp_path / "some" / "where")
    assert sorted(os.listdir(tmp_path)) == ["file", "loop"]


def test_a_long_name(model: Any, tmp_path: Path) -> None:
    folder = tmp_path / ("映" * 85)
    write_artifact(model, folder)
    assert os.listdir(tmp_path) == [folder.name] and sorted(os.listdir(folder)) == WHOLE

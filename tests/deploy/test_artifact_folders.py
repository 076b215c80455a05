"""Folders of artefacts: new and empty ones, links to them, and failures that leave no files."""

import pytest
from mini_model import mini_model

from sam2fast.deploy import exported
from sam2fast.deploy.exported import artifact
from sam2fast.deploy.exported.artifact import DECODER, ENCODER, METADATA


@pytest.fixture(scope="module")
def model():
    return mini_model().eval()


@pytest.fixture
def quick_programs(monkeypatch):
    monkeypatch.setattr(artifact, "export_encoder", lambda *_: ENCODER)
    monkeypatch.setattr(artifact, "export_decoder", lambda *_: DECODER)
    monkeypatch.setattr(artifact, "save_program", lambda program, path: path.write_text(program))


FILES = sorted([ENCODER, DECODER, METADATA])


@pytest.mark.parametrize("kind", ["new", "nested/new", "empty", "link", "link to nothing"])
def test_accepted_folders(kind, model, quick_programs, tmp_path):
    target = folder = tmp_path / kind
    if kind == "empty":
        folder.mkdir()
    if kind.startswith("link"):
        target = tmp_path / "target"
        folder.symlink_to("target")
        if kind == "link":
            target.mkdir()
    before = target.stat().st_ino if target.exists() else None
    metadata = exported.write_artifact(model, folder)
    assert exported.read_metadata(folder) == metadata and sorted(path.name for path in target.iterdir()) == FILES
    assert before in (None, target.stat().st_ino), "an empty folder stays: it may be a mount point"
    assert not list(tmp_path.rglob(".*.part")) and folder.is_symlink() == kind.startswith("link")


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("failing", ["a program", "the description"])
def test_after_a_failure_there_is_no_artefact(exists, failing, model, quick_programs, monkeypatch, tmp_path):
    def full(*_, **__):
        raise OSError("no space left")

    if failing == "a program":
        real = artifact.save_program
        monkeypatch.setattr(artifact, "save_program", lambda *a: full() if a[0] == DECODER else real(*a))
    else:
        monkeypatch.setattr(artifact.json, "dumps", full)
    if exists:
        (tmp_path / "artefact").mkdir()
    with pytest.raises(OSError, match="no space left"):
        exported.write_artifact(model, tmp_path / "artefact")
    assert [path.name for path in tmp_path.rglob("*")] == ["artefact"] * exists


def test_folders_that_are_refused_before_the_export(model, monkeypatch, tmp_path):
    monkeypatch.setattr(artifact, "export_encoder", lambda *_: pytest.fail("exported"))
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")
    for name, word in (("file", "a file"), ("loop", "a file"), ("full", "thesis.txt"), ("file/new", "not a folder")):
        with pytest.raises(OSError, match=word):
            exported.write_artifact(model, tmp_path / name)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(OSError, match="no permission"):
        exported.write_artifact(model, tmp_path / "new")


def test_files_of_another_process_stay(model, quick_programs, monkeypatch, tmp_path):
    def save(program, path):
        path.write_text(program)
        (tmp_path / ENCODER).write_text("theirs")

    monkeypatch.setattr(artifact, "save_program", save)
    with pytest.raises(FileExistsError, match="another process"):
        exported.write_artifact(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [ENCODER]
    assert (tmp_path / ENCODER).read_text() == "theirs"

"""Writing checkpoints while the disk is full or the process is killed."""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from file_contents import files_of
from killed import Fault, forked, tells_errors

from sam2fast.checkpoints import read_checkpoint
from sam2fast.checkpoints.writing import WEIGHTS_FILE, replacing, write_official, write_safetensors
from sam2fast.training import checkpointing

TENSOR = torch.arange(20_000, dtype=torch.float32)  # more bytes than a file's buffer
SIZES = (1, 700, 40_000, 80_500)
MOST_CHANGES = 17


def checkpoint(steps: int) -> dict[str, Any]:
    return {"model": {"weight": TENSOR}, "optimizer": {}, "steps": steps, "steps_in_epoch": steps, "ema": None}


@pytest.mark.parametrize(("number", "links"), [(None, True), (signal.SIGKILL, True), (signal.SIGKILL, False)])
def test_a_save_that_ends_anywhere_leaves_a_checkpoint(
    number: int | None, links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each file operation, and during a write. On a full disk the error names the file, and no others stay."""
    if not links:
        monkeypatch.setattr(os, "link", Mock(side_effect=PermissionError(errno.EPERM, "no hard links here")))
    faults = [Fault(size=size, number=number) for size in SIZES]
    faults += [Fault(change, tmp_path, number) for change in range(MOST_CHANGES)]
    names, codes = ["checkpoint.pt", "checkpoint_previous.pt"], set()
    for turn, fault in enumerate(faults):
        folder = tmp_path / str(turn)
        for steps in (1, 2):
            checkpointing.save_current(checkpoint(steps), folder)
        ended = forked(tells_errors(lambda folder=folder: checkpointing.save_current(checkpoint(3), folder)), fault)
        codes.add(ended.code)
        assert ended.stderr == ""
        if ended.code == 1:
            code, _, file = ended.stdout.strip().partition(" ")
            assert int(code) in (errno.ENOSPC, errno.EFBIG) and Path(file).parent == folder, ended
        assert ended.code < 0 or sorted(path.name for path in folder.iterdir()) == names
        with checkpointing.lock_folder(folder):
            found = checkpointing.load_current(folder)
            assert found is not None and found["steps"] in {0: (3,), 1: (2,)}.get(ended.code, (2, 3))
            checkpointing.save_current(checkpoint(4), folder)
        assert sorted(path.name for path in folder.iterdir()) == [".lock", *names]
        assert checkpointing.load(folder / checkpointing.PREVIOUS)["steps"] == found["steps"]
        if fault.change is not None and ended.code == 0:
            break
    assert codes == ({0, 1} if number is None else {0, -signal.SIGKILL, -signal.SIGXFSZ})


@pytest.mark.parametrize(("write", "name"), [(write_official, "a.pt"), (write_safetensors, "a.safetensors")])
def test_a_conversion_is_atomic(write: Callable[..., None], name: str, tmp_path: Path) -> None:
    weights, before = {"weight": TENSOR}, {"weight": TENSOR + 1}
    faults = [Fault(size=size, number=number) for size in SIZES[:3] for number in (None, signal.SIGKILL)]
    faults += [Fault(change, tmp_path, number) for change in range(5) for number in (None, signal.SIGKILL)]
    for number, fault in enumerate(faults):
        path = tmp_path / str(number) / name
        if number % 3:
            write(before, path)
        old = files_of(path.parent) if number % 3 else {}
        ended = forked(tells_errors(lambda path=path: write(weights, path, overwrite=True)), fault)
        assert ended.code in (0, 1, -signal.SIGKILL, -signal.SIGXFSZ) and ended.stderr == "", ended
        if ended.code == 1:
            assert files_of(path.parent) == old if path.parent.is_dir() else not old
            assert str(path.parent) in ended.stdout
        elif path.exists():
            found = read_checkpoint(path)["weight"]
            assert torch.equal(found, TENSOR) or bool(old) and torch.equal(found, TENSOR + 1)
        write(weights, path, overwrite=True)
        assert list(files_of(path.parent)) == [name] and torch.equal(read_checkpoint(path)["weight"], TENSOR)


def test_a_replaced_folder_is_restored(tmp_path: Path) -> None:
    """Replacing a folder takes two steps. If the process is killed between them, the next run restores it."""
    path, seen = tmp_path / "model", set()

    def write(content: str) -> None:
        with replacing(path, overwrite=True) as partial:
            partial.mkdir()
            (partial / WEIGHTS_FILE).write_text(content)

    write("old")
    for change in range(MOST_CHANGES):
        ended = forked(lambda: write("new"), Fault(change, tmp_path))
        with pytest.raises(ValueError, match="enough"), replacing(path, overwrite=True):
            seen.add((ended.code, (path / WEIGHTS_FILE).read_text()))
            raise ValueError("enough")
        assert list(files_of(tmp_path)) == [f"model/{WEIGHTS_FILE}"], change
        if ended.code == 0:
            break
        write("old")
    assert seen == {(-signal.SIGKILL, "old"), (-signal.SIGKILL, "new"), (0, "new")}


def test_one_process_at_a_time_writes_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the file of the lock cannot be removed, as on Windows while it is open."""
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.name.endswith(".lock"):
            raise PermissionError(13, "The process cannot access the file", str(path))
        real(path, missing_ok)

    def write(content: bytes) -> None:
        with replacing(tmp_path / "a.pt", overwrite=True) as partial:
            partial.write_bytes(content)

    for patched in (False, True):
        if patched:
            monkeypatch.setattr(Path, "unlink", unlink)
        with replacing(tmp_path / "a.pt", overwrite=True) as partial:
            partial.write_bytes(b"ours")
            assert "another process is writing" in forked(lambda: write(b"theirs")).stderr
        assert (tmp_path / "a.pt").read_bytes() == b"ours"
        assert patched or list(files_of(tmp_path)) == ["a.pt"]
    forked(lambda: write(b"theirs"))
    assert (tmp_path / "a.pt").read_bytes() == b"theirs"

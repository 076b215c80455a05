"""Checkpoint files of a run, the lock of their folder, and random states."""

import errno
import logging
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from sam2fast.checkpoints import CheckpointError
from sam2fast.training import checkpointing, trainer_state
from sam2fast.training.checkpointing import CURRENT, PREVIOUS, lock_folder
from sam2fast.training.distributed.ranks import Ranks
from sam2fast.utils.reproducibility import seed_everything


def drawn():
    """A number of each of the global random generators."""
    return random.random(), float(np.random.normal()), float(torch.rand(()))


def test_each_process_has_its_own_random_state_again():
    cpu, states, expected = torch.device("cpu"), [], []
    for seed in (3, 4, 7 + 2):
        seed_everything(seed)
        states.append(trainer_state.random_state(cpu))
        expected.append(drawn())
    content = {"random_state": states[0], "random_states_of_others": states[1:2]}
    for rank in range(3):  # of which the last one is new, and gets a seed
        trainer_state.restore_random_states(content, Ranks(cpu, rank, 3, rank, is_group=False), seed=7)
        assert drawn() == expected[rank]


def save(steps, folder):
    content = {"model": {}, "optimizer": {}, "steps": steps, "steps_in_epoch": steps, "ema": None}
    checkpointing.save_current(content, folder)


def test_a_damaged_checkpoint_does_not_replace_the_good_one(tmp_path, monkeypatch):
    for steps in (1, 2):
        save(steps, tmp_path)
    (tmp_path / CURRENT).write_bytes(b"damaged")
    assert checkpointing.load_current(tmp_path)["steps"] == 1  # type: ignore[index]

    def fail(content, file):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space"):
        save(3, tmp_path)
    assert checkpointing.load_current(tmp_path)["steps"] == 1  # type: ignore[index]
    assert (tmp_path / "checkpoint_damaged.pt").exists() and not list(tmp_path.glob(".*"))


def test_a_checkpoint_of_the_original_is_refused_and_stays(tmp_path, caplog):
    theirs = {
        "model": {},
        "optimizer": {},
        "epoch": 1,
        "loss": {},
        "steps": {"train": 3},
        "time_elapsed": 1,
        "scaler": {},
    }
    torch.save(theirs, tmp_path / CURRENT)
    with pytest.raises(CheckpointError, match="use another folder"):
        checkpointing.load_current(tmp_path)
    assert "initialize_from" in caplog.text and [path.name for path in tmp_path.iterdir()] == [CURRENT]


def test_what_a_killed_save_left_is_removed(tmp_path):
    save(1, tmp_path)
    # Killed between the two: the previous checkpoint is another name of the current one.
    (tmp_path / PREVIOUS).hardlink_to(tmp_path / CURRENT)
    save(2, tmp_path)
    assert not list(tmp_path.glob(".*.part"))
    (tmp_path / ".checkpoint.pt.123.part").write_bytes(b"half")
    with lock_folder(tmp_path):
        assert not list(tmp_path.glob(".*.part"))


def test_links_stay_and_the_previous_one_is_another(tmp_path):
    (tmp_path / "disk").mkdir()
    for name in (CURRENT, PREVIOUS):
        (tmp_path / name).symlink_to(Path("disk", name))
    for steps in (1, 2, 3):
        save(steps, tmp_path)
    read = [checkpointing.load(tmp_path / "disk" / name)["steps"] for name in (CURRENT, PREVIOUS)]
    assert read == [3, 2] and len(list((tmp_path / "disk").iterdir())) == 2
    assert (tmp_path / CURRENT).is_symlink() and (tmp_path / PREVIOUS).is_symlink()


def test_without_locks_it_goes_on_with_a_warning(tmp_path, monkeypatch, caplog):
    def lockf(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", lockf)
    left = tmp_path / ".checkpoint.pt.123.part"
    left.write_bytes(b"half")
    with caplog.at_level(logging.WARNING), lock_folder(tmp_path):
        assert left.exists()  # another run may be at it
    assert "cannot be locked" in caplog.text and "No locks available" in caplog.text

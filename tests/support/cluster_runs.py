"""A run for a cluster's job that needs no torch."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

PLACE = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def interrupted_once(folder: Path, is_asked: Callable[[], bool]) -> None:
    """Each process is told to stop in its first turn; it records each turn in a file."""
    rank = os.environ["RANK"]
    turn = len(list(folder.glob(f"{rank}-*")))
    before = is_asked()
    if turn == 0:
        os.kill(os.getpid(), signal.SIGUSR2)  # which is how SLURM says so
    note = {"place": [os.environ[name] for name in PLACE], "asked": [before, is_asked()], "cwd": os.getcwd()}
    (folder / f"{rank}-{turn}").write_text(json.dumps(note))

"""A program for several processes that fails once or waits for a signal, and its launcher."""

import os
import signal
import sys
import time
from pathlib import Path

from waiting import wait_until

from sam2fast.training.distributed import launch as launching
from sam2fast.training.distributed.launch import LaunchError, ended, launch

SECONDS = 60


def launch_all(folder: Path) -> list[str]:
    """What comes of two processes on one of two machines, two that fail, that are started again, that are stopped."""
    enough, said = launching.SECONDS_TO_MEET, []
    for name, *how in (("alone", 0, 2, "127.0.0.1:0"), ("fail", 0), ("again", 1), ("wait", 0)):
        launching.SECONDS_TO_MEET = 1 if name == "alone" else enough
        try:
            launch([__file__, name, str(folder)], 2, *how)
            said.append(f"{name} done")
        except LaunchError as error:
            said.append(f"{name} {error}")
    return said


def main(what: str, folder: Path) -> None:
    """``wait`` has the launcher told to stop, and waits; ``abandoned`` has it killed, and stops as a training does."""
    rank, turn = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
    if what == "abandoned":
        (folder / f"ready-{rank}").write_text(str(os.getpid()))
        abandoned(folder, rank)
        return
    if what == "wait":
        signal.signal(signal.SIGINT, lambda *_: sys.exit(ended()))
    (folder / f"{what}-{rank}-{turn}").touch()
    if what == "wait":
        if rank == "0":
            assert wait_until(lambda: len(list(folder.glob("wait-*"))) == 2, SECONDS)
            os.kill(os.getppid(), signal.SIGINT)
        time.sleep(60)
    elif rank == "1" and turn == "0":
        # When this process fails, the launcher ends the other one.
        assert wait_until((folder / f"{what}-0-{turn}").exists, SECONDS)
        sys.exit(5)


def abandoned(folder: Path, rank: str) -> None:
    from sam2fast.cli.train_run import stop_condition

    assert wait_until(lambda: len(list(folder.glob("ready-*"))) == 2, SECONDS)
    with stop_condition(None) as stop:
        if rank == "0":
            os.kill(os.getppid(), signal.SIGKILL)
        assert wait_until(stop, SECONDS)
    (folder / f"stopped-{rank}").touch()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

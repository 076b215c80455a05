"""Jobs for worker processes: functions that a new process can import, most without torch."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from waiting import wait_until


def build_nothing(device: str) -> dict[str, Any]:
    """A predictor that knows where it is."""
    return {"device": device, "pid": os.getpid()}


def build_mini(device: str) -> Any:
    from mini_model import mini_predictor

    return mini_predictor().to(device)


def build_when_deterministic(device: str) -> dict[str, Any]:
    import torch

    if not (torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic):
        raise RuntimeError("this process is not deterministic")
    return build_nothing(device)


def build_where_it_can(device: str, broken_device: str) -> dict[str, Any]:
    if device == broken_device:
        raise OSError(f"no model on {device}")
    return build_nothing(device)


def build_on_the_second(device: str, flag: str) -> dict[str, Any]:
    """Fails in the first process that comes to it."""
    try:
        Path(flag).touch(exist_ok=False)
    except FileExistsError:
        return build_nothing(device)
    raise OSError("the first one cannot")


def build_one_late(device: str, flag: str) -> dict[str, Any]:
    """The first process that comes to it waits for half a second."""
    try:
        Path(flag).touch(exist_ok=False)
        time.sleep(0.5)
    except FileExistsError:
        pass
    return build_nothing(device)


def square(predictor: dict[str, Any], number: int) -> tuple[int, int]:
    """A number's square and the process; negative ones fail."""
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number * number, predictor["pid"]


def first_one_late(predictor: dict[str, Any], number: int) -> int:
    time.sleep(0.5 if number == 1 else 0.0)
    return number


def large(predictor: dict[str, Any], number: int) -> bytes:
    """More than a pipe holds."""
    return bytes([number]) * 1_000_000


def killed_when_seen(predictor: dict[str, Any], job: tuple[int, str]) -> tuple[int, int]:
    """Job 2 kills its first process after job 1 was answered, as a worker's last answer may be lost with it."""
    number, folder = job
    killed = Path(folder, "killed")
    if number == 2 and not killed.exists():
        killed.touch()
        assert wait_until(Path(folder, "seen-1").exists, 60)
        os.kill(os.getpid(), signal.SIGKILL)
    return number, predictor["pid"]


def killed_always(predictor: dict[str, Any], number: int) -> int:
    if number == 2:
        time.sleep(0.5)  # a worker's last answer may be lost with it; its job is then done again
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def note_and_sleep(predictor: dict[str, Any], folder: str) -> None:
    """Leaves a file named after the process, then works for a long time."""
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(600)


class Unreadable(Exception):
    """Can be pickled but not unpickled."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)


def strange_failure(predictor: dict[str, Any], number: int) -> None:
    raise Unreadable("odd", "indeed")


def where(predictor: dict[str, Any], number: int) -> tuple[str, str | None, str, bool]:
    return os.getcwd(), os.environ.get("SAM2FAST_MINE"), os.environ["OMP_NUM_THREADS"], "torch" in sys.modules


def in_company(predictor: dict[str, Any], folder: str) -> int:
    """The process id, once a second process does the same; each writes a file of its name."""
    Path(folder, str(predictor["pid"])).touch()
    assert wait_until(lambda: len(os.listdir(folder)) > 1, 60)
    return predictor["pid"]


def build_late(device: str, seconds: float) -> dict[str, Any]:
    time.sleep(seconds)
    return build_nothing(device)

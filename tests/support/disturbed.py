"""Random disturbances of a command, and checks of its end and of the files that it leaves."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import moving_shapes
from killed import Ended, Fault, Sent
from PIL import Image

from sam2fast.results.record import read_lines

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FULL = ("the disk is full: ", "No space left on device", "File too large")  # the last where a limit is for a disk
IN_A_FINALIZER = re.compile(
    r"^Exception ignored in: .*\n(?:.*\n)*?(?:KeyboardInterrupt|\S*Terminated):? ?\n", re.MULTILINE
)


class Disturbance(NamedTuple):
    """The disturbance of one run."""

    told: str
    fault: Fault | None = None
    sent: Sequence[Sent] = ()
    is_certain: bool = False  # the run cannot finish earlier

    @property
    def is_full_disk(self) -> bool:
        return self.fault is not None and self.fault.number is None

    def check(self, ended: Ended) -> None:
        """Checks the end of the run: its exit code, and that stderr is short and no traceback."""
        if self.is_full_disk:
            after_full_disk(ended)
            return
        numbers = [sent.number for sent in self.sent]
        if self.fault is not None and self.fault.number is not None:
            numbers.append(signal.SIGXFSZ if self.fault.size is not None else self.fault.number)
        after_signal(ended, numbers)
        assert ended.code or not self.is_certain, (self.told, ended)


def chosen(rng: random.Random, folder: Path, changes: int, seconds: float = 0.8) -> Disturbance:
    """A random disturbance of any kind.

    A run that starts with an empty ``folder`` makes this number of ``changes`` of files and takes some ``seconds``.
    """
    kind = rng.choice(["kill at", "stop at", "full at", "kill in a write", "full in a write", "after", "twice"])
    change, size = rng.randrange(changes), int(10 ** rng.uniform(0, 5.3))
    if kind in ("kill at", "stop at", "full at"):
        number = {"kill at": signal.SIGKILL, "stop at": rng.choice(STOPPING), "full at": None}[kind]
        name = number.name if number is not None else "full"
        is_certain = not folder.exists() and (number == signal.SIGKILL or change < changes // 2)
        told = f"{name} at change {change} of {changes}"
        return Disturbance(told, Fault(change, folder, number), is_certain=is_certain and number is not None)
    if kind in ("kill in a write", "full in a write"):
        return Disturbance(f"{kind} after {size} bytes", Fault(size=size, number=9 if kind[0] == "k" else None))
    first = Sent(rng.choice([*STOPPING, signal.SIGKILL]), rng.uniform(0, seconds))
    second = Sent(rng.choice([*STOPPING, signal.SIGKILL]), 10 ** rng.uniform(-3, -0.5))
    sent = [first] if kind == "after" else [first, second]
    return Disturbance(", ".join(f"{signal.Signals(s.number).name} after {s.after:.3f} s" for s in sent), sent=sent)


def after_signal(ended: Ended, numbers: Sequence[int], from_the_first_import: bool = False) -> None:
    """Checks the end of a command that was sent signals: perhaps it was done before, or Python was not yet ready."""
    deadly = {-number for number in numbers if number in (signal.SIGKILL, signal.SIGXFSZ)}
    allowed = {0, *deadly, *(128 + number for number in numbers if number in STOPPING)}
    if len(numbers) > 1 or any(line in ended.stdout for line in ("written to", "checkpoints in", "frames of")):
        allowed |= {-number for number in numbers}  # Python was shutting down already
    if from_the_first_import:
        allowed |= {-number for number in numbers}
        if ended.code in (-signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP):
            return
    assert ended.code in allowed, ended
    # Python ignores a second Ctrl-C that comes in a finalizer.
    told = IN_A_FINALIZER.sub("", ended.stderr) if len(numbers) > 1 else ended.stderr
    assert "Traceback" not in told and "Exception ignored" not in told, ended
    lines = [line for line in told.splitlines() if line]
    # Each signal may be logged, and there is a final line.
    assert len(lines) <= len(numbers) + 1 and all(line.startswith("sam2fast: ") for line in lines), ended


def after_full_disk(ended: Ended) -> str:
    """Checks the end of a command that may have met a full disk: one line that says so, and where; gives it."""
    if ended.code == 0:
        return "there was room"
    lines = ended.stderr.splitlines()
    assert ended.code == 1 and len(lines) == 1 and lines[0].startswith("sam2fast: "), ended
    assert any(words in lines[0] for words in FULL) and "/" in lines[0], ended
    return lines[0]


def left_whole(folder: Path) -> None:
    """Checks that all files with final names are complete, whenever the command was ended."""
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        if any(part.startswith(".") for part in path.relative_to(folder).parts) and not path.name.endswith(".json"):
            continue
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".jsonl":
            list(read_lines(path))
        elif path.suffix == ".mp4":
            assert moving_shapes.decoded(path)[0]


@cache
def can_mount() -> bool:
    """Whether there can be a :func:`small_disk`, for which even root may lack the right."""
    if os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory() as folder:
        return not subprocess.call(["sh", "-c", 'mount -t tmpfs tmpfs "$1" && umount "$1"', "sh", folder])


@contextmanager
def small_disk(folder: Path, kibibytes: int) -> Iterator[Path]:
    """A small file system in memory; needs the right to mount. A failing test keeps a copy of its content."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    except BaseException:
        shutil.copytree(folder, folder.with_name(f"{folder.name}-failed"), symlinks=True, dirs_exist_ok=True)
        raise
    finally:
        subprocess.run(["umount", str(folder)], check=True)

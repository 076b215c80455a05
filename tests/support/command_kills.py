"""Disturbs a command that writes a folder of results, checks the folder, and runs it again until it is done."""

import random
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from disturbed import after_full_disk, after_signal, can_mount, chosen, left_whole, small_disk
from file_contents import files_of
from killed import Ended, Fault, Sent, forked, session_of, started
from waiting import wait_until


class CommandKills(ABC):
    """See tests/faults/campaign.py.

    Args:
        folder: for undisturbed runs.
    """

    variants: Sequence[str]  # names of the ways in which the command is called
    small: tuple[int, int]  # KiB of the small disks that are made for it

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wholes: dict[str, dict[str, bytes]] = {}
        self.changes: dict[str, int] = {}

    @abstractmethod
    def command(self, out: Path, variant: str) -> Callable[[], None]:
        """The command line for a copy of this process."""

    @abstractmethod
    def process(self, rng: random.Random, out: Path, variant: str) -> str:
        """Disturbs the command in a separate process, and describes how."""

    def busiest(self, out: Path, variant: str) -> Callable[[], None]:
        """The variant of the command that writes most often."""
        return self.command(out, variant)

    def before(self, out: Path, variant: str) -> list[str]:
        """Creates the initial content of the folder, and describes it."""
        return []

    def compared(self, name: str, content: bytes) -> Any:
        """The part of a file of this name that must be equal."""
        return content

    def after_full_disk(self, ended: Ended) -> str:
        """Checks the end of a command that may have met a full disk, and describes it."""
        return after_full_disk(ended)

    def whole(self, variant: str) -> dict[str, bytes]:
        """The files of an undisturbed run."""
        if variant not in self.wholes:
            out = self.folder / f"out-{variant}"
            self.wholes[variant], self.changes[variant] = undisturbed(self.busiest(out, variant), out)
        return self.wholes[variant]

    def goes_on(self, out: Path, variant: str) -> Ended:
        """The same command again completes the results of an undisturbed run, and leaves no other files."""
        ended = forked(self.command(out, variant))
        assert ended.code == 0 and ended.stderr == "", ended
        found, whole = files_of(out), self.whole(variant)
        assert sorted(found) == sorted(whole)
        differing = [name for name in whole if self.compared(name, found[name]) != self.compared(name, whole[name])]
        assert not differing, differing
        return ended

    def disturb(self, rng: random.Random, folder: Path) -> str:
        """See tests/faults/campaign.py."""
        variant = rng.choice(list(self.variants))
        self.whole(variant)
        if rng.random() < 0.1 and can_mount():
            with small_disk(folder / "disk", rng.randint(*self.small)) as disk:
                problem = self.after_full_disk(forked(self.busiest(disk / "out", variant)))
                left_whole(disk / "out")
                subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
                self.goes_on(disk / "out", variant)
            return f"{variant}: small disk: {problem}"
        out = folder / "out"
        told = self.before(out, variant)
        run, times = (self.process, 1) if rng.random() < 0.12 else (self.copy, rng.randint(1, 3))
        for _ in range(times):
            told.append(run(rng, out, variant))
            left_whole(out)
        self.goes_on(out, variant)
        return f"{variant}: {'; '.join(told)}"

    def copy(self, rng: random.Random, out: Path, variant: str) -> str:
        """Disturbs the command in a copy of this process, and describes how."""
        disturbance = chosen(rng, out, self.changes[variant])
        ended = forked(self.command(out, variant), disturbance.fault, disturbance.sent)
        if disturbance.is_full_disk:
            self.after_full_disk(ended)
        else:
            disturbance.check(ended)
        return f"{disturbance.told} -> {ended.code}"


def undisturbed(command: Callable[[], None], out: Path) -> tuple[dict[str, bytes], int]:
    """The files that a command leaves in a folder, and how many changes it makes there."""
    ended = forked(command, Fault(folder=out))
    assert (ended.code, ended.stderr) == (0, "") and "Traceback" not in ended.stdout, ended
    return files_of(out), ended.changes


def signalled(rng: random.Random, arguments: Sequence[str], has_workers: bool) -> str:
    """Sends signals to ``sam2fast`` as a process, from its first import on; its workers must end too.

    Returns:
        A description of the disturbance and the end.
    """
    number = rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
    after = rng.uniform(0.0, 20.0 if has_workers else 9.0)
    sent = [Sent(number, after, to_group=number == signal.SIGINT and rng.random() < 0.6)]
    if rng.random() < 0.3:
        sent.append(Sent(rng.choice([signal.SIGINT, signal.SIGTERM]), rng.uniform(0.0, 0.5)))
    ended = started(["-m", "sam2fast", *arguments], sent)
    told = f"process{' with workers' * has_workers}, {sent} -> {ended.code}"
    assert wait_until(lambda: not session_of(ended.pid)), f"{told}: processes are left"
    after_signal(ended, [each.number for each in sent], from_the_first_import=after < 3)
    return told

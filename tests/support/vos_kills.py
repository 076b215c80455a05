"""``sam2fast vos`` disturbed, looked at, and run again."""

import functools
import random
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from disturbed import after_full_disk, after_signal, can_mount, chosen, left_whole, small_disk
from file_contents import files_of
from killed import Ended, Fault, Sent, forked, session_of, started, wait_until, warm_up
from vos_sets import write_masks, write_video

from sam2fast import nano
from sam2fast.cli import main, vos_run
from sam2fast.config import shipped_configs
from sam2fast.vos import build_for_vos

DISCS = {0: {1: (30, 30, 18), 3: (80, 50, 20)}, 2: {1: (34, 32, 16), 3: (76, 50, 20)}}
LENGTHS = {"a": 5, "b": 3, "c": 2}
VARIANTS: dict[str, list[Any]] = {"whole": [], "late": ["--late-objects", "--all-masks"], "overwrite": ["--overwrite"]}
_load_once = functools.cache(build_for_vos)


class VosKills:
    """See tests/faults/campaign.py.

    Args:
        folder: for videos with masks, a model's configuration and undisturbed runs.
        lengths: of the videos, in frames.
    """

    def __init__(self, folder: Path, lengths: Mapping[str, int] = LENGTHS) -> None:
        self.folder = folder
        for name, frames in lengths.items():
            write_video(folder / "videos" / name, frames, seed=frames)
            write_masks(folder / "masks" / name, {t: discs for t, discs in DISCS.items() if t < frames})
        text = shipped_configs()["nano/sam2fast_nano"].read_text()
        (folder / "quick.yaml").write_text(text.replace("image_size: 256", "image_size: 128"))
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(vos_run, "build_for_vos", _load_once)
        self.wholes: dict[str, dict[str, bytes]] = {}
        self.changes: dict[str, int] = {}
        warm_up(self.command(folder / "warm", "whole"))

    def close(self) -> None:
        """Leaves this process as it was."""
        self._patch.undo()

    def arguments(self, out: Path, variant: str, *options: Any) -> list[str]:
        folders = ["--videos", self.folder / "videos", "--masks", self.folder / "masks", "--out", out]
        model = ["--model", self.folder / "quick.yaml", "--checkpoint", nano.WEIGHTS, "--device", "cpu"]
        return ["vos", *map(str, [*folders, *model, *VARIANTS[variant], *options])]

    def command(self, out: Path, variant: str, *options: Any) -> Callable[[], None]:
        """The command as a copy of this process is to call it."""
        return lambda: main(self.arguments(out, variant, *options), prog_name="sam2fast")

    def whole(self, variant: str) -> dict[str, bytes]:
        """The files of an undisturbed run."""
        if variant not in self.wholes:
            out = self.folder / f"out-{variant}"
            ended = forked(self.command(out, variant), Fault(folder=out))
            assert (ended.code, ended.stderr) == (0, ""), ended
            self.wholes[variant], self.changes[variant] = files_of(out), ended.changes
        return self.wholes[variant]

    def goes_on(self, out: Path, variant: str) -> Ended:
        """The same command again gives what an undisturbed run gives, byte for byte, and leaves nothing else."""
        ended = forked(self.command(out, variant))
        assert ended.code == 0 and ended.stderr == "", ended
        found, whole = files_of(out), self.whole(variant)
        assert sorted(found) == sorted(whole)
        assert found == whole, [name for name in whole if found[name] != whole[name]]
        return ended

    def before(self, out: Path) -> None:
        """Results of a run with other options, which the variant ``overwrite`` may replace."""
        ended = forked(self.command(out, "whole", "--score-thresh", "0.5"))
        assert ended.code == 0, ended

    # ---- the campaign ----

    def disturb(self, rng: random.Random, folder: Path) -> str:
        """See tests/faults/campaign.py."""
        variant, told = rng.choice(list(VARIANTS)), []
        self.whole(variant)
        if rng.random() < 0.1 and can_mount():
            with small_disk(folder / "disk", rng.randint(4, 200)) as disk:
                told.append(f"small disk: {problems(forked(self.command(disk / 'out', variant)))}")
                left_whole(disk / "out")
                subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
                self.goes_on(disk / "out", variant)
            return f"{variant}: {told[0]}"
        out = folder / "out"
        if variant == "overwrite":
            self.before(out)
        if rng.random() < 0.12:
            told.append(self._in_a_process(rng, out, variant))
            left_whole(out)
        else:
            for _ in range(rng.randint(1, 3)):
                disturbance = chosen(rng, out, self.changes[variant])
                ended = forked(self.command(out, variant), disturbance.fault, disturbance.sent)
                told.append(f"{disturbance.told} -> {ended.code}")
                if disturbance.is_full_disk:
                    problems(ended)
                else:
                    disturbance.check(ended)
                left_whole(out)
        self.goes_on(out, variant)
        return f"{variant}: {'; '.join(told)}"

    def _in_a_process(self, rng: random.Random, out: Path, variant: str) -> str:
        """From its first import on; at times with workers, which must end too."""
        number = rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
        options = ["--at-once", "2"] if rng.random() < 0.7 else []
        after = rng.uniform(0.0, 20.0 if options else 9.0)
        sent = [Sent(number, after, to_group=number == signal.SIGINT and rng.random() < 0.7)]
        if rng.random() < 0.3:
            sent.append(Sent(rng.choice([signal.SIGINT, signal.SIGTERM]), rng.uniform(0.0, 0.5)))
        ended = started(["-m", "sam2fast", *self.arguments(out, variant, *options)], sent)
        told = f"process {options}, {sent} -> {ended.code}"
        assert wait_until(lambda: not session_of(ended.pid)), f"{told}: processes are left"
        after_signal(ended, [each.number for each in sent], from_the_first_import=after < 3)
        return told


def problems(ended: Ended) -> str:
    """Checks the end of a command that may have met a full disk: here a video that was not done is told as it comes."""
    lines = ended.stderr.splitlines()
    if ended.code == 0 or len(lines) == 1:
        return after_full_disk(ended)
    assert ended.code == 1 and "Traceback" not in ended.stderr, ended
    assert lines[-1].endswith("had problems; all else was done"), ended
    for line in lines[:-1]:
        is_head = line.startswith("sam2fast: not done, or not whole, ")
        assert is_head or ("/" in line and ("No space left on device" in line or "File too large" in line)), ended
    return lines[0]

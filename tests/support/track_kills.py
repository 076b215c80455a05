"""``sam2fast track`` disturbed, looked at, and run again."""

import json
import os
import random
import signal
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import track_films
from disturbed import Disturbance, after_full_disk, after_signal, can_mount, chosen, left_whole, small_disk
from file_contents import files_of
from killed import Ended, Fault, Sent, forked, session_of, started, wait_until, warm_up
from track_runs import QuickTrack, box_of_disc, middle_of_square, quick_track, text

from sam2fast import nano
from sam2fast.cli import main, track_run

FORMATS = "json,png,overlay,coco"
VARIANTS: dict[str, list[Any]] = {"whole": [], "reverse": ["--reverse"], "stream": ["--stream"]}


class TrackKills:
    """See tests/faults/campaign.py.

    Args:
        folder: for a film, a model's configuration and undisturbed runs.
        frames: of the film.
        first, later: frames with prompts.
    """

    def __init__(self, folder: Path, frames: int = 20, first: int = 8, later: int = 14) -> None:
        self.folder = folder
        self.film = track_films.write_film(folder / "film.mp4", track_films.pictures(frames))
        self.prompts = [
            *("--point", text(first, 1, *middle_of_square(first))),
            *("--box", text(first, "disc", *box_of_disc(first))),
            *("--point", text(later, 1, *middle_of_square(later))),
        ]
        self._lasting = ExitStack()
        self.track: QuickTrack = self._lasting.enter_context(quick_track(folder))
        self.config = str(folder / "quick.yaml")
        self.wholes: dict[str, dict[str, bytes]] = {}
        self.changes: dict[str, int] = {}
        warm_up(self.command(folder / "warm", "whole"))

    def close(self) -> None:
        """Leaves this process as it was."""
        self._lasting.close()

    def arguments(self, out: Path, variant: str, formats: str = FORMATS, device: str = "cpu") -> list[str]:
        model = ["--model", self.config, "--checkpoint", nano.WEIGHTS, "--device", device]
        options = [*self.prompts, *VARIANTS[variant], "--format", formats, "--out", out]
        return ["track", *map(str, [self.film, *options, *model])]

    def command(self, out: Path, variant: str, between: float = 30.0, formats: str = FORMATS) -> Callable[[], None]:
        """The command as a copy of this process is to call it; so many seconds between checkpoints."""

        def work() -> None:
            track_run.SECONDS_BETWEEN_CHECKPOINTS = between
            main(self.arguments(out, variant, formats), prog_name="sam2fast")

        return work

    def whole(self, variant: str) -> dict[str, bytes]:
        """The files of an undisturbed run."""
        if variant not in self.wholes:
            out = self.folder / variant
            ended = forked(self.command(out, variant, 0.0), Fault(folder=out))
            assert (ended.code, ended.stderr) == (0, "") and "Traceback" not in ended.stdout
            self.wholes[variant], self.changes[variant] = files_of(out), ended.changes
        return self.wholes[variant]

    def goes_on(self, out: Path, variant: str) -> Ended:
        """The same command again gives what an undisturbed run gives, byte for byte, and leaves nothing else."""
        ended = forked(self.command(out, variant))
        assert ended.code == 0 and ended.stderr == "", ended
        found, whole = files_of(out), self.whole(variant)
        assert sorted(found) == sorted(whole)
        manifests = [json.loads(files["track.json"]) for files in (found, whole)]
        assert manifests[0] == manifests[1]
        differing = [name for name in whole if name != "track.json" and found[name] != whole[name]]
        assert not differing, differing
        return ended

    # ---- the campaign ----

    def disturb(self, rng: random.Random, folder: Path) -> str:
        """See tests/faults/campaign.py."""
        variant, told = rng.choice(list(VARIANTS)), []
        self.whole(variant)
        if rng.random() < 0.1 and can_mount():
            with small_disk(folder / "disk", rng.randint(8, 400)) as disk:
                told.append(f"small disk: {after_full_disk(forked(self.command(disk / 'out', variant, 0.0)))}")
                left_whole(disk / "out")
                subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
                self.goes_on(disk / "out", variant)
            return f"{variant}: {told[0]}"
        out = folder / "out"
        if rng.random() < 0.12:
            told.append(self._in_a_process(rng, out, variant))
            left_whole(out)
        else:
            for _ in range(rng.randint(1, 3)):
                told.append(self._here(chosen(rng, out, self.changes[variant]), rng, out, variant))
                left_whole(out)
        self.goes_on(out, variant)
        return f"{variant}: {'; '.join(told)}"

    def _here(self, disturbance: Disturbance, rng: random.Random, out: Path, variant: str) -> str:
        between = rng.choice([0.0, 0.02, 30.0])
        if between:  # changes were counted where the state is saved after each frame
            disturbance = disturbance._replace(is_certain=False)
        ended = forked(self.command(out, variant, between), disturbance.fault, disturbance.sent)
        disturbance.check(ended)
        return f"{disturbance.told} -> {ended.code}"

    def _in_a_process(self, rng: random.Random, out: Path, variant: str) -> str:
        """From its first import on; at times with workers, which must end too."""
        number = rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
        device, spread = ("cpu,cpu", True) if variant != "stream" and rng.random() < 0.5 else ("cpu", False)
        after = rng.uniform(0.0, 20.0 if spread else 9.0)
        sent = [Sent(number, after, to_group=rng.random() < 0.5 and number == signal.SIGINT)]
        if rng.random() < 0.3:
            sent.append(Sent(rng.choice([signal.SIGINT, signal.SIGTERM]), rng.uniform(0.0, 0.5)))
        arguments = self.arguments(out, variant, "json" if spread else FORMATS, device)
        ended = started(["-m", "sam2fast", *arguments], sent)
        told = f"process on {device}, {sent} -> {ended.code}"
        assert wait_until(lambda: not session_of(ended.pid)), f"{told}: processes are left"
        after_signal(ended, [each.number for each in sent], from_the_first_import=after < 3)
        if spread:  # its manifest says another device, so it cannot be gone on with
            for name in files_of(out) if out.is_dir() else ():
                os.unlink(out / name)
        return told

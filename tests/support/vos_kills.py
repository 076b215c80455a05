"""Disturbs ``sam2fast vos``, checks the files, and runs the command again."""

import functools
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from command_kills import CommandKills, signalled
from disturbed import after_full_disk
from killed import Ended, forked, warm_up
from small_nano import write_small_nano
from vos_sets import write_masks, write_video

from sam2fast import nano
from sam2fast.cli import main, vos_run
from sam2fast.evaluation.vos import build_for_vos

DISCS = {0: {1: (30, 30, 18), 3: (80, 50, 20)}, 2: {1: (34, 32, 16), 3: (76, 50, 20)}}
LENGTHS = {"a": 5, "b": 3, "c": 2}
VARIANTS: dict[str, list[Any]] = {"whole": [], "late": ["--late-objects", "--all-masks"], "overwrite": ["--overwrite"]}
_load_once = functools.cache(build_for_vos)


class VosKills(CommandKills):
    """See tests/faults/campaign.py.

    Args:
        folder: for videos with masks, a model's configuration and undisturbed runs.
        lengths: of the videos, in frames.
    """

    variants = tuple(VARIANTS)
    small = (4, 200)

    def __init__(self, folder: Path, lengths: Mapping[str, int] = LENGTHS) -> None:
        super().__init__(folder)
        for name, frames in lengths.items():
            write_video(folder / "videos" / name, frames, seed=frames)
            write_masks(folder / "masks" / name, {t: discs for t, discs in DISCS.items() if t < frames})
        write_small_nano(folder / "quick.yaml")
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(vos_run, "build_for_vos", _load_once)
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

    def before(self, out: Path, variant: str) -> list[str]:
        """Results that the variant ``overwrite`` may replace."""
        if variant != "overwrite":
            return []
        ended = forked(self.command(out, "whole", "--score-thresh", "0.5"))
        assert ended.code == 0, ended
        return ["after a run with other options"]

    def after_full_disk(self, ended: Ended) -> str:
        """Of many videos, each that was not done is told as it comes."""
        lines = ended.stderr.splitlines()
        if ended.code == 0 or len(lines) == 1:
            return after_full_disk(ended)
        assert ended.code == 1 and "Traceback" not in ended.stderr, ended
        assert lines[-1].endswith("had problems; all else was done"), ended
        for line in lines[:-1]:
            is_head = line.startswith("sam2fast: failed or incomplete: ")
            assert is_head or ("/" in line and ("No space left on device" in line or "File too large" in line)), ended
        return lines[0]

    def process(self, rng: random.Random, out: Path, variant: str) -> str:
        options = ["--at-once", "2"] if rng.random() < 0.7 else []
        return signalled(rng, self.arguments(out, variant, *options), has_workers=bool(options))

"""Disturbs ``sam2fast track``, checks the files, and runs the command again."""

import json
import random
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import moving_shapes
from command_kills import CommandKills, signalled
from disturbed import chosen
from killed import forked, warm_up
from track_runs import QuickTrack, prompts_at, quick_track

from sam2fast import nano
from sam2fast.cli import main, track_run

FORMATS = "json,png,overlay,coco"
VARIANTS: dict[str, list[Any]] = {"whole": [], "reverse": ["--reverse"], "stream": ["--stream"]}


class TrackKills(CommandKills):
    """See tests/faults/campaign.py.

    Args:
        folder: for a video, a model's configuration and undisturbed runs.
        frames: of the video.
        first, later: frames with prompts.
    """

    variants = tuple(VARIANTS)
    small = (8, 400)

    def __init__(self, folder: Path, frames: int = 20, first: int = 8, later: int = 14) -> None:
        super().__init__(folder)
        self.video = moving_shapes.write_video(folder / "video.mp4", moving_shapes.make_frames(frames))
        self.prompts = prompts_at(first, later)
        self._lasting = ExitStack()
        self.track: QuickTrack = self._lasting.enter_context(quick_track(folder))
        self.config = str(folder / "quick.yaml")
        warm_up(self.command(folder / "warm", "whole"))

    def close(self) -> None:
        """Leaves this process as it was."""
        self._lasting.close()

    def arguments(self, out: Path, variant: str, formats: str = FORMATS) -> list[str]:
        model = ["--model", self.config, "--checkpoint", nano.WEIGHTS, "--device", "cpu"]
        options = [*self.prompts, *VARIANTS[variant], "--format", formats, "--out", out]
        return ["track", *map(str, [self.video, *options, *model])]

    def command(self, out: Path, variant: str, between: float = 30.0, formats: str = FORMATS) -> Callable[[], None]:
        """The command as a copy of this process is to call it; so many seconds between checkpoints."""

        def work() -> None:
            track_run.SECONDS_BETWEEN_CHECKPOINTS = between
            main(self.arguments(out, variant, formats), prog_name="sam2fast")

        return work

    def busiest(self, out: Path, variant: str) -> Callable[[], None]:
        return self.command(out, variant, 0.0)

    def compared(self, name: str, content: bytes) -> Any:
        return json.loads(content) if name == "track.json" else content

    def copy(self, rng: random.Random, out: Path, variant: str) -> str:
        disturbance, between = chosen(rng, out, self.changes[variant]), rng.choice([0.0, 0.02, 30.0])
        if between:  # changes were counted where the state is saved after each frame
            disturbance = disturbance._replace(is_certain=False)
        ended = forked(self.command(out, variant, between), disturbance.fault, disturbance.sent)
        disturbance.check(ended)
        return f"{disturbance.told} -> {ended.code}"

    def process(self, rng: random.Random, out: Path, variant: str) -> str:
        return signalled(rng, self.arguments(out, variant), has_workers=False)

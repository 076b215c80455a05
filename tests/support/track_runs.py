"""``sam2fast track`` in the tests' own process, with a model that is quick, and prompts for :mod:`moving_shapes`."""

import contextlib
import functools
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click.testing
import moving_shapes
import pytest
import torch
from commands import act_at, invoke
from small_nano import write_small_nano

from sam2fast import nano
from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.cli import track_run
from sam2fast.results.record import read_lines
from sam2fast.sam2_video_predictor import SAM2VideoPredictor

_load_once = functools.cache(build_sam2_video_predictor)


class QuickTrack:
    """Runs the command with nano at a sixteenth of its pixels, which is loaded once and looks back six frames.

    ``folder`` has its configuration; ``side`` is that of the model's input.
    """

    def __init__(self, folder: Path, side: int = 64) -> None:
        self.config = write_small_nano(folder / "quick.yaml", side, max_obj_ptrs_in_encoder=4)

    def __call__(self, *arguments: Any, device: str = "cpu") -> click.testing.Result:
        options = ["--model", self.config, "--checkpoint", nano.WEIGHTS, "--device", device]
        return invoke("track", *arguments, *options)

    @property
    def predictor(self) -> SAM2VideoPredictor:
        """The one that the command uses."""
        return _load_once(self.config, nano.WEIGHTS, device="cpu", dtype=torch.float32)


@contextlib.contextmanager
def quick_track(folder: Path) -> Iterator[QuickTrack]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(track_run, "build_sam2_video_predictor", _load_once)
        yield QuickTrack(folder)


press_ctrl_c = partial(signal.raise_signal, signal.SIGINT)


def interrupt_after(patch: pytest.MonkeyPatch, count: int, act: Callable[[], Any] = press_ctrl_c) -> None:
    """Makes ``act`` happen while this process records frame number ``count``, counted from 1."""
    act_at(patch, track_run, "frame_record", count, act)


def middle_of_square(frame: int) -> tuple[float, float]:
    x0, y0, x1, y1 = moving_shapes.square_at(frame)
    return (x0 + x1) / 2, (y0 + y1) / 2


def box_of_disc(frame: int) -> tuple[int, int, int, int]:
    x, y, radius = moving_shapes.disc_at(frame)
    return x - radius, y - radius, x + radius + 1, y + radius + 1


def text(*values: Any) -> str:
    return ",".join(map(str, values))


def prompts_at(first: int, later: int) -> list[str]:
    """Two objects, first shown during the video, and one of them once more."""
    return [
        *("--point", text(first, 1, *middle_of_square(first))),
        *("--box", text(first, "disc", *box_of_disc(first))),
        *("--point", text(later, 1, *middle_of_square(later))),
    ]


FRAMES, FIRST, LATER = 20, 8, 14
PROMPTS = prompts_at(FIRST, LATER)
ONE = ["--point", text(0, 1, *middle_of_square(0))]


def lines_of(folder: Path) -> dict[int, dict[str, Any]]:
    """The record by frame, in its order."""
    return {line["frame"]: line for line in read_lines(folder / "masks.jsonl")}

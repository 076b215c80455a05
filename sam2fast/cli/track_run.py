"""Tracks frame after frame, and records each when it is done."""

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from tqdm import tqdm

from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.cli.errors import one_line
from sam2fast.cli.model_choice import ModelChoice
from sam2fast.cli.signals import ENDING
from sam2fast.cli.track_film import Film
from sam2fast.cli.track_folder import RunFolder
from sam2fast.cli.track_outputs import FrameDrawing
from sam2fast.cli.track_passes import Passes
from sam2fast.cli.track_record import as_line, frame_record
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.video_io import VideoError

SECONDS_BETWEEN_CHECKPOINTS = 30.0
STDERR = 2
STOPPING = (signal.SIGINT, *ENDING)


def load_predictor(choice: ModelChoice, device: str, dtype: str) -> tuple[SAM2VideoPredictor, dict[str, Any]]:
    """The model, and what tells it from another one.

    Raises:
        UserError: checkpoint, configuration, device or dtype cannot be used.
    """
    with one_line(OSError, ValueError, RuntimeError, ImportError):
        predictor = build_sam2_video_predictor(
            choice.config, choice.checkpoint, device=device, dtype=getattr(torch, dtype)
        )
        return predictor, {**choice.facts(), "device": str(predictor.device), "dtype": dtype}


@dataclass
class LiveFilm:
    """The film of a video that cannot be read again, drawn while it is tracked."""

    film: Film
    drawing: FrameDrawing


@dataclass
class Outcome:
    """How tracking ended."""

    frames: int = 0  # tracked by this process
    seconds: float = 0.0
    stopped: int | None = None  # the signal that ended it
    failure: str | None = None  # what was wrong with the video


def track(
    predictor: SAM2VideoPredictor,
    passes: Passes,
    folder: RunFolder,
    goes_on: bool,
    film: LiveFilm | None,
    progress: bool,
) -> Outcome:
    """Records all frames that are left, or those before the video breaks or a signal comes.

    Args:
        goes_on: another run may go on where this one is interrupted; otherwise that is the end.
        film: what is drawn on the way, which is finished in any case.
        progress: show a bar even if stderr is no terminal.

    Raises:
        UserError: a file cannot be written, or the model's numbers are not finite. What was recorded until the last
            checkpoint stays.
    """
    outcome, begun, saved = Outcome(), time.monotonic(), time.monotonic()
    frames = iter(passes)
    try:
        with (
            folder.recording(),
            _Signals() as signals,
            tqdm(total=passes.total, initial=folder.done, desc="frames", disable=False if progress else None) as bar,
        ):
            while True:
                try:
                    found = next(frames, None)
                except (VideoError, torch.OutOfMemoryError) as error:
                    outcome.failure = " ".join(str(error).split())
                    break
                if found is None:
                    break
                record = None
                if found.ids:
                    record = frame_record(found.frame, found.time, found.ids, found.masks, found.scores, passes.size)
                    folder.append(as_line(record))
                    outcome.frames += 1
                    bar.update()
                if film is not None and found.rgb is not None:
                    picture = found.rgb if record is None else film.drawing.draw(found.rgb, record)
                    film.film.add(picture, found.time)
                if signals.received is not None:
                    outcome.stopped = signals.received
                    break
                if goes_on and time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                    folder.checkpoint(passes.save)
                    saved = time.monotonic()
            outcome.seconds = time.monotonic() - begun
            if goes_on and (outcome.stopped is not None or outcome.failure is not None):
                folder.checkpoint(passes.save)
            else:
                folder.finish()
    finally:
        if film is not None:
            film.film.finish()
    return outcome


class _Signals:
    """Inside, Ctrl-C, SIGTERM and SIGHUP are noted rather than obeyed; a second one acts as before.

    Those that are ignored, as under ``nohup`` or in the background of a script, stay so.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Signals":
        for number in STOPPING:
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN and before is not None:
                self._before[number] = before  # first, since the signal may come at once
                signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        self.received = number
        self._restore()
        # Not by Python's own stderr, which may be amid a write.
        with suppress(OSError):
            os.write(STDERR, b"\nsam2fast: stopping after this frame\n")

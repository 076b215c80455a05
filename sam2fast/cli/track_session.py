"""One run of ``sam2fast track``, from the checked command line to the exit code."""

import hashlib
import sys
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from sam2fast import __version__
from sam2fast.approximations import EXACT, Approximations
from sam2fast.cli.errors import UserError, one_line
from sam2fast.cli.model_choice import ModelChoice
from sam2fast.cli.segmenter import read_foreground
from sam2fast.cli.signals import SIGNALLED, if_read, tell
from sam2fast.cli.track_film import Film
from sam2fast.cli.track_folder import OVERLAY, RunFolder
from sam2fast.cli.track_outputs import FrameDrawing, Outputs, Subject
from sam2fast.cli.track_passes import Masks, Plan, StreamPasses, VideoPasses
from sam2fast.cli.track_prompts import TrackPrompt, check_against_video, objects_of
from sam2fast.cli.track_run import LiveFilm, Outcome, load_predictor, track
from sam2fast.cli.track_video import VideoSource, probe
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.video_io.film_file import NoEncoderError


class Request(NamedTuple):
    """What was asked for."""

    source: VideoSource
    prompts: Sequence[TrackPrompt]
    start: int
    end: int | None
    reverse: bool
    stream: bool
    max_frames: int | None
    formats: Sequence[str]
    show_ids: bool
    progress: bool
    approximations: Approximations = EXACT

    @property
    def plan(self) -> Plan:
        return Plan(self.prompts, self.start, self.end, self.reverse)


def run(request: Request, choice: ModelChoice, device: str, dtype: str, out: Path, overwrite: bool) -> int:
    """Tracks what is left to be tracked, makes what is missing, and says so; gives the exit code.

    Raises:
        UserError: something that was given cannot be used; then nothing was written. Or a file cannot be written, or
            the model's numbers are not finite; what was done until then stays.
    """
    masks = {prompt: read_foreground(prompt.mask) for prompt in request.prompts if prompt.mask is not None}
    source, facts = request.source, request.source.facts()
    if not source.is_live:
        size = probe(source)
        check_against_video(request.prompts, masks, *size, request.start, request.end)
    begun = time.monotonic()
    predictor, model = load_predictor(choice, device, dtype)
    with one_line(ValueError):
        predictor.approximations = request.approximations
    if request.approximations != EXACT:
        model["approximations"] = request.approximations.named()
    loading = time.monotonic() - begun
    folder = RunFolder(out, _asked(request, facts, model, masks), overwrite)
    if source.is_live and not folder.is_new:
        raise UserError(f"{out} holds what was tracked in {source.name}, which cannot go on; give another --out folder")

    outcome = Outcome()
    if folder.complete:
        folder.begin()
    else:
        outcome = _track(request, choice, predictor, folder, masks)
    del predictor  # its memory is better used by what follows
    begun = time.monotonic()
    if folder.complete:
        folder.sort()
    if not source.is_live:
        _outputs(request, folder).make(request.formats)
    elif "coco" in request.formats or "png" in request.formats:
        _outputs(request, folder).make([kind for kind in request.formats if kind != "overlay"])
    # Where the end of its terminal has stopped the run, that is still what the exit code tells.
    with nullcontext() if outcome.stopped is None else if_read(sys.stdout):
        _report(folder, outcome, loading, time.monotonic() - begun)
    return _exit_code(request, folder, outcome)


def _asked(request: Request, video: dict[str, Any], model: dict[str, Any], masks: Masks) -> dict[str, Any]:
    """What the results depend on."""
    prompts = [
        prompt.as_json() | ({"sha256": _digest(masks[prompt])} if prompt in masks else {}) for prompt in request.prompts
    ]
    return {
        "video": video,
        "prompts": prompts,
        "model": model,
        "range": {
            "start": request.start,
            "end": request.end,
            "reverse": request.reverse,
            "stream": request.stream,
            "max_frames": request.max_frames,
        },
        "version": __version__,
    }


def _digest(mask: np.ndarray) -> str:
    return hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()


def _track(
    request: Request, choice: ModelChoice, predictor: SAM2VideoPredictor, folder: RunFolder, masks: Masks
) -> Outcome:
    passes: VideoPasses | StreamPasses
    if request.stream:
        passes = StreamPasses(
            predictor, request.source, request.plan, masks, request.max_frames, folder.done, folder.state
        )
    else:
        passes = VideoPasses(predictor, request.source, request.plan, masks, folder.done, folder.state, folder.backward)
    with closing(passes):
        folder.begin()
        height, width = passes.size
        folder.note(
            source=request.source.name,
            model={"config": choice.config, "checkpoint": str(choice.checkpoint)},
            size={"width": width, "height": height},
            frames=passes.video_frames,
            objects=objects_of(request.prompts),
            problem=None,
        )
        film = None
        if isinstance(passes, StreamPasses) and request.source.is_live and "overlay" in request.formats:
            film = _live_film(request, folder, passes)
        outcome = track(predictor, passes, folder, not request.source.is_live, film, request.progress)
        if folder.complete and passes.problem is not None:
            folder.note(problem=passes.problem)
    return outcome


def _live_film(request: Request, folder: RunFolder, passes: StreamPasses) -> LiveFilm | None:
    try:
        film = Film(folder.path / OVERLAY, *passes.size, passes.reader.rate)
    except NoEncoderError as error:
        click.echo(f"sam2fast: note: no {OVERLAY}, since {error}", err=True)
        return None
    return LiveFilm(film, FrameDrawing(objects_of(request.prompts), request.show_ids))


def _outputs(request: Request, folder: RunFolder) -> Outputs:
    bounded = request.end is not None or request.max_frames is not None
    subject = Subject(request.source, objects_of(request.prompts), folder["frames"], request.start, bounded)
    return Outputs(folder, subject, request.show_ids, request.progress)


def _report(folder: RunFolder, outcome: Outcome, loading: float, writing: float) -> None:
    seconds = f"load model {loading:.1f} s, track {outcome.seconds:.1f} s, write {writing:.1f} s"
    rate = f", {outcome.frames / outcome.seconds:.1f} frames/s" if outcome.frames else ""
    click.echo(f"{outcome.frames} frames tracked{rate} ({seconds}); {folder.done} in all")
    click.echo(f"written to {click.format_filename(folder.path)}")


def _exit_code(request: Request, folder: RunFolder, outcome: Outcome) -> int:
    if outcome.failure is not None:
        raise UserError(f"{outcome.failure}; {folder.done} frames before that are in {folder.path}")
    if outcome.stopped is not None:
        more = "" if request.source.is_live else "; the same command again goes on"
        tell(f"stopped after {folder.done} frames{more}")
        return SIGNALLED + outcome.stopped
    if folder["problem"]:
        raise UserError(f"{folder['problem']}; {folder.done} frames are in {folder.path}")
    return 0

"""Runs ``sam2fast track``: propagates from the beginning of the video or from a saved state."""

import hashlib
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.cli.left_out import LeftOut
from sam2fast.cli.mask_files import read_foreground
from sam2fast.cli.model_choice import ModelChoice
from sam2fast.cli.prompts import check_against_video
from sam2fast.cli.reporting import emit, progress_bar, say
from sam2fast.cli.terminal import SIGNAL_EXIT_BASE, announce_stop, ignore_closed_stream, note_signals, print_message
from sam2fast.cli.track_folder import RunFolder, frame_record
from sam2fast.cli.track_outputs import write_outputs
from sam2fast.cli.track_overlay import FrameDrawing, open_overlay
from sam2fast.cli.track_passes import Masks, StreamPropagation, VideoPropagation
from sam2fast.cli.track_request import TrackRequest
from sam2fast.cli.user_errors import UserError, as_model_error, as_user_error, print_note
from sam2fast.io.image_names import utf8_text
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.tracking.strategies import strategy_of
from sam2fast.video_io import VideoError

SECONDS_BETWEEN_CHECKPOINTS = 30.0
OPTIONS = ("start", "end", "step", "reverse", "stream", "max_frames", "strategy")


@dataclass
class Outcome:
    """The outcome of tracking."""

    frames: int = 0  # number of frames that this process tracked
    seconds: float = 0.0
    stopped: int | None = None  # signal that ended tracking
    failure: str | None = None  # error that ended the video early


def load_predictor(choice: ModelChoice, device: str, dtype: str) -> tuple[SAM2VideoPredictor, dict[str, Any]]:
    """Returns the model and the record of the model. Raises ModelError."""
    with as_model_error():
        predictor = build_sam2_video_predictor(
            choice.config, choice.checkpoint, device=device, dtype=getattr(torch, dtype), image_size=choice.image_size
        )
        return predictor, choice.made_from(dtype=dtype, device=str(predictor.device))


def run(
    request: TrackRequest,
    choice: ModelChoice,
    load: Callable[[], tuple[SAM2VideoPredictor, dict[str, Any]]],
    out: Path,
    overwrite: bool,
    stop: Path | None = None,
) -> int:
    """Tracks the remaining frames, writes missing files, and returns the exit code.

    Args:
        load: Function that returns the model and the record of the model; see :func:`load_predictor`.
        stop: In a worker process, a file that stops the run after the current frame, once the file exists.

    Raises:
        FixableError, OSError: If the input is invalid, before any file is written. If a file cannot be written, a
            frame cannot be read, or the scores are not finite; earlier results remain.
        ModelError: If ``load`` raises ModelError.
    """
    masks = {prompt: read_foreground(prompt.mask) for prompt in request.prompts if prompt.mask is not None}
    source, of_video = request.source, request.source.made_from()
    if not source.is_live:
        height, width, count = source.probe()
        if request.first_name and any((request.start, request.end, *(prompt.frame for prompt in request.prompts))):
            print_note(f"frames are counted from 0: frame 0 is {request.first_name}")
        allowed = request.start, request.end, request.first_name
        check_against_video(request.prompts, masks, height, width, count, *allowed)
    begun = time.monotonic()
    predictor, of_model = load()
    with as_user_error(ValueError):
        predictor.approximations = request.approximations
        predictor.strategy = strategy_of(request.strategy)
    loaded = time.monotonic()
    folder = RunFolder(out, _made_from(request, of_video, of_model, masks), overwrite)
    if source.is_live and not folder.is_new:
        raise UserError(f"{out} holds results of {source.name}, which cannot be continued; give another --out folder")
    if folder.complete:
        folder.begin()
        outcome = Outcome()
    else:
        outcome = _track(request, choice, predictor, folder, masks, stop)
    del predictor  # frees the memory of the predictor
    tracked = time.monotonic()
    if folder.complete:
        folder.sort()
    write_outputs(folder, request)
    rate = f", {outcome.frames / outcome.seconds:.1f} frames/s" if outcome.frames else ""
    stages = (("load model", loaded - begun), ("track", outcome.seconds), ("write", time.monotonic() - tracked))
    seconds = ", ".join(f"{stage} {value:.1f} s" for stage, value in stages)
    # After SIGHUP the terminal may be closed. Printing must not change the signal's exit code.
    with nullcontext() if outcome.stopped is None else ignore_closed_stream(sys.stdout):
        say(f"{outcome.frames} frames tracked{rate} ({seconds}); {folder.done} in all")
        say(f"written to {click.format_filename(folder.path)}")
        spent = {name: round(value, 3) for name, value in stages}
        facts = {"video": source.name, "frames": folder.done, "complete": folder.complete, "objects": folder["objects"]}
        left_out = _left_out(request, folder)
        facts |= {"left_out": left_out.as_json()} if left_out else {}
        facts |= {name: folder[name] for name in ("page", "bands", "scale") if folder[name]}
        emit({**facts, "seconds": spent, "out": str(folder.path), "model": folder["model"]})
        if left_out and str(left_out) not in (folder["problem"] or ""):
            print_note(f"left out: {left_out}")
    if outcome.failure is not None:
        raise UserError(f"{outcome.failure}; {folder.done} frames before that are in {folder.path}")
    if outcome.stopped is not None:
        again = "continue" if folder["state"] else "begin again"
        again = "" if source.is_live else f"; run the same command again to {again}"
        print_message(f"stopped after {folder.done} frames{again}")
        return SIGNAL_EXIT_BASE + outcome.stopped
    if folder["problem"]:
        raise UserError(f"{folder['problem']}; {folder.done} frames are in {folder.path}")
    return 0


def _made_from(
    request: TrackRequest, video: Mapping[str, Any], model: Mapping[str, Any], masks: Masks
) -> dict[str, Any]:
    """Returns the record of the results; see :mod:`sam2fast.io.made_from`."""
    digests = {prompt: hashlib.sha256(np.packbits(mask).tobytes()).hexdigest() for prompt, mask in masks.items()}
    prompts = [p.as_entry() | {"mask": digests.get(p)} for p in request.prompts]
    options = {name: getattr(request, name) for name in OPTIONS}
    options |= {"approximate": request.approximations.named(), **model["options"]}
    if request.source.is_volume:
        options |= {"axis": request.source.axis or "axial", "window": request.source.window}
    if request.source.tone_map:
        options["tone_map"] = True
    boxes = {} if request.detections is None else request.detections.as_json()
    content = {"boxes": boxes.pop("sha256")} if boxes else {}
    return {**model, **video, "prompts": prompts, **content, "options": {**options, **boxes}}


def _track(
    request: TrackRequest,
    choice: ModelChoice,
    predictor: SAM2VideoPredictor,
    folder: RunFolder,
    masks: Masks,
    stop: Path | None,
) -> Outcome:
    """Opens the video, and tracks until its end, an error or a signal."""
    passes = (StreamPropagation if request.stream else VideoPropagation)(predictor, request, masks, folder)
    with closing(passes):
        folder.begin()
        height, width = passes.size
        folder.note(
            source=request.source.name,
            model=choice.as_json(),
            size={"width": width, "height": height},
            frames=passes.video_frames,
            frame_names=request.frame_names,
            objects=folder["objects"] or request.objects,
            problem=None,
        )
        outcome = _record(request, passes, folder, stop)
        folder.note(**passes.choices)
        if folder.complete and passes.problem is not None:
            folder.note(problem=passes.problem)
        elif folder.complete and request.detections is not None and request.detections.boxes and not folder["objects"]:
            why = _left_out(request, folder) or "--start, --end, --step and --every leave no frame with boxes"
            folder.note(problem=f"no box started an object: {why}")
    return outcome


def _left_out(request: TrackRequest, folder: RunFolder) -> LeftOut:
    """Counts the detector's boxes that had no effect."""
    left_out = LeftOut()
    if request.detections is not None:
        left_out.add_all(request.detections.left_out)
    for entry in folder["left_out"] or ():
        left_out.add(**entry)
    return left_out


def _record(
    request: TrackRequest, passes: VideoPropagation | StreamPropagation, folder: RunFolder, stop: Path | None
) -> Outcome:
    """Records each tracked frame, and periodically saves the state for another run."""
    outcome, is_live = Outcome(), request.source.is_live

    def note_left_out() -> None:
        if isinstance(passes, StreamPropagation) and request.detections is not None:
            folder.note(left_out=passes.left_out.as_json())

    overlay, drawing = None, FrameDrawing(request.objects, request.show_ids)
    if isinstance(passes, StreamPropagation) and is_live and "overlay" in request.formats:
        overlay = open_overlay(folder, passes.reader, request.step)
    begun = saved = time.monotonic()
    frames = iter(passes)
    try:
        with (
            folder.recording(),
            note_signals(announce_stop if stop is None else lambda _: None, once=True) as stopped,
            progress_bar("frames", passes.total, "frames", folder.done) as bar,
        ):
            while True:
                try:
                    tracked = next(frames, None)
                except (VideoError, torch.OutOfMemoryError) as error:
                    outcome.failure = " ".join(str(error).split())
                    break
                if tracked is None:
                    break
                record = None
                if tracked.ids or request.detections is not None:
                    name = utf8_text(request.frame_name(tracked.frame)) if request.frame_names else None
                    results = tracked.ids, tracked.masks, tracked.scores
                    record = frame_record(tracked.frame, tracked.time, *results, passes.size, name)
                    folder.append(record)
                    outcome.frames += 1
                    bar.update()
                if overlay is not None and tracked.rgb is not None:
                    overlay.add(tracked.rgb if record is None else drawing.draw(tracked.rgb, record), tracked.time)
                if stop is not None and stop.exists():
                    stopped.append(signal.SIGTERM)
                if stopped:
                    outcome.stopped = stopped[0]
                    break
                if passes.resumes and not is_live and time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                    note_left_out()
                    folder.checkpoint(passes.save)
                    saved = time.monotonic()
            outcome.seconds = time.monotonic() - begun
            note_left_out()
            if is_live or (outcome.stopped is None and outcome.failure is None):
                folder.finish()
            elif passes.resumes:
                folder.checkpoint(passes.save)
    finally:
        if overlay is not None:
            overlay.finish()
    return outcome

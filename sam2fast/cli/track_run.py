"""One run of ``sam2fast track``: propagation from the video's beginning or from where a run stopped."""

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, nullcontext, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from torch import Tensor

from sam2fast import __version__
from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.cli.mask_files import read_foreground
from sam2fast.cli.model_choice import ModelChoice
from sam2fast.cli.reporting import emit, progress_bar, say
from sam2fast.cli.terminal import SIGNAL_EXIT_BASE, ignore_closed_stream, note_signals, print_message
from sam2fast.cli.track_exports import write_exports
from sam2fast.cli.track_folder import RunFolder, as_line, derive_outputs, frame_record
from sam2fast.cli.track_overlay import FrameDrawing, open_overlay, write_overlay
from sam2fast.cli.track_request import TrackPrompt, TrackRequest, check_against_video
from sam2fast.cli.user_errors import UserError, as_model_error, as_user_error
from sam2fast.compat.video_state import VideoState
from sam2fast.modeling.memory_selection import MemoryRules
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.tracking.approximations import EXACT
from sam2fast.tracking.outputs import Output, TrackScores
from sam2fast.tracking.strategies import strategy_of
from sam2fast.tracking.stream import StreamResult, VideoStream
from sam2fast.video_io import StreamFrame, VideoError, read_frames

SECONDS_BETWEEN_CHECKPOINTS = 30.0
STDERR = 2
# Errors of unusable videos and saved states.
UNUSABLE = (OSError, ValueError, TypeError, ImportError)
Masks = Mapping[TrackPrompt, np.ndarray]  # (H, W) bool, of the prompts that have one


class TrackedFrame(NamedTuple):
    """All objects on one frame."""

    frame: int
    time: float | None  # seconds since the video's first frame
    ids: list[Any]
    masks: Tensor  # (N, 1, h, w) low-resolution logits, or (N, 1, H, W)
    scores: TrackScores
    rgb: np.ndarray | None = None  # (H, W, 3) uint8, of cameras and URLs


@dataclass
class Outcome:
    """How tracking ended."""

    frames: int = 0  # tracked by this process
    seconds: float = 0.0
    stopped: int | None = None  # the signal that ended it
    failure: str | None = None  # the error of the video


class VideoPropagation:
    """Tracks a video file or folder: forwards, then, with ``--reverse``, backwards.

    Iteration yields the frames that earlier runs have not tracked; raises VideoError if one cannot be read.

    Args:
        folder: the progress and the saved states of earlier runs.

    Attributes:
        size: (H, W) of the video.
        video_frames: the number of frames in the video, None if unknown.
        total: the number of frames to track, including those of earlier runs; None if unknown.
        rate, pixel_aspect: the frames per second of a stream, if known, and a pixel's width divided by its height.
        problem: an error of the video, known after the last frame.
        resumes: whether a run that is stopped can be continued; not where masks are decided when a pass ends.
    """

    rate, pixel_aspect = None, Fraction(1)

    def __init__(self, predictor: SAM2VideoPredictor, request: TrackRequest, masks: Masks, folder: RunFolder) -> None:
        self._predictor, self._video, self._done = predictor, request.source.to_open, folder.done
        self._backward_file = folder.backward
        self.resumes = predictor.strategy.hypotheses == 1
        reach = MemoryRules.of(predictor).reach
        first = request.first
        self._backward = range(first - 1, request.start - 1, -1) if request.reverse else range(0)
        if folder.state is None:
            # The backward pass also attends to frames after the first one, until it has tracked enough frames itself.
            history = None if predictor.strategy.looks_further else 2 * reach if self._backward else reach
            with as_user_error(*UNUSABLE):
                self._state = predictor.init_state(self._video, async_loading_frames=True, max_history=history)
        else:
            self._state = self._load(folder.state)
        frames = self._state.frames
        self.size, self.video_frames = (frames.height, frames.width), len(frames)
        check_against_video(request.prompts, masks, *self.size, len(frames), request.start, request.end)
        self._forward = range(first, len(frames) if request.end is None else min(request.end + 1, len(frames)))
        # The backward pass attends to no later frames.
        turn = len(self._forward) if predictor.strategy.looks_further else reach
        self._turn = min(turn, len(self._forward) - 1)
        self.total = len(self._forward) + len(self._backward)
        self.problem = frames.truncated if request.end is None or request.end >= len(frames) else None
        for prompt in request.prompts if folder.state is None else ():
            if prompt in masks:
                predictor.add_new_mask(self._state, prompt.frame, prompt.object, masks[prompt])
            else:
                predictor.add_new_points_or_box(self._state, prompt.frame, prompt.object, **prompt.as_arguments())

    def __iter__(self) -> Iterator[TrackedFrame]:
        left = self._forward[self._done :]
        if left:
            for count, item in enumerate(self._propagate(left, reverse=False), self._done):
                if self._backward and count == self._turn:
                    with as_user_error(OSError):
                        self._predictor.save_state(self._state, self._backward_file)
                yield item
        left = self._backward[max(self._done - len(self._forward), 0) :]
        if left:
            if self._done <= len(self._forward):
                self._state.frames.close()
                self._state = self._load(self._backward_file)
            # Starting at frame 0 would make no pass. So it starts one frame later, and skips that frame.
            yield from islice(self._propagate(range(left[0] + 1, left[-1] - 1, -1), reverse=True), 1, None)

    def save(self, file: Path) -> None:
        """Writes the state after the frame that was yielded last."""
        self._predictor.save_state(self._state, file)

    def close(self) -> None:
        """Closes the video."""
        self._state.frames.close()

    def _propagate(self, frames: range, reverse: bool) -> Iterator[TrackedFrame]:
        form, state = _masks_form(self._predictor), self._state
        found = self._predictor.propagate_in_video(
            state, frames[0], len(frames) - 1, reverse, return_scores=True, progress=False, output=form
        )
        # Stops before the end, where a truncated video raises: `problem` is reported after all other work.
        for frame, ids, masks, scores in islice(found, len(frames)):
            yield TrackedFrame(frame, state.frames.time(frame), ids, masks, scores)

    def _load(self, file: Path) -> VideoState:
        with as_user_error(*UNUSABLE):
            return self._predictor.load_state(file, self._video, async_loading_frames=True)


class StreamPropagation:
    """Tracks a video while it is read, once and in order; prompts are added at their frames.

    Of cameras and URLs, the frames before the first prompt are yielded too, without objects. For the rest see
    :class:`VideoPropagation`.
    """

    resumes = True

    def __init__(self, predictor: SAM2VideoPredictor, request: TrackRequest, masks: Masks, folder: RunFolder) -> None:
        self._predictor, self._request, self._masks = predictor, request, masks
        self._first, self._is_live = request.first, request.source.is_live
        self._next = self._first + folder.done if folder.done else request.start
        self.problem: str | None = None
        with ExitStack() as opened, as_user_error(*UNUSABLE):
            self._reader = reader = opened.enter_context(read_frames(request.source.to_open, predictor.image_size))
            self.size, self.rate, self.video_frames = (reader.height, reader.width), reader.rate, reader.count
            self.pixel_aspect = reader.pixel_aspect
            count = reader.count
            check_against_video(request.prompts, masks, *self.size, count, request.start, request.last)
            if folder.state is None:
                # The number of frames only matters if it is less than the model's history.
                is_short = count is not None and count < MemoryRules.of(predictor).max_pointers
                stream = predictor.open_stream(num_frames=count if is_short else None)
            else:
                stream = predictor.restore_stream(folder.state)
            self._stream: VideoStream = opened.enter_context(stream)
            self._opened = opened.pop_all()
        stops = [stop for stop in (count, None if request.last is None else request.last + 1) if stop is not None]
        self.total = min(stops) - self._first if stops else None

    def __iter__(self) -> Iterator[TrackedFrame]:
        read = 0
        for frame in self._reader:
            read = frame.index + 1
            if frame.index >= self._next:
                result = self._tracked(frame)
                if self._is_live or frame.index >= self._first:
                    rgb = frame.rgb if self._is_live else None
                    yield TrackedFrame(frame.index, frame.time, self._names(result), *result[2:], rgb)
            if frame.index == self._request.last:
                break
        late = next((prompt for prompt in self._request.prompts if prompt.frame >= read), None)
        if late is not None:
            self.problem = f"{late} is beyond the end of the video, which has {read} frames"

    def save(self, file: Path) -> None:
        """Writes the state after the frame that was yielded last."""
        self._stream.save(file)

    def close(self) -> None:
        """Closes the video and the stream."""
        self._opened.close()

    def _tracked(self, frame: StreamFrame) -> StreamResult:
        result = self._stream.step(frame, _masks_form(self._predictor))
        for prompt in self._request.prompts:
            if prompt.frame == frame.index and prompt in self._masks:
                result = self._stream.add_new_mask(prompt.object, self._masks[prompt])
            elif prompt.frame == frame.index:
                result = self._stream.add_new_points_or_box(prompt.object, **prompt.as_arguments())
        found = self._request.detections
        if found is not None and (frame.index - self._first) % found.every == 0:
            result = self._stream.add_detections(
                *found.on(frame.index, *self.size), max_unseen=found.max_unseen, start_score=found.start_score
            ).result
        return result

    def _names(self, result: StreamResult) -> list[Any]:
        """The objects' ids, after the classes that detections have."""
        labels = {obj_id: label for obj_id, label in self._stream.labels.items() if label is not None}
        return [f"{labels[obj_id]}_{obj_id}" if obj_id in labels else obj_id for obj_id in result.obj_ids]


def _masks_form(predictor: SAM2VideoPredictor) -> Output:
    """The smallest masks that a record can be made from: full size only if the predictor removes overlaps."""
    return "logits" if predictor.non_overlap_masks else "low_res"


def load_predictor(choice: ModelChoice, device: str, dtype: str) -> tuple[SAM2VideoPredictor, dict[str, Any]]:
    """The model and its fingerprint.

    Raises:
        ModelError: checkpoint, configuration, device or dtype cannot be used.
    """
    with as_model_error():
        predictor = build_sam2_video_predictor(
            choice.config, choice.checkpoint, device=device, dtype=getattr(torch, dtype)
        )
        return predictor, {**choice.fingerprint(), "device": str(predictor.device), "dtype": dtype}


def run(
    request: TrackRequest,
    choice: ModelChoice,
    load: Callable[[], tuple[SAM2VideoPredictor, dict[str, Any]]],
    out: Path,
    overwrite: bool,
) -> int:
    """Tracks the remaining frames, writes missing files, and returns the exit code.

    Args:
        load: returns the model and its fingerprint, as :func:`load_predictor`.

    Raises:
        UserError: the input is invalid, and nothing was written; or a file cannot be written, a frame cannot be read,
            or the scores are not finite, and earlier results remain.
        ModelError: raised by ``load``.
    """
    masks = {prompt: read_foreground(prompt.mask) for prompt in request.prompts if prompt.mask is not None}
    source, facts = request.source, request.source.fingerprint()
    if not source.is_live:
        check_against_video(request.prompts, masks, *source.probe(), request.start, request.end)
    begun = time.monotonic()
    predictor, fingerprint = load()
    model = dict(fingerprint)
    with as_user_error(ValueError):
        predictor.approximations = request.approximations
        predictor.strategy = strategy_of(request.strategy)
    if request.approximations != EXACT:
        model["approximations"] = request.approximations.named()
    if request.strategy != "sam2":
        model["strategy"] = request.strategy
    loaded = time.monotonic()
    folder = RunFolder(out, _asked(request, facts, model, masks), overwrite)
    if source.is_live and not folder.is_new:
        raise UserError(f"{out} holds results of {source.name}, which cannot be continued; give another --out folder")
    if folder.complete:
        folder.begin()
        outcome = Outcome()
    else:
        outcome = _track(request, choice, predictor, folder, masks)
    del predictor  # frees its memory
    tracked = time.monotonic()
    if folder.complete:
        folder.sort()
    derive_outputs(folder, request)
    if "overlay" in request.formats:
        write_overlay(folder, request)
    write_exports(folder, request)
    rate = f", {outcome.frames / outcome.seconds:.1f} frames/s" if outcome.frames else ""
    stages = (("load model", loaded - begun), ("track", outcome.seconds), ("write", time.monotonic() - tracked))
    seconds = ", ".join(f"{stage} {value:.1f} s" for stage, value in stages)
    # After SIGHUP the terminal may be closed; the exit code is still that of the signal.
    with nullcontext() if outcome.stopped is None else ignore_closed_stream(sys.stdout):
        say(f"{outcome.frames} frames tracked{rate} ({seconds}); {folder.done} in all")
        say(f"written to {click.format_filename(folder.path)}")
        spent = {name: round(value, 3) for name, value in stages}
        facts = {"video": source.name, "frames": folder.done, "complete": folder.complete, "objects": folder["objects"]}
        emit({**facts, "seconds": spent, "out": str(folder.path), "model": folder["model"]})
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


def _asked(request: TrackRequest, video: dict[str, Any], model: dict[str, Any], masks: Masks) -> dict[str, Any]:
    """Everything that the results depend on, as JSON."""
    digests = {prompt: hashlib.sha256(np.packbits(mask).tobytes()).hexdigest() for prompt, mask in masks.items()}
    prompts = [p.as_json() | ({"sha256": digests[p]} if p in digests else {}) for p in request.prompts]
    options = {name: getattr(request, name) for name in ("start", "end", "reverse", "stream", "max_frames")}
    boxes = {} if request.detections is None else {"detections": request.detections.as_json()}
    return {"video": video, "prompts": prompts, **boxes, "model": model, "range": options, "version": __version__}


def _track(
    request: TrackRequest, choice: ModelChoice, predictor: SAM2VideoPredictor, folder: RunFolder, masks: Masks
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
        outcome = _record(request, passes, folder)
        if folder.complete and passes.problem is not None:
            folder.note(problem=passes.problem)
    return outcome


def _record(request: TrackRequest, passes: VideoPropagation | StreamPropagation, folder: RunFolder) -> Outcome:
    """Records each tracked frame, and periodically saves the state to continue from."""
    outcome, is_live = Outcome(), request.source.is_live
    overlay, drawing = None, FrameDrawing(request.objects, request.show_ids)
    if is_live and "overlay" in request.formats:
        overlay = open_overlay(folder, passes.size, passes.rate, passes.pixel_aspect)
    begun = saved = time.monotonic()
    frames = iter(passes)
    try:
        with (
            folder.recording(),
            note_signals(_announce, once=True) as stopped,
            progress_bar("frames", passes.total, "frames", folder.done) as bar,
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
                if found.ids or request.detections is not None:
                    name = request.frame_name(found.frame) if request.frame_names else None
                    results = found.ids, found.masks, found.scores
                    record = frame_record(found.frame, found.time, *results, passes.size, name)
                    folder.append(as_line(record), found.ids)
                    outcome.frames += 1
                    bar.update()
                if overlay is not None and found.rgb is not None:
                    overlay.add(found.rgb if record is None else drawing.draw(found.rgb, record), found.time)
                if stopped:
                    outcome.stopped = stopped[0]
                    break
                if passes.resumes and not is_live and time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                    folder.checkpoint(passes.save)
                    saved = time.monotonic()
            outcome.seconds = time.monotonic() - begun
            if is_live or (outcome.stopped is None and outcome.failure is None):
                folder.finish()
            elif passes.resumes:
                folder.checkpoint(passes.save)
    finally:
        if overlay is not None:
            overlay.finish()
    return outcome


def _announce(number: int) -> None:
    # Not via sys.stderr, which the signal may have interrupted.
    with suppress(OSError):
        os.write(STDERR, b"\nsam2fast: stopping after this frame\n")

"""One run of ``sam2fast track``: the passes over the video, from where an earlier run stopped or the beginning."""

import hashlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sam2fast import __version__
from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.cli.errors import UserError, one_line
from sam2fast.cli.model_choice import ModelChoice
from sam2fast.cli.segmenter import read_foreground
from sam2fast.cli.signals import ENDING, SIGNALLED, if_read, tell
from sam2fast.cli.track_outputs import FrameDrawing, RunFolder, as_line, derive_outputs, frame_record, open_overlay
from sam2fast.cli.track_request import Request, TrackPrompt, check_against_video
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.tracking.approximations import EXACT
from sam2fast.tracking.outputs import Output
from sam2fast.tracking.scores import TrackScores
from sam2fast.tracking.selection import MemoryRules
from sam2fast.tracking.state import VideoState
from sam2fast.tracking.stream import StreamResult, VideoStream
from sam2fast.video_io import StreamFrame, VideoError, read_frames

SECONDS_BETWEEN_CHECKPOINTS = 30.0
STDERR = 2
STOPPING = (signal.SIGINT, *ENDING)
# What opening a video or a saved state may raise because of the file.
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
    failure: str | None = None  # what was wrong with the video


class VideoPasses:
    """Tracks a video that can be read again: forwards, then, with ``--reverse``, backwards.

    Iteration yields the frames that earlier runs have not done, and raises VideoError where one cannot be read.

    Args:
        folder: says what earlier runs have done, and has the states they saved.

    Attributes:
        size: (H, W) of the video.
        video_frames: the number of frames in the video, None if unknown.
        total: the number of frames to track, including those of earlier runs; None if unknown.
        rate: the frames per second of a stream, if known.
        problem: what was wrong with the video, known after the last frame.

    Raises:
        UserError: the video or a saved state cannot be used, or a prompt is not within the video.
    """

    rate = None

    def __init__(self, predictor: SAM2VideoPredictor, request: Request, masks: Masks, folder: RunFolder) -> None:
        self._predictor, self._video, self._done = predictor, request.source.text, folder.done
        self._backward_file = folder.backward
        reach = MemoryRules.of(predictor).reach
        first = request.prompts[0].frame
        self._backward = range(first - 1, request.start - 1, -1) if request.reverse else range(0)
        if folder.state is None:
            # Backwards, the frames behind the first one count as well, until as many have been tracked before it.
            history = 2 * reach if self._backward else reach
            with one_line(*UNUSABLE):
                self._state = predictor.init_state(self._video, async_loading_frames=True, max_history=history)
        else:
            self._state = self._load(folder.state)
        frames = self._state.frames
        self.size, self.video_frames = (frames.height, frames.width), len(frames)
        check_against_video(request.prompts, masks, *self.size, len(frames), request.start, request.end)
        self._forward = range(first, len(frames) if request.end is None else min(request.end + 1, len(frames)))
        self._turn = min(reach, len(self._forward) - 1)  # the backward pass looks at no later frames
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
                    with one_line(OSError):
                        self._predictor.save_state(self._state, self._backward_file)
                yield item
        left = self._backward[max(self._done - len(self._forward), 0) :]
        if left:
            if self._done <= len(self._forward):
                self._state.frames.close()
                self._state = self._load(self._backward_file)
            # It begins on the frame before: at 0 there would be no pass at all, and the first frame is part of it.
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
        # Not to its end, where a truncated video raises: `problem` is reported when all else is done.
        for frame, ids, masks, scores in islice(found, len(frames)):
            yield TrackedFrame(frame, state.frames.time(frame), ids, masks, scores)

    def _load(self, file: Path) -> VideoState:
        with one_line(*UNUSABLE):
            return self._predictor.load_state(file, self._video, async_loading_frames=True)


class StreamPasses:
    """Tracks a video while it is read, once and in order; prompts are given when their frame comes.

    Of cameras and URLs, the frames before the first prompt are yielded, too, without objects. See :class:`VideoPasses`
    for the rest.
    """

    def __init__(self, predictor: SAM2VideoPredictor, request: Request, masks: Masks, folder: RunFolder) -> None:
        self._predictor, self._request, self._masks = predictor, request, masks
        self._first, self._is_live = request.prompts[0].frame, request.source.is_live
        self._next = self._first + folder.done if folder.done else request.start
        self.problem: str | None = None
        with ExitStack() as opened, one_line(*UNUSABLE):
            self._reader = reader = opened.enter_context(read_frames(request.source.to_open, predictor.image_size))
            self.size, self.rate, self.video_frames = (reader.height, reader.width), reader.rate, reader.count
            count = reader.count
            check_against_video(request.prompts, masks, *self.size, count, request.start, request.last)
            if folder.state is None:
                # The length of a video makes no difference if it is longer than the model looks back.
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
                    yield TrackedFrame(frame.index, frame.time, result.obj_ids, result.masks, result.scores, rgb)
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
        return result


def _masks_form(predictor: SAM2VideoPredictor) -> Output:
    """The smallest form of masks that is enough for a record: full size only where the predictor removes overlaps."""
    return "logits" if predictor.non_overlap_masks else "low_res"


def load_predictor(choice: ModelChoice, device: str, dtype: str) -> tuple[SAM2VideoPredictor, dict[str, Any]]:
    """The model, and what identifies it.

    Raises:
        UserError: checkpoint, configuration, device or dtype cannot be used.
    """
    with one_line(OSError, ValueError, RuntimeError, ImportError):
        predictor = build_sam2_video_predictor(
            choice.config, choice.checkpoint, device=device, dtype=getattr(torch, dtype)
        )
        return predictor, {**choice.facts(), "device": str(predictor.device), "dtype": dtype}


def run(request: Request, choice: ModelChoice, device: str, dtype: str, out: Path, overwrite: bool) -> int:
    """Tracks the frames that are left, derives missing files, and returns the exit code.

    Raises:
        UserError: the input cannot be used, and nothing was written; or a file cannot be written, a frame cannot be
            read, or the model's numbers are not finite, and what was done before remains.
    """
    masks = {prompt: read_foreground(prompt.mask) for prompt in request.prompts if prompt.mask is not None}
    source, facts = request.source, request.source.facts()
    if not source.is_live:
        check_against_video(request.prompts, masks, *source.probe(), request.start, request.end)
    begun = time.monotonic()
    predictor, model = load_predictor(choice, device, dtype)
    with one_line(ValueError):
        predictor.approximations = request.approximations
    if request.approximations != EXACT:
        model["approximations"] = request.approximations.named()
    loaded = time.monotonic()
    folder = RunFolder(out, _asked(request, facts, model, masks), overwrite)
    if source.is_live and not folder.is_new:
        raise UserError(f"{out} holds what was tracked in {source.name}, which cannot go on; give another --out folder")
    if folder.complete:
        folder.begin()
        outcome = Outcome()
    else:
        outcome = _track(request, choice, predictor, folder, masks)
    del predictor  # frees its memory for what follows
    tracked = time.monotonic()
    if folder.complete:
        folder.sort()
    derive_outputs(folder, request)
    rate = f", {outcome.frames / outcome.seconds:.1f} frames/s" if outcome.frames else ""
    stages = (("load model", loaded - begun), ("track", outcome.seconds), ("write", time.monotonic() - tracked))
    seconds = ", ".join(f"{stage} {value:.1f} s" for stage, value in stages)
    # After SIGHUP the terminal may be gone; the exit code is that of the signal all the same.
    with nullcontext() if outcome.stopped is None else if_read(sys.stdout):
        click.echo(f"{outcome.frames} frames tracked{rate} ({seconds}); {folder.done} in all")
        click.echo(f"written to {click.format_filename(folder.path)}")
    if outcome.failure is not None:
        raise UserError(f"{outcome.failure}; {folder.done} frames before that are in {folder.path}")
    if outcome.stopped is not None:
        tell(f"stopped after {folder.done} frames{'' if source.is_live else '; the same command again goes on'}")
        return SIGNALLED + outcome.stopped
    if folder["problem"]:
        raise UserError(f"{folder['problem']}; {folder.done} frames are in {folder.path}")
    return 0


def _asked(request: Request, video: dict[str, Any], model: dict[str, Any], masks: Masks) -> dict[str, Any]:
    """What the results depend on."""
    digests = {prompt: hashlib.sha256(np.packbits(mask).tobytes()).hexdigest() for prompt, mask in masks.items()}
    prompts = [p.as_json() | ({"sha256": digests[p]} if p in digests else {}) for p in request.prompts]
    options = {name: getattr(request, name) for name in ("start", "end", "reverse", "stream", "max_frames")}
    return {"video": video, "prompts": prompts, "model": model, "range": options, "version": __version__}


def _track(
    request: Request, choice: ModelChoice, predictor: SAM2VideoPredictor, folder: RunFolder, masks: Masks
) -> Outcome:
    """Opens the video, and tracks it to its end, to where it breaks, or to a signal."""
    passes = (StreamPasses if request.stream else VideoPasses)(predictor, request, masks, folder)
    with closing(passes):
        folder.begin()
        height, width = passes.size
        folder.note(
            source=request.source.name,
            model={"config": choice.config, "checkpoint": str(choice.checkpoint)},
            size={"width": width, "height": height},
            frames=passes.video_frames,
            objects=request.objects,
            problem=None,
        )
        outcome = _record(request, passes, folder)
        if folder.complete and passes.problem is not None:
            folder.note(problem=passes.problem)
    return outcome


def _record(request: Request, passes: VideoPasses | StreamPasses, folder: RunFolder) -> Outcome:
    """Records each frame when it is tracked, and from time to time the state to continue from."""
    outcome, is_live, disable = Outcome(), request.source.is_live, False if request.progress else None
    overlay, drawing = None, FrameDrawing(request.objects, request.show_ids)
    if is_live and "overlay" in request.formats:
        overlay = open_overlay(folder, passes.size, passes.rate)
    begun = saved = time.monotonic()
    frames = iter(passes)
    try:
        with (
            folder.recording(),
            _stop_signals() as stopped,
            tqdm(total=passes.total, initial=folder.done, desc="frames", disable=disable) as bar,
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
                if overlay is not None and found.rgb is not None:
                    overlay.add(found.rgb if record is None else drawing.draw(found.rgb, record), found.time)
                if stopped:
                    outcome.stopped = stopped[0]
                    break
                if not is_live and time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                    folder.checkpoint(passes.save)
                    saved = time.monotonic()
            outcome.seconds = time.monotonic() - begun
            if is_live or (outcome.stopped is None and outcome.failure is None):
                folder.finish()
            else:
                folder.checkpoint(passes.save)
    finally:
        if overlay is not None:
            overlay.finish()
    return outcome


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Inside, the first Ctrl-C, SIGTERM or SIGHUP is only appended to the list. A second one acts as before.

    Ignored signals, as under ``nohup``, remain ignored.
    """
    received: list[int] = []
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    handlers = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def note(number: int, frame: Any) -> None:
        received.append(number)
        restore()
        # Not by Python's own stderr, which may be amid a write.
        with suppress(OSError):
            os.write(STDERR, b"\nsam2fast: stopping after this frame\n")

    try:
        for number in handlers:
            signal.signal(number, note)
        yield received
    finally:
        restore()

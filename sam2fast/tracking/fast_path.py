"""Tracking by recorded steps: a frame costs little more than its arithmetic."""

import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from sam2fast.kernels._dispatch import why_no_triton
from sam2fast.tracking import steps
from sam2fast.tracking.features import EncodedFrames, encode_frames
from sam2fast.tracking.memory_bank import MemoryBank
from sam2fast.tracking.numerics import fingerprint
from sam2fast.tracking.recorded_encoder import RecordedEncoder
from sam2fast.tracking.recorders import CudaGraphs, Direct, Recorder, RecordingError
from sam2fast.tracking.scores import TrackScores
from sam2fast.tracking.state import FrameResult, TrackedObject, VideoState
from sam2fast.tracking.step_tables import StepTables
from sam2fast.tracking.workspace import Workspace
from sam2fast.video_io import Frames

if TYPE_CHECKING:
    from sam2fast.modeling.sam2_base import SAM2Base

_log = logging.getLogger(__name__)

# Workspaces kept for sessions to come.
MOST_IDLE = 2


class FastPath:
    """Recorded steps and encodings of one predictor, which knows it; not the other way round.

    Each session has a workspace, which the next one takes over when the first is gone. Threads take turns.

    Args:
        model: the predictor.
        recorder: makes a recorder; by default of CUDA graphs on CUDA, and elsewhere of nothing.
    """

    def __init__(self, model: "SAM2Base", recorder: Callable[[torch.device], Recorder] | None = None) -> None:
        device = model.device
        make = recorder or (CudaGraphs if device.type == "cuda" else Direct)
        # Steps and encodings run at the same time, so each has its own.
        self._recorder, self._encoder = make(device), RecordedEncoder(device, make(device))
        self._idle: list[Workspace] = []
        self._used: weakref.WeakKeyDictionary[MemoryBank, Workspace] = weakref.WeakKeyDictionary()
        self._lock = threading.RLock()
        self._device = device
        self._last: tuple[torch.cuda.Stream, torch.cuda.Event] | None = None
        # Graphs read the weights by their addresses, which must not go to anybody else.
        self._weights = [x.detach() for x in (*model.parameters(), *model.buffers())]
        self.made_for = fingerprint(model)
        self.failure: str | None = None  # why nothing can be recorded; known when it was first tried

    @property
    def failed(self) -> bool:
        """Whether a recording failed, since when everything runs without."""
        return self.failure is not None

    @torch.inference_mode()
    def track(
        self,
        model: "SAM2Base",
        state: VideoState,
        objects: Sequence[TrackedObject],
        frame: int,
        reverse: bool,
        fill_hole_area: float,
    ) -> tuple[list[FrameResult], TrackScores]:
        """What :func:`sam2fast.tracking.steps.track` does; and that itself where recording has failed."""
        try:
            with self._turn():
                return self._track(model, state, objects, frame, reverse, fill_hole_area)
        except RecordingError as error:
            self._give_up(error)
            return steps.track(model, state, objects, frame, reverse, fill_hole_area)

    def _track(
        self,
        model: "SAM2Base",
        state: VideoState,
        objects: Sequence[TrackedObject],
        frame: int,
        reverse: bool,
        fill_hole_area: float,
    ) -> tuple[list[FrameResult], TrackScores]:
        bank, count = state.bank, len(objects)
        workspace = self.workspace_of(bank)
        bank.begin_step()
        features = state.features[frame]
        pages = steps.attended_pages(state, objects, frame, reverse)
        shape = bank.shape_of(pages, in_buckets=True)
        bank.reserve(shape)
        integers, tables = StepTables.blank(shape, pinned=self._device.type == "cuda")
        bank.fill(tables, pages)
        assert bank.memories is not None
        # Rows beyond the objects write too; theirs are free again when this function ends.
        memories, pointers = bank.memories.allocate(shape.objects), bank.pointers.allocate(shape.objects)
        tables.written_pages.copy_(torch.tensor([page.row for page in memories], device="cpu"))
        tables.written_pointers.copy_(torch.tensor([page.row for page in pointers], device="cpu"))
        buffers = workspace.step(model, bank, shape, integers, features, state.num_frames, fill_hole_area)
        # Clones, for the next step overwrites the buffers.
        masks, ious, scores = (x[:count].clone() for x in (buffers.masks, buffers.ious, buffers.scores))
        written = [(page,) for page in memories[:count]]
        return steps.kept_results(bank, masks, ious, scores, pointers[:count], written)

    @torch.inference_mode()
    def encode(self, model: "SAM2Base", frames: Frames, indices: Sequence[int], ahead: bool) -> EncodedFrames:
        """What :func:`sam2fast.tracking.features.encode_frames` does, on a stream of its own."""
        try:
            with self._lock:
                return self._encoder.encode(model, frames, indices, ahead)
        except RecordingError as error:
            self._give_up(error)
            return encode_frames(model, frames, indices)

    @torch.inference_mode()
    def workspace_of(self, bank: MemoryBank) -> Workspace:
        """The workspace of a session's bank, which moves into one when it first needs it."""
        with self._lock:
            if bank not in self._used:
                assert bank.memories is not None
                fitting = [workspace for workspace in self._idle if workspace.suits(bank.memories.data)]
                workspace = fitting[-1] if fitting else Workspace(self._recorder)
                if fitting:
                    self._idle.remove(workspace)
                workspace.move_in(bank)
                self._used[bank] = workspace
                weakref.finalize(bank, _hand_back, weakref.ref(self), workspace).atexit = False
            return self._used[bank]

    def clear(self) -> None:
        """Frees everything that was recorded, also what open sessions use; they record it anew.

        On CUDA the current stream waits for steps and encodings that are under way on others.
        """
        with self._turn():
            for workspace in (*self._idle, *self._used.values()):
                workspace.clear()
            self._idle.clear()
            self._recorder.clear()
            self._encoder.clear()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One step at a time: recorded steps share their memory, also on different streams."""
        with self._lock:
            if self._device.type != "cuda":
                yield
                return
            stream = torch.cuda.current_stream(self._device)
            if self._last is not None and self._last[0] != stream:
                stream.wait_event(self._last[1])
            try:
                yield
            finally:
                event = torch.cuda.Event()
                event.record(stream)
                self._last = stream, event

    def _give_up(self, error: RecordingError) -> None:
        cause = error.__cause__ or error
        self.failure = f"{type(cause).__name__}: {cause}"
        _log.warning("CUDA graphs cannot be recorded here; tracking goes on without: %s", error.__cause__)


def _hand_back(owner: "weakref.ref[FastPath]", workspace: Workspace) -> None:
    """Keeps the workspace of a session that is gone for the next one."""
    fast_path = owner()
    # No lock: this runs in the middle of anything.
    if fast_path is not None and len(fast_path._idle) < MOST_IDLE:
        fast_path._idle.append(workspace)


def why_not_fast(model: "SAM2Base") -> str | None:
    """What stands in the way of recording steps where it would pay, or None."""
    if model.device.type != "cuda":
        return f"there is nothing to record on {model.device.type}"
    if torch.version.hip is not None:
        return "it has not been tried on AMD GPUs"
    return why_no_triton(model.device)

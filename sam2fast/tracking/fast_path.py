"""Tracking by recorded steps: a frame costs little more than its arithmetic."""

import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from sam2fast.kernels._dispatch import why_no_triton
from sam2fast.tracking import steps
from sam2fast.tracking.features import EncodedFrames
from sam2fast.tracking.memory_bank import MemoryBank
from sam2fast.tracking.recorded_encoder import RecordedEncoder
from sam2fast.tracking.recorders import CudaGraphs, Direct, Recorder
from sam2fast.tracking.scores import TrackScores
from sam2fast.tracking.state import FrameResult, TrackedObject, VideoState
from sam2fast.tracking.step_tables import StepTables
from sam2fast.tracking.workspace import Workspace
from sam2fast.video_io import Frames

if TYPE_CHECKING:
    from sam2fast.modeling.sam2_base import SAM2Base


class FastPath:
    """Recorded steps and encodings of one predictor, which knows it; not the other way round.

    Each session has a workspace, which the next one takes over when the first is gone.

    Args:
        device: of the predictor.
        recorder: makes a recorder; by default of CUDA graphs on CUDA, and elsewhere of nothing.
    """

    def __init__(self, device: torch.device, recorder: Callable[[torch.device], Recorder] | None = None) -> None:
        make = recorder or (CudaGraphs if device.type == "cuda" else Direct)
        # Steps and encodings run at the same time, so each has its own.
        self._recorder, self._encoder = make(device), RecordedEncoder(device, make(device))
        self._idle: list[Workspace] = []
        self._used: weakref.WeakKeyDictionary[MemoryBank, Workspace] = weakref.WeakKeyDictionary()

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
        """What :func:`sam2fast.tracking.steps.track` does."""
        bank, count = state.bank, len(objects)
        workspace = self.workspace_of(bank)
        bank.begin_step()
        features = state.features[frame]
        pages = steps.attended_pages(state, objects, frame, reverse)
        shape = bank.shape_of(pages, in_buckets=True)
        bank.reserve(shape)
        integers, tables = StepTables.blank(shape)
        bank.fill(tables, pages)
        assert bank.memories is not None
        # Rows beyond the objects write too; theirs are free again when this function ends.
        memories, pointers = bank.memories.allocate(shape.objects), bank.pointers.allocate(shape.objects)
        tables.written_pages.copy_(torch.tensor([page.row for page in memories]))
        tables.written_pointers.copy_(torch.tensor([page.row for page in pointers]))
        buffers = workspace.step(model, bank, shape, integers, features, state.num_frames, fill_hole_area)
        # Clones, for the next step overwrites the buffers.
        masks, ious, scores = (x[:count].clone() for x in (buffers.masks, buffers.ious, buffers.scores))
        return steps.kept_results(bank, masks, ious, scores, pointers[:count], memories[:count])

    @torch.inference_mode()
    def encode(self, model: "SAM2Base", frames: Frames, indices: Sequence[int], ahead: bool) -> EncodedFrames:
        """What :func:`sam2fast.tracking.features.encode_frames` does, on a stream of its own."""
        return self._encoder.encode(model, frames, indices, ahead)

    @torch.inference_mode()
    def workspace_of(self, bank: MemoryBank) -> Workspace:
        """The workspace of a session's bank, which moves into one when it first needs it."""
        if bank not in self._used:
            workspace = self._idle.pop() if self._idle else Workspace(self._recorder)
            workspace.move_in(bank)
            self._used[bank] = workspace
            weakref.finalize(bank, self._idle.append, workspace).atexit = False
        return self._used[bank]


def why_not_fast(model: "SAM2Base") -> str | None:
    """What stands in the way of recording steps where it would pay, or None."""
    if model.device.type != "cuda":
        return f"there is nothing to record on {model.device.type}"
    if torch.version.hip is not None:
        return "it has not been tried on AMD GPUs"
    return why_no_triton(model.device)

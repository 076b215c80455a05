"""Recorded steps and encodings of one model."""

import logging
import weakref
from collections.abc import Callable, Hashable, Sequence

import torch

from sam2fast.modeling.memory_selection import MemoryRules
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.tracking.cuda_graphs import (
    CudaGraphs,
    EagerRecorder,
    Recorder,
    RecordingError,
    Turns,
    fingerprint,
    numerics,
)
from sam2fast.tracking.features import EncodedFrames
from sam2fast.tracking.memory_bank import MemoryBank, bucket
from sam2fast.tracking.recorded_encoder import RecordedEncoder
from sam2fast.tracking.step import Results, StepInput, build_results, prepare_tables
from sam2fast.tracking.workspace import StepKey, Workspace
from sam2fast.video_io import Frames

_log = logging.getLogger(__name__)

# Workspaces kept for later sessions.
MOST_IDLE = 2


class Recordings:
    """Recorded steps and encodings of one model, which owns them and is passed to each call.

    Each session has a workspace, which a later session takes over. Threads take turns. What cannot be recorded is
    called from then on, and the log says why: steps of this :class:`StepKey`, or encodings of so many frames.

    Args:
        model: the model.
        recorder: makes a recorder; by default of CUDA graphs on CUDA, and elsewhere of nothing.
    """

    def __init__(
        self,
        model: SAM2Base,
        recorder: Callable[[torch.device], Recorder] | None = None,
    ) -> None:
        device = model.device
        make = recorder or (CudaGraphs if device.type == "cuda" else EagerRecorder)
        # Steps and encodings run at the same time, so each has its own.
        self._recorder, self._encoder = make(device), RecordedEncoder(device, make(device))
        self._idle: list[Workspace] = []
        self._used: weakref.WeakKeyDictionary[MemoryBank, Workspace] = weakref.WeakKeyDictionary()
        self._turns = Turns(device)
        self._device = device
        # Graphs read the weights by address: these tensors keep the memory from being reused.
        self._weights = [x.detach() for x in (*model.parameters(), *model.buffers())]
        self.made_for = fingerprint(model)
        self._eager: set[Hashable] = set()  # keys that could not be recorded
        self.failure: str | None = None  # why a recording failed, of the last one

    @property
    def failed(self) -> bool:
        """Whether a recording failed; what was to be recorded is called since then."""
        return self.failure is not None

    def encode(
        self, model: SAM2Base, frames: Frames, indices: Sequence[int], ahead: bool, padded: int
    ) -> EncodedFrames | None:
        """Returns the result of :meth:`RecordedEncoder.encode`, or None if it could not be recorded."""
        key = bucket(len(indices)), numerics(self._device)
        if key not in self._eager:
            try:
                with self._turns.lock:
                    return self._encoder.encode(model, frames, indices, ahead, padded)
            except RecordingError as error:
                self._give_up(key, f"encodings in batches of {key[0]}", error)
        return None

    def step(self, model: SAM2Base, given: StepInput) -> Results | None:
        """The results of a step; None if it could not be recorded."""
        key = StepKey.of(model, given, self._recorder.in_buckets)
        if key in self._eager:
            return None
        try:
            with self._turns.take():
                return self._step(model, given, key)
        except RecordingError as error:
            self._give_up(key, f"steps with rows for {key.shape.objects} objects", error)
        given.bank.begin_step()  # so that rows of the failed step are free again
        return None

    def _step(self, model: SAM2Base, given: StepInput, key: StepKey) -> Results:
        workspace = self._used.get(given.bank) or self.workspace_of(given.bank, given.rules)
        if self._device.type == "cuda":
            workspace.use_on(torch.cuda.current_stream(self._device))
        integers, *pages = prepare_tables(given, key.shape)
        buffers = workspace.step(model, given, key, integers)
        count = len(given.attended)
        packed = buffers.results.first(count)  # a copy: the next step overwrites the buffers
        return build_results(given.bank, packed, count, *pages)

    @torch.inference_mode()
    def workspace_of(self, bank: MemoryBank, rules: MemoryRules) -> Workspace:
        """The workspace of a session's bank, which moves into one on its first step."""
        with self._turns.lock:
            if bank not in self._used:
                assert bank.memories is not None
                fitting = [workspace for workspace in self._idle if workspace.suits(bank.memories.data)]
                workspace = fitting[-1] if fitting else Workspace(self._recorder)
                if fitting:
                    self._idle.remove(workspace)
                workspace.move_in(bank, rules)
                self._used[bank] = workspace
                weakref.finalize(bank, _hand_back, weakref.ref(self), workspace).atexit = False
            return self._used[bank]

    def clear(self) -> None:
        """Frees everything that was recorded; open sessions record it again.

        On CUDA the current stream waits for steps and encodings in flight on other streams.
        """
        with self._turns.take():
            for workspace in (*self._idle, *self._used.values()):
                workspace.clear()
            self._idle.clear()
            self._recorder.clear()
            self._encoder.clear()

    def expire_constants(self) -> None:
        """What recordings read instead of computing it is computed again before the next replay."""
        with self._turns.lock:
            self._recorder.constants.expire()
            self._encoder.constants.expire()

    def _give_up(self, key: Hashable, what: str, error: RecordingError) -> None:
        self._eager.add(key)
        cause = error.__cause__ or error
        self.failure = f"{type(cause).__name__}: {cause}"
        _log.warning("%s cannot be recorded here; tracking goes on without: %s", what, cause)


def _hand_back(owner: "weakref.ref[Recordings]", workspace: Workspace) -> None:
    """Keeps the workspace of a collected session for the next one."""
    recordings = owner()
    # Without the lock: this is a finalizer, and runs at any point.
    if recordings is not None and len(recordings._idle) < MOST_IDLE:
        recordings._idle.append(workspace)

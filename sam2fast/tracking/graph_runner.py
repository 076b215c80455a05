"""Tracking by CUDA graphs: a frame costs little more than its arithmetic."""

import logging
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sam2fast.engine import engine_for
from sam2fast.kernels.preprocess import resize_and_normalise
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
    reading_numerics_once,
    why_eager,
)
from sam2fast.tracking.eager_runner import EagerRunner, StepInput, StepOutput
from sam2fast.tracking.features import EncodedFrames, FrameFeatures, autocast_dtype
from sam2fast.tracking.graph_steps import StepKey, Workspace
from sam2fast.tracking.memory_bank import MemoryBank, StepTables, bucket
from sam2fast.transforms import SAM2Transforms
from sam2fast.video_io import Frames

_log = logging.getLogger(__name__)

# Workspaces kept for later sessions.
MOST_IDLE = 2


class GraphRunner:
    """Recorded steps and encodings of one model, which owns it and is passed to each call.

    Each session has a workspace, which a later session takes over. Threads take turns. What cannot be recorded runs
    eagerly from then on, and the log says why: steps of this :class:`StepKey`, or encodings of so many frames.

    Args:
        model: the model.
        recorder: makes a recorder; by default of CUDA graphs on CUDA, and elsewhere of nothing.
        settings: of the tracker, for :func:`fingerprint`.
    """

    def __init__(
        self,
        model: SAM2Base,
        recorder: Callable[[torch.device], Recorder] | None = None,
        settings: Hashable = None,
    ) -> None:
        device = model.device
        make = recorder or (CudaGraphs if device.type == "cuda" else EagerRecorder)
        # Steps and encodings run at the same time, so each has its own.
        self._recorder, self._encoder = make(device), GraphEncoder(device, make(device))
        self._idle: list[Workspace] = []
        self._used: weakref.WeakKeyDictionary[MemoryBank, Workspace] = weakref.WeakKeyDictionary()
        self._turns = Turns(device)
        self._device = device
        # Graphs read the weights by address: these tensors keep the memory from being reused.
        self._weights = [x.detach() for x in (*model.parameters(), *model.buffers())]
        self.made_for = fingerprint(model, settings)
        self._eager: set[Hashable] = set()  # keys that could not be recorded
        self.failure: str | None = None  # why a recording failed, of the last one

    @property
    def failed(self) -> bool:
        """Whether a recording failed; what was to be recorded runs eagerly since then."""
        return self.failure is not None

    def encode(self, model: SAM2Base, frames: Frames, indices: Sequence[int], ahead: bool) -> EncodedFrames:
        """See :meth:`~sam2fast.tracking.eager_runner.StepRunner.encode`; on CUDA on a stream of its own."""
        key = bucket(len(indices)), numerics(self._device)
        if key not in self._eager:
            try:
                with self._turns.lock:
                    return self._encoder.encode(model, frames, indices, ahead)
            except RecordingError as error:
                self._give_up(key, f"encodings in batches of {key[0]}", error)
        return EagerRunner().encode(model, frames, indices, ahead)

    def step(self, model: SAM2Base, given: StepInput) -> StepOutput:
        """See :meth:`~sam2fast.tracking.eager_runner.StepRunner.step`."""
        key = StepKey.of(model, given)
        if key not in self._eager:
            try:
                with self._turns.take():
                    return self._step(model, given, key)
            except RecordingError as error:
                self._give_up(key, f"steps with rows for {key.shape.objects} objects", error)
            given.bank.begin_step()
        return EagerRunner().step(model, given)

    def _step(self, model: SAM2Base, given: StepInput, key: StepKey) -> StepOutput:
        bank, count = given.bank, len(given.attended)
        workspace = self._used.get(bank) or self.workspace_of(bank, given.rules)
        if self._device.type == "cuda":
            workspace.use_on(torch.cuda.current_stream(self._device))
        shape = key.shape
        bank.reserve(shape)
        rows = bank.attended_rows(given.attended)
        assert bank.memories is not None
        # Rows beyond the objects are written too; theirs are free again when this function returns.
        memories, pointers = bank.memories.allocate(shape.objects), bank.pointers.allocate(shape.objects)
        states = [] if bank.states is None else bank.states.allocate(shape.objects)
        rows += [[page.row for page in new] for new in (memories, pointers, states)]
        integers = StepTables.integers(shape, rows, pinned=self._device.type == "cuda")
        buffers = workspace.step(model, given, key, integers)
        results = buffers.results.first(count)  # a copy: the next step overwrites the buffers
        return StepOutput(results, pointers[:count], memories[:count], states[:count] or [None] * count)

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


def _hand_back(owner: "weakref.ref[GraphRunner]", workspace: Workspace) -> None:
    """Keeps the workspace of a collected session for the next one."""
    runner = owner()
    # Without the lock: this is a finalizer, and runs at any point.
    if runner is not None and len(runner._idle) < MOST_IDLE:
        runner._idle.append(workspace)


@torch.no_grad()
def _attends_from_plan(model: SAM2Base) -> bool:
    return engine_for(model).parts().attention


class RunnerSelector:
    """Chooses between the eager runner and CUDA graphs, and keeps the graphs of one model.

    Attributes:
        graphs: the recorded steps, once they are used.
        explain: log once why CUDA graphs are not used.
    """

    def __init__(self) -> None:
        self.graphs: GraphRunner | None = None
        self.explain = False
        self._modules: list[nn.Module] | None = None  # of the model; empty while a user has changed some; None: unseen
        self._changes = 0

    def usable_graphs(self, model: SAM2Base, fast: bool | None, settings: Callable[[], Hashable]) -> GraphRunner | None:
        """The graph runner where it is to be used, else None.

        Args:
            fast: use CUDA graphs: None where they pay and are safe, True everywhere, False nowhere.
            settings: returns those of the tracker; recordings are dropped when they change.

        Raises:
            RuntimeError: ``fast`` is True, and graphs cannot be recorded on this GPU.
        """
        if self.why_eager(model, fast) is not None or model.training:
            return None
        if self.graphs is None:
            self.graphs = GraphRunner(model, settings=settings())
        return self.graphs

    def why_eager(self, model: SAM2Base, fast: bool | None) -> str | None:
        """Why this model does not use CUDA graphs; None if it does.

        Raises:
            RuntimeError: see :meth:`usable_graphs`.
        """
        if fast is False:
            return "fast is False"
        if not model.num_maskmem:
            return "the model keeps no memories"
        if self.is_changed:
            return "modules were hooked, patched or replaced, which a recording would not call"
        why = why_eager(model, fast)
        if why is None and self.graphs is None and not _attends_from_plan(model):
            return "memory attention has no plan, and its modules compute one object after the other"
        return why

    def check(self, model: SAM2Base, fast: bool | None, settings: Hashable) -> None:
        """Drops the recordings if modules were replaced, weights moved or settings changed."""
        self._keep(engine_for(model).unchanged_modules())
        if self.graphs is not None and self.graphs.made_for != fingerprint(model, settings):
            self.release()
        if self.graphs is not None:
            self.graphs.expire_constants()
        if self.explain and self.usable_graphs(model, fast, lambda: settings) is None:
            _log.info("vos_optimized: steps are not recorded: %s", self.why_eager(model, fast))
            self.explain = False

    @property
    def is_changed(self) -> bool:
        """Whether a user had hooked, patched or replaced modules when it was looked for last."""
        return self._modules == []

    @contextmanager
    def one_step(self, model: SAM2Base) -> Iterator[int]:
        """Context manager of one step: looks for modules that a user hooked, patched or replaced only here, and reads
        the switches of torch once.

        Recordings are not replayed while there are some, and are dropped if modules were replaced.

        Yields:
            How often such a change was seen until now.
        """
        with engine_for(model).one_step() as unchanged, reading_numerics_once():
            self._keep(unchanged)
            yield self._changes

    def _keep(self, unchanged: list[nn.Module]) -> None:
        before, self._modules = self._modules, unchanged
        if before is not None and before != self._modules:
            self.release()
            self._changes += 1

    def release(self) -> None:
        """Frees the recordings and their memory, also of open sessions; they are made again when needed."""
        if self.graphs is not None:
            self.graphs.clear()
        self.graphs = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "graphs": None, "_modules": None}  # copies of a model record for themselves


class _Call(NamedTuple):
    """One recorded encoding of a batch."""

    pixels: Tensor  # (n, S, S, 3) uint8
    levels: list[Tensor]  # of the batch, finest first; the next call overwrites them
    run: Callable[[], None]


class GraphEncoder:
    """The image encoder by recorded calls on a stream of its own, so that it runs ahead of tracking.

    Args:
        device: of the model.
        recorder: records the calls; nothing else may use its memory.
    """

    def __init__(self, device: torch.device, recorder: Recorder) -> None:
        self._device, self._recorder, self.constants = device, recorder, recorder.constants
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._calls: dict[Hashable, _Call] = {}

    def clear(self) -> None:
        """Frees everything after the calls in flight have read the weights; calls are recorded again when needed."""
        if self._stream is not None:  # the caller may overwrite the weights next
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
        self._calls.clear()
        self._recorder.clear()

    def encode(self, model: SAM2Base, frames: Frames, indices: Sequence[int], ahead: bool) -> EncodedFrames:
        """Features of some frames of a video, in a batch whose size is a bucket.

        On CUDA the caller's stream does not wait; ``wait`` of the result makes it wait for given features.

        Args:
            ahead: starts at once, without waiting for the caller's stream; the weights must be there.
        """
        pixels = [frames.pixels(t) for t in indices]
        staged = _staged(pixels, bucket(len(pixels)), pinned=self._stream is not None)
        if self._stream is None:
            return EncodedFrames(self._encode(model, staged, len(indices)), None)
        if not ahead or self.constants.are_outdated:  # by weights that may still be written
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            features = self._encode(model, staged, len(indices))
            done = torch.cuda.Event()
            done.record(self._stream)

        def wait(features: FrameFeatures) -> None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(done)
            for x in (features.embedding, *features.high_res):
                x.record_stream(stream)  # its memory may not be reused before that stream has read it

        return EncodedFrames(features, wait)

    def _encode(self, model: SAM2Base, pixels: Tensor, count: int) -> list[FrameFeatures]:
        call = self._call(model, pixels.shape)
        call.pixels.copy_(pixels, non_blocking=True)
        call.run()
        return [_cloned(call.levels, i) for i in range(count)]

    def _call(self, model: SAM2Base, shape: torch.Size) -> _Call:
        key = (shape, numerics(self._device))
        if key not in self._calls:
            pixels = torch.zeros(shape, dtype=torch.uint8, device=self._device)
            levels: list[Tensor] = []
            enabled, dtype = autocast_dtype(self._device) is not None, torch.get_autocast_dtype(self._device.type)

            def run() -> None:
                size = (model.image_size, model.image_size)
                images = resize_and_normalise(pixels, size, SAM2Transforms.mean, SAM2Transforms.std, white=255.0)
                with torch.autocast(self._device.type, dtype, enabled=enabled, cache_enabled=False):
                    encoded = engine_for(model).encode(images)
                levels[:] = encoded  # of the recording, whose addresses each replay writes

            self._calls[key] = _Call(pixels, levels, self._recorder.record(run))
        return self._calls[key]


def _staged(pixels: Sequence[Tensor], batch: int, pinned: bool) -> Tensor:
    """``(batch, S, S, 3)`` on the CPU, or a view of the frame; the last one is repeated where there are too few."""
    if batch == 1 and (not pinned or pixels[0].is_pinned()):
        return pixels[0][None]
    staged = torch.empty(batch, *pixels[0].shape, dtype=torch.uint8, device="cpu", pin_memory=pinned)
    return torch.stack([*pixels, *[pixels[-1]] * (batch - len(pixels))], out=staged)


def _cloned(levels: Sequence[Tensor], i: int) -> FrameFeatures:
    rows = levels if len(levels[0]) == 1 else [level[i : i + 1] for level in levels]
    *high_res, embedding = (row.clone() for row in rows)
    return FrameFeatures(embedding, high_res)

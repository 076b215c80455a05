"""Runs steps of tracking, and encodings of frames ahead of it, by recordings."""

import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sam2fast.engine import engine_for
from sam2fast.engine.graphs import CudaGraphs, fingerprint
from sam2fast.engine.recorded import Recorded, RecordingPool, pool_of
from sam2fast.kernels.preprocess import resize_and_normalise
from sam2fast.modeling.memory_selection import MemoryRules
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.tracking.features import EncodedFrames, FrameFeatures
from sam2fast.tracking.memory_bank import MemoryBank, bucket
from sam2fast.tracking.outputs import PackedResults
from sam2fast.tracking.step import (
    NarrowPagesError,
    Pools,
    Results,
    StepBuffers,
    StepInput,
    build_results,
    compute_step,
    prepare_tables,
)
from sam2fast.transforms import SAM2Transforms
from sam2fast.video_io import Frames

# Workspaces kept for later sessions.
MOST_IDLE = 2
# Initial size of the pools: this many objects with two conditioning frames each. Growth moves the pools, and the steps
# recorded on them have to be recorded again. At 1024x1024 that is 72 MiB in bfloat16.
OBJECTS_AT_ONCE, CONDITIONING_AT_ONCE = 16, 2


class Recordings:
    """Holds recorded steps and encodings of one model, which owns this object and is passed to each call.

    Each session has a workspace, which a later session takes over.

    Args:
        model: The network.
        make: Makes a recorder. By default steps share the pool of the model's images.

    Attributes:
        pool: Memory of steps.
        made_for: Fingerprint of the model, see :func:`~sam2fast.engine.graphs.fingerprint`.
    """

    def __init__(self, model: SAM2Base, make: Callable[[torch.device], CudaGraphs] | None = None) -> None:
        device = self._device = model.device
        new = None if make is None else [RecordingPool(device, make) for _ in range(2)]
        self.pool, frames = new or (pool_of(model), pool_of(model, ahead=True))
        # Frames are encoded at the same time as steps run, on another stream, and uploaded on a third one.
        self._frames = Recorded(frames)
        self._stream, self._uploads = (torch.cuda.Stream(device) if device.type == "cuda" else None for _ in range(2))
        self._idle: list[Workspace] = []
        self._used: weakref.WeakKeyDictionary[MemoryBank, Workspace] = weakref.WeakKeyDictionary()
        # Graphs read the weights by address: these tensors keep the memory from being reused.
        self._weights = [x.detach() for x in (*model.parameters(), *model.buffers())]
        self.made_for = fingerprint(model)

    @property
    def failure(self) -> str | None:
        """Cause of the last failed recording, or None."""
        return self.pool.failure or self._frames.pool.failure

    def encode(
        self, model: SAM2Base, frames: Frames, indices: Sequence[int], ahead: bool, padded: int = 0
    ) -> EncodedFrames | None:
        """Encodes frames of a video as one batch of a bucket's size. Returns None if this is not recorded.

        On CUDA the caller's stream does not wait. ``wait`` of the result makes it wait for given features.

        Args:
            ahead: If True, starts at once, without waiting for the caller's stream. The weights must be there.
            padded: Size that a batch is padded to if its own size is not recorded, as recording takes longer; or 0.
        """
        count, device, pool = len(indices), self._device, self._frames.pool
        batch = bucket(count) if self._frames.has(bucket(count)) else bucket(max(count, padded))
        pixels = _staged([frames.pixels(t) for t in indices], batch, pinned=self._stream is not None)

        def function(inputs: list[Tensor]) -> list[Tensor]:
            size = (model.image_size, model.image_size)
            images = resize_and_normalise(inputs[0], size, SAM2Transforms.mean, SAM2Transforms.std, white=255.0)
            return engine_for(model).encode(images)

        def keep(levels: list[Tensor]) -> list[FrameFeatures]:
            return [_cloned(levels, i) for i in range(count)]

        if self._stream is not None and self._uploads is not None:
            if not ahead or pool.graphs.constants.are_outdated:  # by weights that may still be written
                self._stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(self._uploads):
                pixels = pixels.to(device, non_blocking=True)
            self._stream.wait_stream(self._uploads)
            pixels.record_stream(self._stream)
        with torch.cuda.stream(self._stream):
            features = self._frames.call(batch, f"encodings in batches of {batch}", function, [pixels], keep)
        if features is None or pool.last is None:
            return None if features is None else EncodedFrames(features, None)
        done = pool.last[1]

        def wait(features: FrameFeatures) -> None:
            stream = torch.cuda.current_stream(device)
            stream.wait_event(done)
            for x in (features.embedding, *features.high_res):
                x.record_stream(stream)  # its memory is not reused before that stream has read it

        return EncodedFrames(features, wait)

    def step(self, model: SAM2Base, given: StepInput) -> Results | None:
        """Returns the results of a step, or None if it is not recorded."""
        with self.pool.turn():
            workspace = self._used.get(given.bank) or self.workspace_of(given.bank, given.rules)
            results = workspace.step(model, given)
        if results is None:
            given.bank.begin_step()  # so that rows of the failed step are free again
        return results

    @torch.inference_mode()
    def workspace_of(self, bank: MemoryBank, rules: MemoryRules) -> "Workspace":
        """Returns the workspace of a session's bank, which moves into one on its first step."""
        with self.pool.lock:
            if bank not in self._used:
                assert bank.memories is not None
                fitting = [workspace for workspace in self._idle if workspace.suits(bank.memories.data)]
                workspace = fitting[-1] if fitting else Workspace(self.pool)
                if fitting:
                    self._idle.remove(workspace)
                workspace.move_in(bank, rules)
                self._used[bank] = workspace
                weakref.finalize(bank, _hand_back, weakref.ref(self), workspace).atexit = False
            return self._used[bank]

    def clear(self) -> None:
        """Frees everything that was recorded. Open sessions record it again.

        On CUDA the current stream waits for steps and encodings in flight on other streams.
        """
        with self.pool.turn():
            for workspace in (*self._idle, *self._used.values()):
                workspace.pools = None
            self._idle.clear()
            self.pool.clear()
            self._frames.pool.clear()

    def expire_constants(self) -> None:
        """Lets recordings compute their constants again before the next replay."""
        for pool in (self.pool, self._frames.pool):
            with pool.lock:
                pool.graphs.constants.expire()


class Workspace:
    """Holds the pools of a memory bank, and the steps recorded on them, for one session at a time.

    It outlives the session. The next session takes it over with its recordings.

    Args:
        pool: Memory of the recordings.

    Attributes:
        pools: Tensors of the bank.
        steps: Recorded steps.
    """

    def __init__(self, pool: RecordingPool) -> None:
        self.pools: Pools | None = None
        self.steps = Recorded(pool)

    def suits(self, pages: Tensor) -> bool:
        """Returns True if a session with such pages can take over this workspace."""
        own = None if self.pools is None else self.pools.pages
        return own is not None and own.dtype == pages.dtype and own.shape[1:] == pages.shape[1:]

    def move_in(self, bank: MemoryBank, rules: MemoryRules) -> None:
        """Gives the bank these pools if they are large enough. Otherwise the bank grows its own."""
        assert bank.memories is not None
        for pool, data in zip(bank.pools, self.pools or (), strict=False):
            if pool is None or data is None or data.shape[1:] != pool.data.shape[1:]:
                continue
            if data.dtype == pool.data.dtype and len(data) >= len(pool.data):
                pool.move_to(data)
        bank.reserve(bank.capacity(OBJECTS_AT_ONCE, CONDITIONING_AT_ONCE, rules))

    def step(self, model: SAM2Base, given: StepInput) -> Results | None:
        """Runs a step by its recording. See :meth:`Recordings.step`."""
        bank, settings, (embedding, high_res) = given.bank, given.settings, given.features
        count, shape = len(given.attended), bank.shape_of(given.attended, given.rules, in_buckets=True)
        integers, *pages = prepare_tables(given, shape)
        what = f"steps with rows for {shape.objects} objects"
        while True:
            pools = self._pools_of(bank)

            def function(inputs: list[Tensor], pools: Pools = pools) -> PackedResults:
                integers, embedding, *high_res = inputs
                buffers = StepBuffers.make(model, FrameFeatures(embedding, high_res), integers, shape, settings)
                compute_step(model, pools, buffers, settings)
                return buffers.results

            try:
                packed = self.steps.call(
                    (shape, settings),
                    what,
                    function,
                    [integers, embedding, *high_res],
                    lambda found: found.first(count),
                    [x for x in pools if x is not None],
                )
            except NarrowPagesError as error:
                assert bank.memories is not None
                bank.memories.widen(error.dtype)
                continue
            return None if packed is None else build_results(bank, packed, count, *pages)

    def _pools_of(self, bank: MemoryBank) -> Pools:
        """Returns the bank's present pools. Drops the steps that were recorded on other ones."""
        pools = Pools.of(bank)
        if bank.states is None and self.pools is not None:  # steps without a strategy do not read them
            pools = pools._replace(states=self.pools.states)
        if self.pools is None or any(new is not old for new, old in zip(pools, self.pools, strict=True)):
            self.pools = pools
            self.steps.clear()
        return self.pools


def _hand_back(owner: "weakref.ref[Recordings]", workspace: Workspace) -> None:
    """Keeps the workspace of a collected session for the next one."""
    recordings = owner()
    # Without the lock: this is a finalizer, and runs at any point.
    if recordings is not None and len(recordings._idle) < MOST_IDLE:
        recordings._idle.append(workspace)


def _staged(pixels: Sequence[Tensor], batch: int, pinned: bool) -> Tensor:
    """Returns frames as ``(batch, S, S, 3)`` on the CPU, with the last one repeated, or a view of a single frame."""
    if batch == 1 and (not pinned or pixels[0].is_pinned()):
        return pixels[0][None]
    staged = torch.empty(batch, *pixels[0].shape, dtype=torch.uint8, device="cpu", pin_memory=pinned)
    return torch.stack([*pixels, *[pixels[-1]] * (batch - len(pixels))], out=staged)


def _cloned(levels: Sequence[Tensor], i: int) -> FrameFeatures:
    rows = levels if len(levels[0]) == 1 else [level[i : i + 1] for level in levels]
    *high_res, embedding = (row.clone() for row in rows)
    return FrameFeatures(embedding, high_res)

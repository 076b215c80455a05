"""Tracks and encodes frames eagerly, or by replaying CUDA graphs. Replaying avoids most of the CPU overhead."""

import logging
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, finalize, ref

import torch
from torch import Tensor

from sam2fast.engine import engine_for
from sam2fast.engine.common import Pixels
from sam2fast.engine.graphs import fingerprint, why_eager
from sam2fast.engine.replay import GraphCalls, graph_calls_of, release
from sam2fast.engine.unmodified import Watch
from sam2fast.modeling.memory_selection import MemoryRules
from sam2fast.prompt_inputs import PromptWarning
from sam2fast.tracking.features import EncodedFrames, FeatureCache, FrameFeatures, features_by_frame
from sam2fast.tracking.memory_bank import MemoryBank, bucket
from sam2fast.tracking.outputs import PackedResults
from sam2fast.tracking.settings import TrackingModel
from sam2fast.tracking.step import (
    NarrowPagesError,
    Pools,
    Results,
    StepBuffers,
    StepInput,
    build_results,
    compute_step,
    is_compiled,
    prepare_tables,
)
from sam2fast.video_io import Frames

_log = logging.getLogger(__name__)

# Pools and recorded steps of at most this many closed sessions are kept for later sessions.
MOST_IDLE = 2
# Pools with more recorded steps than this are not reused. Some strategies record steps for each video size.
MOST_RECORDED = 64
# Initial capacity of the pools: number of objects, and of conditioning frames per object. At 1024x1024 the pools take
# 72 MiB in bfloat16. If a pool grows, its address changes, and its steps are recorded again.
OBJECTS_AT_ONCE, CONDITIONING_AT_ONCE = 16, 2


class StepRunner:
    """Tracks and encodes frames with one model. A step tracks all objects to one frame.

    A recorded step replays a captured CUDA graph.

    Args:
        model: Network. The runner stores a weak reference.
        graph_calls: Function that returns the recordings of a model, like :func:`graph_calls_of`.

    Attributes:
        is_changed: True if the last check found modules that a user hooked, patched or replaced.
        prompt_warning: Warns once of points outside the video.
    """

    def __init__(self, model: TrackingModel, graph_calls: Callable[..., GraphCalls] = graph_calls_of) -> None:
        self._model, self._graph_calls_of = ref(model), graph_calls
        self.is_changed, self.prompt_warning = False, PromptWarning()
        self._has_explained = False
        self._watches: list[Watch | None] | None = None  # result of the last check
        self._changes = 0
        self._ends: list[finalize[Any, MemoryBank]] = []  # finalizers of open sessions
        self._forget()

    def _forget(self) -> None:
        while self._ends:
            self._ends.pop().detach()
        self._made_for: tuple[Hashable, list[Tensor]] | None = None  # fingerprint and weights, if anything is recorded
        self._streams: tuple[torch.cuda.Stream, torch.cuda.Stream] | None = None
        self._used: WeakKeyDictionary[MemoryBank, GraphCalls] = WeakKeyDictionary()
        self._idle: deque[GraphCalls] = deque(maxlen=MOST_IDLE)

    @property
    def model(self) -> TrackingModel:
        """Model that this object runs."""
        model = self._model()
        assert model is not None, "the caller holds the model"
        return model

    def encode(self, frames: Frames, indices: Sequence[int], ahead: bool = False, padded: int = 0) -> EncodedFrames:
        """Encodes frames of a video as one batch.

        Args:
            ahead: If True, the caller does not need the features yet. Recordings compute the features on another stream
                without waiting for the caller's stream, so no kernel may still be writing the weights.
            padded: Padded batch size if no encoding of the actual size is recorded, to avoid a new recording. If 0, the
                batch is not padded.
        """
        encoded = None
        if self._may_record():
            encoded = self._replay_encoding([frames.pixels(t) for t in indices], ahead, padded)
        if encoded is None:
            images = torch.stack([frames[t] for t in indices]).to(self.model.device)
            encoded = EncodedFrames(features_by_frame(engine_for(self.model).encode(images), len(indices)), None)
        return encoded

    def _replay_encoding(self, frames: list[Tensor], ahead: bool, padded: int) -> EncodedFrames | None:
        """Encodes frames by a recording, padded to a bucket's size. Returns None if recording fails."""
        model = self.model
        engine, calls = engine_for(model), self._graph_calls_of(model, True)
        device = calls.pool.device
        sizes = bucket(len(frames)), bucket(max(len(frames), padded))
        keys = [(f"encodings in batches of {size}", size) for size in sizes]
        key = keys[0] if sizes[0] == sizes[1] or calls.has(keys[0]) else keys[1]
        if calls.pool.failures and calls.has(key) is False:
            return None
        stream = None

        def function(inputs: list[Tensor]) -> list[Tensor]:
            return engine.encode(Pixels(inputs[0], model.pixel_mean, model.pixel_std))

        def keep(levels: list[Tensor]) -> list[FrameFeatures]:
            return features_by_frame(levels if len(levels[0]) > 1 else [x.clone() for x in levels], len(frames))

        if device.type == "cuda":
            # Encoding, uploading and tracking run concurrently on three streams.
            streams = self._streams or (torch.cuda.Stream(device), torch.cuda.Stream(device))
            stream, uploads = self._streams = streams
            if not ahead or calls.pool.graphs.constants.are_outdated:  # the caller's stream may still write weights
                stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(uploads):
                pixels = _uploaded(frames, key[1], device)
            stream.wait_stream(uploads)
            pixels.record_stream(stream)
        else:
            pixels = _uploaded(frames, key[1], device)
        with torch.cuda.stream(stream), calls.pool.turn():
            features = calls.call(key, function, [pixels], keep)
        last = calls.pool.last
        return None if features is None else EncodedFrames(features, last and partial(_wait, last[1]))

    def step(self, inputs: StepInput) -> Results:
        """Tracks all objects to a frame as one batch. Writes memories, pointers and states to the bank."""
        if self._may_record() and (results := self._replay_step(inputs)) is not None:
            return results
        # Computes the step eagerly, with one row per object. A compiled part is compiled again for each batch size, so
        # rows are padded to a bucket.
        model, bank, count = self.model, inputs.bank, len(inputs.selected_pages)
        shape = bank.shape_of(inputs.selected_pages, inputs.rules, in_buckets=is_compiled(model))
        integers, *pages = prepare_tables(inputs, shape)
        integers = integers.to(bank.layout.device, non_blocking=True)
        buffers = StepBuffers.make(model, inputs.features, integers, shape, inputs.settings)
        try:
            compute_step(model, Pools.of(bank), buffers, inputs.settings)
        except NarrowPagesError as error:
            assert bank.memories is not None
            bank.memories.widen(error.dtype)
            compute_step(model, Pools.of(bank), buffers, inputs.settings)
        packed = buffers.results if shape.objects == count else buffers.results.first(count)
        return build_results(bank, packed, count, *pages)

    def _replay_step(self, inputs: StepInput) -> Results | None:
        """Computes a step by a recording. Returns None if recording fails."""
        model, bank, settings, (embedding, high_res) = self.model, inputs.bank, inputs.settings, inputs.features
        count, shape = len(inputs.selected_pages), bank.shape_of(inputs.selected_pages, inputs.rules, in_buckets=True)
        key = f"steps with rows for {shape.objects} objects", shape, settings
        used = self._used.get(bank)
        pool = self._graph_calls_of(model).pool if used is None else used.pool
        with pool.turn():
            calls = self.graph_calls(bank, inputs.rules) if used is None else used
            if pool.failures and calls.has(key) is False:
                return None
            integers, *pages = prepare_tables(inputs, shape)
            while True:
                pools = Pools.of(bank)
                if bank.states is None and calls.tensors:  # the step does not read the states of other strategies
                    pools = pools._replace(states=calls.tensors.states)
                calls.use(pools)

                def function(inputs: list[Tensor], pools: Pools = pools) -> PackedResults:
                    integers, embedding, *high_res = inputs
                    buffers = StepBuffers.make(model, FrameFeatures(embedding, high_res), integers, shape, settings)
                    compute_step(model, pools, buffers, settings)
                    return buffers.results

                try:
                    packed = calls.call(key, function, [integers, embedding, *high_res], lambda x: x.first(count))
                    break
                except NarrowPagesError as error:
                    assert bank.memories is not None
                    bank.memories.widen(error.dtype)
            if packed is not None:
                return build_results(bank, packed, count, *pages)
        bank.begin_step()  # frees the rows of the failed step
        return None

    @torch.inference_mode()
    def graph_calls(self, bank: MemoryBank, rules: MemoryRules) -> GraphCalls:
        """Returns the steps recorded on a session's pools.

        On its first step, a session takes over sufficiently large pools of a closed session, and the steps recorded on
        these pools.
        """
        pool, used, idle = self._graph_calls_of(self.model).pool, self._used, self._idle
        with pool.lock:
            if bank not in used:
                assert bank.memories is not None
                reusable = [x for x in reversed(list(idle)) if x.tensors and x.made <= MOST_RECORDED]
                calls = next((x for x in reusable if bank.memories.suits(x.tensors.pages)), None) or GraphCalls(pool)
                with suppress(ValueError):  # ``calls`` is new, or a finalizer dropped it meanwhile
                    idle.remove(calls)
                for page_pool, tensor in zip(bank.pools, calls.tensors, strict=False):
                    if page_pool is not None and tensor is not None:
                        page_pool.move_to(tensor)
                bank.reserve(bank.capacity(OBJECTS_AT_ONCE, CONDITIONING_AT_ONCE, rules))
                used[bank] = calls
                end = finalize(bank, idle.append, calls)  # the finalizer may run at any time, without the lock
                end.atexit = False
                self._ends = [*(old for old in self._ends if old.alive), end]
            return used[bank]

    def _may_record(self) -> bool:
        """Returns True if steps and encodings are recorded. Before the first recording, stores a fingerprint."""
        if self.why_eager() is not None:
            return False
        if self._made_for is None:
            model = self.model
            # Graphs read the weights by address. Holding the tensors keeps their memory from being reused.
            self._made_for = fingerprint(model), [x.detach() for x in (*model.parameters(), *model.buffers())]
        return True

    def why_eager(self) -> str | None:
        """Returns the reason why steps of this model are not recorded, or None if steps are recorded.

        See :func:`sam2fast.engine.graphs.why_eager`.
        """
        model = self.model
        if model.fast is False:
            return "fast is False"
        if not model.num_maskmem:
            return "the model keeps no memories"
        if model.training:
            return "the model is in training mode"
        if self.is_changed:
            return "modules were hooked, patched or replaced, and a recording would not call them"
        why = why_eager(model.device, model.fast)
        if why is None and self._made_for is None:
            with torch.no_grad():
                if not engine_for(model).parts().attention:
                    return "memory attention has no plan, so its modules compute one object after the other"
        return why

    def check(self) -> None:
        """Drops the recordings if modules were changed, weights were moved, or settings of the model changed."""
        model = self.model
        self._keep(engine_for(model).watches())
        made_for = self._made_for
        if made_for is not None and made_for[0] != fingerprint(model):
            self.release()
        for ahead in (False, True) if self._made_for is not None else ():
            pool = self._graph_calls_of(model, ahead).pool
            with pool.lock:
                pool.graphs.constants.expire()
        if model.explains_eager and not self._has_explained and (why := self.why_eager()) is not None:
            _log.info("vos_optimized: steps are not recorded: %s", why)
            self._has_explained = True

    @contextmanager
    def one_step(self, features: FeatureCache) -> Iterator[None]:
        """Context manager of one step: checks for changed modules and reads torch's global flags once.

        If modules changed since the previous check, drops the recordings and the cached features.
        """
        with engine_for(self.model).one_step() as watches:
            self._keep(watches)
            features.keep_since(self._changes, only_last=self.is_changed)
            yield

    def _keep(self, watches: list[Watch | None]) -> None:
        before, self._watches, self.is_changed = self._watches, watches, None in watches
        if before is not None and before != watches:
            self.release()
            self._changes += 1

    def release(self) -> None:
        """Frees the recordings of all sessions and the GPU memory of recordings. Later steps are recorded again."""
        self._forget()
        release(self.model)


_runners: "WeakKeyDictionary[TrackingModel, StepRunner]" = WeakKeyDictionary()


def runner_for(model: TrackingModel) -> StepRunner:
    """Returns the step runner of a model. A copy of a model has its own runner."""
    return _runners.get(model) or _runners.setdefault(model, StepRunner(model))


def _uploaded(frames: Sequence[Tensor], batch: int, device: torch.device) -> Tensor:
    """Copies frames to ``(batch, S, S, 3)`` uint8 on the device. Repeats the last frame to fill the batch.

    The reading thread has already pinned the frames of a frame cache, so no pixels are copied on the CPU.
    """
    pixels = torch.empty(batch, *frames[0].shape, dtype=torch.uint8, device=device)
    for i, frame in enumerate([*frames, *[frames[-1]] * (batch - len(frames))]):
        if device.type == "cuda" and not frame.is_pinned():
            frame = torch.empty_like(frame, pin_memory=True).copy_(frame)
        pixels[i].copy_(frame, non_blocking=True)
    return pixels


def _wait(done: torch.cuda.Event, features: FrameFeatures) -> None:
    """Makes the current stream wait for the event ``done``, after which the features are computed."""
    stream = torch.cuda.current_stream(features.embedding.device)
    stream.wait_event(done)
    for x in (features.embedding, *features.high_res):
        x.record_stream(stream)  # the allocator does not reuse the memory of ``x`` before this stream has read ``x``

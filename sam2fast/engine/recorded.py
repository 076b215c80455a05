"""Calls functions of tensors by recordings: copies the input, replays, and copies the results.

Also computes images and prompts, for frequent numbers of them. :mod:`sam2fast.tracking.steps` computes videos.
"""

import logging
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor

from sam2fast.engine import engine_for
from sam2fast.engine.graphs import CudaGraphs, RecordingError, numerics, why_eager
from sam2fast.modeling.sam2_base import SAM2Base

_log = logging.getLogger(__name__)

# Numbers of images per encoding, and of prompts per decoding with one or two points each (a click, a box), that are
# recorded. Other numbers run eagerly, as padding would change the last bits of the results.
IMAGES, PROMPTS, POINTS = (1, 2, 4, 8), (1, 64, 256), (1, 2)
# Number of recordings of images and prompts per model. Later shapes run eagerly. Each recording stores its results.
MOST_RECORDINGS = 11

Found = TypeVar("Found")
Kept = TypeVar("Kept")


class RecordingPool:
    """Holds the memory of recordings that run one at a time. Threads and streams take turns.

    Args:
        device: Device of the recordings.
        make: Makes the recorder.

    Attributes:
        graphs: The recorder.
        lock: Held during a turn.
        last: Stream of the last turn, and the event at its end. None on other devices than CUDA.
        failures: Why functions could not be recorded, by key. They are not tried again until the pool is cleared.
    """

    def __init__(self, device: torch.device, make: Callable[[torch.device], Any] | None = None) -> None:
        self.device, self.graphs, self.lock = device, (make or CudaGraphs)(device), threading.RLock()
        self.last: tuple[torch.cuda.Stream, torch.cuda.Event] | None = None
        self.failures: dict[tuple[Hashable, ...], str] = {}
        self._members: WeakSet[Recorded] = WeakSet()
        self._is_taken = False

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Context manager of a turn. On CUDA the current stream waits for the previous turn. Turns may be nested."""
        with self.lock:
            if self._is_taken or self.device.type != "cuda":
                yield
                return
            stream = torch.cuda.current_stream(self.device)
            if self.last is not None and self.last[0] != stream:
                stream.wait_event(self.last[1])
            self._is_taken = True
            try:
                yield
            finally:
                self._is_taken = False
                event = torch.cuda.Event()
                event.record(stream)
                self.last = stream, event

    def clear(self) -> None:
        """Frees all recordings. On CUDA the current stream waits for the last replay."""
        with self.turn():
            for member in list(self._members):
                member.clear()
            self.failures.clear()
            self.graphs.clear()


class Recorded:
    """Replays functions. Each key, kind of input, and combination of torch's switches has a recording of its own.

    Recordings share tensors for the input. If a function cannot be recorded, the log says why.

    Args:
        pool: Memory of the recordings.
        most: Largest number of recordings, or None.

    Attributes:
        tensors: Tuple of tensors that the functions read and write at their own addresses, see :meth:`use`.
        states: State of each part of the model when it was recorded, by the name of the part.
        made: Number of recordings so far, with freed ones.
    """

    def __init__(self, pool: RecordingPool, most: int | None = None) -> None:
        self.pool, self._most, self.made = pool, most, 0
        self.clear()
        with pool.lock:
            pool._members.add(self)

    def clear(self) -> None:
        """Frees these recordings. The last replay has ended, or the caller waits for it."""
        # By key: the replay, and the result. The next replay of the pool overwrites its tensors.
        self._calls: dict[tuple[Hashable, ...], tuple[Callable[[], None], list[Any]]] = {}
        self._inputs: dict[Hashable, Tensor] = {}
        self._stream: torch.cuda.Stream | None = None  # that used the tensors last
        self.tensors: Any = ()
        self.states: dict[Hashable, Hashable] = {}

    def use(self, tensors: Sequence[Tensor | None]) -> None:
        """Sets :attr:`tensors`. Frees what was recorded with other ones."""
        if list(map(id, tensors)) != list(map(id, self.tensors)):
            self.clear()
            self.tensors = tensors

    def has(self, key: Hashable) -> bool | None:
        """Returns True if the key is recorded for torch's present switches, False if that failed, else None."""
        known = key, numerics(self.pool.device)
        if any(full[:2] == known for full in list(self._calls)):
            return True
        return False if any(full[:2] == known for full in list(self.pool.failures)) else None

    def call(
        self,
        key: tuple[Hashable, ...],
        function: Callable[[list[Tensor]], Found],
        given: Sequence[Tensor],
        keep: Callable[[Found], Kept],
    ) -> Kept | None:
        """Computes a function of tensors by its recording, which the first call makes. Returns None if there is none.

        Called in a turn of the pool.

        Args:
            key: All that the function depends on besides ``given``, :attr:`tensors` and torch's switches. The first
                item names such calls in the log, in the plural.
            function: Computes results from tensors at fixed addresses with the values of ``given``. It does not wait
                for the device.
            given: Input on the device, or on the CPU in pinned memory.
            keep: Returns copies of results that the caller needs. The next call overwrites the results.

        Raises:
            Exception: If the function raises it in its first run.
        """
        pool, kinds = self.pool, [(i, x.dtype, x.shape, x.stride()) for i, x in enumerate(given)]
        full = key, numerics(pool.device), *kinds
        if full not in self._calls and (full in pool.failures or len(self._calls) == self._most):
            return None
        with torch.inference_mode():  # so that inputs may be written in any mode of the caller
            for kind, x in zip(kinds, given, strict=True):
                if kind not in self._inputs:
                    self._inputs[kind] = torch.empty_like(x, device=pool.device)
            inputs = [self._inputs[kind] for kind in kinds]
            if pool.device.type == "cuda" and (stream := torch.cuda.current_stream(pool.device)) != self._stream:
                # Torch knows only the stream that the tensors were made on, and would reuse the memory of freed ones
                # while this stream reads them.
                self._stream = stream
                for x in (*self._inputs.values(), *self.tensors):
                    if x is not None:
                        x.record_stream(stream)
            _copy(inputs, given)
            if full not in self._calls and not self._record(full, function, inputs):
                return None
            replay, found = self._calls[full]
            replay()
        return keep(found[0])

    def _record(self, full: tuple[Any, ...], function: Callable[[list[Tensor]], Any], inputs: list[Tensor]) -> bool:
        """Records a function, or logs why it cannot be recorded and returns False."""
        found: list[Any] = [None]
        kind = self.pool.device.type
        enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)

        def run() -> None:
            # Without autocast's cache: its casts of weights would be in this graph's memory and be read by others.
            with torch.autocast(kind, dtype, enabled=enabled, cache_enabled=False):
                found[0] = function(inputs)  # each replay writes to the addresses of the recording

        try:
            self._calls[full] = self.pool.graphs.record(run), found
        except RecordingError as error:
            cause = error.__cause__ or error
            self.pool.failures[full] = f"{type(cause).__name__}: {cause}"
            _log.warning("%s cannot be recorded, and are run eagerly: %s", full[0][0], cause)
            return False
        self.made += 1
        return True


def _copy(inputs: Sequence[Tensor], given: Sequence[Tensor]) -> None:
    """Copies the values of ``given`` to the inputs. Tensors of one dtype on the same device take one launch."""
    near: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}
    for x, value in zip(inputs, given, strict=True):
        if x.device == value.device:
            near.setdefault(x.dtype, []).append((x, value))
        else:
            x.copy_(value, non_blocking=True)
    for pairs in near.values():
        torch._foreach_copy_([x for x, _ in pairs], [value for _, value in pairs])


_by_model: "WeakKeyDictionary[Any, dict[bool, Recorded]]" = WeakKeyDictionary()


def recorded_of(model: Any, ahead: bool = False) -> Recorded:
    """Returns the recordings of a model's images and prompts on its present device. Steps share their pool.

    Args:
        ahead: If True, returns encodings of video frames, which run at the same time as steps, and have another pool.
    """
    release_if_moved(model)
    found = _by_model.setdefault(model, {})
    most = None if ahead else MOST_RECORDINGS
    return found.get(ahead) or found.setdefault(ahead, Recorded(RecordingPool(model.device), most))


def release_if_moved(model: Any) -> None:
    """Frees the recordings of a model on a device that the model has left."""
    device = model.device
    if any(each.pool.device != device for each in list(_by_model.get(model, {}).values())):
        release(model)
        _by_model.pop(model, None)


def release(model: Any) -> None:
    """Frees the recordings of a model, also of its open sessions. They are made again when needed."""
    for each in list(_by_model.get(model, {}).values()):
        each.pool.clear()


def encode(model: Any, fast: bool | None, images: Tensor) -> list[Tensor]:
    """Computes :meth:`~sam2fast.engine.Engine.encode`, by a recording if possible.

    Args:
        model: The network, or an object that replaces it in a predictor.
        fast: Use of CUDA graphs, see :func:`~sam2fast.engine.graphs.why_eager`.
        images: Images ``(B, 3, S, S)``.

    Raises:
        RuntimeError: If ``fast`` is True, and graphs cannot be recorded on this GPU.
    """
    engine, found = engine_for(model), None
    if _may_record(model, fast) and len(images) in IMAGES:
        key, state = (f"encodings of {len(images)} images", "image"), engine.state_of_image(images)
        found = _call(model, key, state, lambda inputs: engine.encode(inputs[0]), [images])
    return found or engine.encode(images)


def decode(
    model: Any,
    fast: bool | None,
    embedding: Tensor,
    high_res: Sequence[Tensor],
    points: tuple[Tensor, Tensor] | None,
    prompts: Tensor | None,
    multimask: bool,
) -> tuple[Tensor, Tensor]:
    """Computes masks and IoUs of :meth:`~sam2fast.engine.Engine.decode`. See :func:`encode`."""
    engine, found, levels = engine_for(model), None, len(high_res)
    may_record = _may_record(model, fast)
    if may_record and points is not None and len(points[0]) in PROMPTS and points[0].shape[1] in POINTS:

        def function(inputs: list[Tensor]) -> list[Tensor]:
            coords, labels, own, *others = inputs
            masks = others[levels] if len(others) > levels else None
            return list(engine.decode(own, others[:levels], (coords, labels), masks, multimask)[:2])

        given = [*points, embedding, *high_res, *([] if prompts is None else [prompts])]
        key = f"decodings of {len(points[0])} prompts", "masks", multimask, levels
        found = _call(model, key, engine.state_of_masks(embedding), function, given)
    masks, ious = found or engine.decode(embedding, high_res, points, prompts, multimask)[:2]
    return masks, ious


def _may_record(model: Any, fast: bool | None) -> bool:
    if not isinstance(model, SAM2Base):
        return False
    release_if_moved(model)
    return why_eager(model.device, fast) is None


def _call(
    model: SAM2Base,
    key: tuple[Hashable, ...],
    state: Hashable | None,
    function: Callable[[list[Tensor]], list[Tensor]],
    given: list[Tensor],
) -> list[Tensor] | None:
    """Returns copies of the results of a function by its recording, or None if it is not recorded.

    Args:
        key, function, given: See :meth:`Recorded.call`. The second item of the key names a part of the model.
        state: State of the part. If it is None, nothing is recorded.
    """
    if state is None or any(x.device != model.device for x in given):
        return None
    recorded = recorded_of(model)
    with recorded.pool.turn():
        if recorded.states.setdefault(key[1], state) != state:
            recorded.pool.clear()
            recorded.states[key[1]] = state
        return recorded.call(key, function, given, lambda found: [x.clone() for x in found])

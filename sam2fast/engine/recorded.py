"""Calls functions of tensors by recordings: copies the input, replays, and copies the results."""

import logging
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor

from sam2fast.engine.graphs import CudaGraphs, RecordingError, numerics

_log = logging.getLogger(__name__)

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
        failure: Cause of the last failed recording, or None.
    """

    def __init__(self, device: torch.device, make: Callable[[torch.device], Any] | None = None) -> None:
        self.device, self.graphs, self.lock = device, (make or CudaGraphs)(device), threading.RLock()
        self.last: tuple[torch.cuda.Stream, torch.cuda.Event] | None = None
        self.failure: str | None = None
        self._eager: set[Hashable] = set()  # keys that could not be recorded
        self._states: dict[str, Hashable] = {}
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

    def keep_for(self, part: str, state: Hashable) -> None:
        """Drops all recordings if the state of a part of the model differs from the one at the previous call."""
        if self._states.setdefault(part, state) != state:
            self.clear()
            self._states[part] = state

    def clear(self) -> None:
        """Frees all recordings. On CUDA the current stream waits for the last replay."""
        with self.turn():
            for member in list(self._members):
                member.clear()
            self._eager.clear()
            self._states.clear()
            self.graphs.clear()


class _Call(NamedTuple):
    """Holds a recorded function."""

    given: list[Tensor]  # input
    found: list[Any]  # the result; the next replay of the pool overwrites its tensors
    replay: Callable[[], None]


class Recorded:
    """Calls functions by recordings, one for each key, autocast, other switches of torch, and kind of input.

    Recordings share tensors for the input. A function that cannot be recorded is not tried again until the pool is
    cleared, and the log says why.

    Args:
        pool: Memory of the recordings.
        most: Largest number of recordings, or None.

    Attributes:
        made: Number of recordings so far, with freed ones.
    """

    def __init__(self, pool: RecordingPool, most: int | None = None) -> None:
        self.pool = pool
        self.made, self._most = 0, most
        self._calls: dict[tuple[Hashable, ...], _Call] = {}
        self._inputs: dict[Hashable, Tensor] = {}
        self._stream: torch.cuda.Stream | None = None  # of the last call
        with pool.lock:
            pool._members.add(self)

    def has(self, key: Hashable) -> bool:
        """Returns True if there is a recording of the key for torch's present switches."""
        known = key, numerics(self.pool.device)
        return any(full[:2] == known for full in list(self._calls))

    def clear(self) -> None:
        """Frees these recordings. The last replay has ended, or the caller waits for it."""
        self._calls.clear()
        self._inputs.clear()
        self._stream = None  # so that the next call tells torch of the stream

    def call(
        self,
        key: Hashable,
        what: str,
        function: Callable[[list[Tensor]], Found],
        given: Sequence[Tensor],
        keep: Callable[[Found], Kept],
        others: Sequence[Tensor] = (),
    ) -> Kept | None:
        """Computes a function of tensors by its recording, which the first call makes.

        Args:
            key: All that the function depends on besides ``given``, ``others`` and torch's switches.
            what: Name of such calls in the log, in the plural.
            function: Computes results from tensors at fixed addresses with the values of ``given``. It does not wait
                for the device.
            given: Input on the device, or on the CPU in pinned memory.
            keep: Copies the part of the results that the caller needs. The next call overwrites the results.
            others: Tensors that the function reads and writes at their own addresses.

        Returns:
            The value of ``keep``, or None if the function is not recorded.

        Raises:
            Exception: If the function raises it in its first run.
        """
        pool = self.pool
        full = key, numerics(pool.device), tuple((x.dtype, x.shape, x.stride()) for x in given)
        with pool.turn():
            call = self._calls.get(full)
            if call is None and (full in pool._eager or len(self._calls) == self._most):
                return None
            with torch.inference_mode():  # so that inputs may be written in any mode of the caller
                inputs = [self._input(i, x) for i, x in enumerate(given)] if call is None else call.given
                self._use_on_stream(others)
                _copy(inputs, given)
                if call is None:
                    try:
                        call = self._record(function, inputs)
                    except RecordingError as error:
                        self._give_up(full, what, error.__cause__ or error)
                        return None
                    self._calls[full], self.made = call, self.made + 1
                call.replay()
            return keep(call.found[0])

    def _input(self, i: int, x: Tensor) -> Tensor:
        """Returns the tensor for the values of the i-th input. All recordings of its kind read it."""
        key = i, x.dtype, x.shape, x.stride()
        if key not in self._inputs:
            self._inputs[key] = torch.empty_like(x, device=self.pool.device)
        return self._inputs[key]

    def _record(self, function: Callable[[list[Tensor]], Found], inputs: list[Tensor]) -> _Call:
        found: list[Any] = [None]
        kind = self.pool.device.type
        enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)

        def run() -> None:
            # Without autocast's cache: its casts of weights would be in this graph's memory and be read by others.
            with torch.autocast(kind, dtype, enabled=enabled, cache_enabled=False):
                found[0] = function(inputs)  # each replay writes to the addresses of the recording

        return _Call(inputs, found, self.pool.graphs.record(run))

    def _use_on_stream(self, others: Sequence[Tensor]) -> None:
        """Tells torch of the stream that uses the tensors. It knows only the stream that they were made on, and would
        reuse the memory of freed tensors while this stream reads them."""
        if self.pool.device.type == "cuda":
            stream = torch.cuda.current_stream(self.pool.device)
            if stream != self._stream:
                self._stream = stream
                for x in (*self._inputs.values(), *others):
                    x.record_stream(stream)

    def _give_up(self, key: Hashable, what: str, cause: BaseException) -> None:
        self.pool._eager.add(key)
        self.pool.failure = f"{type(cause).__name__}: {cause}"
        _log.warning("%s cannot be recorded, and are run eagerly: %s", what, cause)


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


_pools: "WeakKeyDictionary[Any, dict[bool, RecordingPool]]" = WeakKeyDictionary()


def pool_of(model: Any, ahead: bool = False) -> RecordingPool:
    """Returns the pool of recordings of a model on its present device.

    Args:
        ahead: If True, returns the pool of encodings of video frames, which run at the same time as tracking. Otherwise
            that of images, prompts and steps.
    """
    release_if_moved(model)
    pools = _pools.setdefault(model, {})
    return pools.get(ahead) or pools.setdefault(ahead, RecordingPool(model.device))


def release_if_moved(model: Any) -> None:
    """Frees the recordings of a model on a device that the model has left."""
    if any(pool.device != model.device for pool in _pools.get(model, {}).values()):
        release(model)
        del _pools[model]


def release(model: Any) -> None:
    """Frees the recordings of a model, also of its open sessions. They are made again when needed."""
    for pool in list(_pools.get(model, {}).values()):
        pool.clear()

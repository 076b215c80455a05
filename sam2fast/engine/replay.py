"""Calls functions of tensors through CUDA graphs: copies the inputs, replays the graph, and copies the results.

Also records image encoding and mask decoding for common batch sizes. :mod:`sam2fast.tracking.step_runner` records
tracking.
"""

import logging
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor

from sam2fast.engine import engine_for
from sam2fast.engine.graphs import AHEAD, CudaGraphs, RecordingError, numerics, why_eager
from sam2fast.modeling.sam2_base import SAM2Base

_log = logging.getLogger(__name__)

# Recorded numbers of images, of prompts, and of points per prompt (one click or one box). Other numbers run eagerly,
# because padding would change the last bits of the results.
IMAGES, PROMPTS, POINTS = (1, 2, 4, 8), (1, 64, 256), (1, 2)
# Maximum number of recordings of images and prompts per model. Each recording keeps results in memory, so further
# shapes run eagerly.
MOST_RECORDINGS = 11

Result = TypeVar("Result")
Copy = TypeVar("Copy")


class GraphPool:
    """Memory pool of recordings. Only one recording runs at a time: threads and streams wait for their turn.

    Args:
        device: Device of the recordings.
        make: Function that creates the recorder, by default :class:`CudaGraphs`.

    Attributes:
        graphs: Recorder of the functions.
        lock: Lock that is held during a turn.
        last: Stream of the last turn, and an event at the end of the turn. None on devices other than CUDA.
        failures: Reasons why functions could not be recorded, by key. A failed function is retried after :meth:`clear`.
    """

    def __init__(self, device: torch.device, make: Callable[[torch.device], Any] | None = None) -> None:
        self.device, self.graphs, self.lock = device, (make or CudaGraphs)(device), threading.RLock()
        self.last: tuple[torch.cuda.Stream, torch.cuda.Event] | None = None
        self.failures: dict[tuple[Hashable, ...], str] = {}
        self._members: WeakSet[GraphCalls] = WeakSet()
        self._is_taken = False

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Context manager for a turn. On CUDA, the current stream waits for the previous turn. Turns may be nested."""
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
        """Frees all recordings. On CUDA, the current stream waits for the last replay."""
        with self.turn():
            for member in list(self._members):
                member.clear()
            self.failures.clear()
            self.graphs.clear()


class GraphCalls:
    """Records and replays functions. Each combination of key, input layouts and torch's flags has one recording.

    Recordings share input tensors. If a function cannot be recorded, the reason is logged.

    Args:
        pool: Memory pool of the recordings.
        most: Maximum number of recordings, or None.

    Attributes:
        tensors: Tensors that functions read and write in place, in addition to copied inputs. See :meth:`use`.
        states: Plan and weights' addresses of each part of the model at recording, by the name of the part.
        made: Number of recordings made so far, including freed recordings.
    """

    def __init__(self, pool: GraphPool, most: int | None = None) -> None:
        self.pool, self._most, self.made = pool, most, 0
        self.clear()
        with pool.lock:
            pool._members.add(self)

    def clear(self) -> None:
        """Frees the recordings of this object. The caller must wait until the last replay has ended."""
        # Key -> replay function and result. The next replay in the pool overwrites the tensors of the result.
        self._calls: dict[tuple[Hashable, ...], tuple[Callable[[], None], list[Any]]] = {}
        self._inputs: dict[Hashable, Tensor] = {}
        self._stream: torch.cuda.Stream | None = None  # last stream that used inputs and tensors
        self.tensors: Any = ()
        self.states: dict[Hashable, Hashable] = {}

    def use(self, tensors: Sequence[Tensor | None]) -> None:
        """Sets :attr:`tensors`. If a tensor was replaced, frees the recordings."""
        if list(map(id, tensors)) != list(map(id, self.tensors)):
            self.clear()
            self.tensors = tensors

    def has(self, key: Hashable) -> bool | None:
        """Returns True if the key is recorded for torch's current flags, False if recording failed, otherwise None."""
        prefix = key, numerics(self.pool.device)
        if any(full[:2] == prefix for full in list(self._calls)):
            return True
        return False if any(full[:2] == prefix for full in list(self.pool.failures)) else None

    def call(
        self,
        key: tuple[Hashable, ...],
        function: Callable[[list[Tensor]], Result],
        args: Sequence[Tensor],
        keep: Callable[[Result], Copy],
    ) -> Copy | None:
        """Replays a function. The first call records it. Returns None if recording fails or ``most`` is reached.

        Must be called inside :meth:`GraphPool.turn`.

        Args:
            key: Values that the function depends on, besides ``args``, :attr:`tensors` and torch's global flags. The
                first item is a plural noun that names the calls in the log.
            function: Function that computes results from tensors at fixed addresses with the values of ``args``. The
                function must not synchronize with the device.
            args: Inputs on the device, or on the CPU in pinned memory.
            keep: Function that copies the required results. The next call overwrites the original results.

        Raises:
            Exception: If the function raises an exception in the first run.
        """
        pool, layouts = self.pool, [(i, x.dtype, x.shape, x.stride()) for i, x in enumerate(args)]
        full = key, numerics(pool.device), *layouts
        if full not in self._calls and (full in pool.failures or len(self._calls) == self._most):
            return None
        with torch.inference_mode():  # allows writes to the inputs in any mode of the caller
            for layout, x in zip(layouts, args, strict=True):
                if layout not in self._inputs:
                    self._inputs[layout] = torch.empty_like(x, device=pool.device)
            inputs = [self._inputs[layout] for layout in layouts]
            if pool.device.type == "cuda" and (stream := torch.cuda.current_stream(pool.device)) != self._stream:
                # Without record_stream, torch only knows the stream that allocated a tensor, and reuses the memory of
                # a freed tensor while this stream still reads the tensor.
                self._stream = stream
                for x in (*self._inputs.values(), *self.tensors):
                    if x is not None:
                        x.record_stream(stream)
            _copy(inputs, args)
            if full not in self._calls and not self._record(full, function, inputs):
                return None
            replay, result = self._calls[full]
            replay()
        return keep(result[0])

    def _record(self, full: tuple[Any, ...], function: Callable[[list[Tensor]], Any], inputs: list[Tensor]) -> bool:
        """Records a function. If recording fails, logs the reason and returns False."""
        result: list[Any] = [None]
        device_type = self.pool.device.type
        enabled, dtype = torch.is_autocast_enabled(device_type), torch.get_autocast_dtype(device_type)

        def run() -> None:
            # Autocast's cache is disabled: other graphs would read cached weights in the memory of this graph.
            with torch.autocast(device_type, dtype, enabled=enabled, cache_enabled=False):
                result[0] = function(inputs)  # each replay writes to the same addresses

        try:
            self._calls[full] = self.pool.graphs.record(run), result
        except RecordingError as error:
            cause = error.__cause__ or error
            self.pool.failures[full] = f"{type(cause).__name__}: {cause}"
            _log.warning("%s cannot be recorded, and are run eagerly: %s", full[0][0], cause)
            return False
        self.made += 1
        return True


def _copy(inputs: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copies ``values`` to ``inputs``. Tensors of the same dtype that are on the device share one launch."""
    on_device: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}
    for x, value in zip(inputs, values, strict=True):
        if x.device == value.device:
            on_device.setdefault(x.dtype, []).append((x, value))
        else:
            x.copy_(value, non_blocking=True)
    for pairs in on_device.values():
        torch._foreach_copy_([x for x, _ in pairs], [value for _, value in pairs])


_by_model: "WeakKeyDictionary[Any, dict[bool, GraphCalls]]" = WeakKeyDictionary()


def graph_calls_of(model: Any, ahead: bool = False) -> GraphCalls:
    """Returns the recordings of a model's images and prompts on the current device. Tracking steps use the same pool.

    Args:
        ahead: If True, returns the recordings of video frame encodings. These encodings run at the same time as
            tracking steps, so the recordings have another pool, and a lower priority.
    """
    release_if_moved(model)
    recordings = _by_model.setdefault(model, {})
    most, make = (None, partial(CudaGraphs, priority=AHEAD)) if ahead else (MOST_RECORDINGS, CudaGraphs)
    return recordings.get(ahead) or recordings.setdefault(ahead, GraphCalls(GraphPool(model.device, make), most))


def release_if_moved(model: Any) -> None:
    """Frees the recordings of a model if the model was moved to another device."""
    device = model.device
    if any(calls.pool.device != device for calls in list(_by_model.get(model, {}).values())):
        release(model)
        _by_model.pop(model, None)


def release(model: Any) -> None:
    """Frees the recordings of a model, including recordings of open sessions. Later calls record again if needed."""
    for calls in list(_by_model.get(model, {}).values()):
        calls.pool.clear()


def encode(model: Any, fast: bool | None, images: Tensor) -> list[Tensor]:
    """Computes :meth:`~sam2fast.engine.Engine.encode`, by replaying a recording if possible.

    Args:
        model: SAM 2 model, or an object that replaces the model in a predictor.
        fast: Use of CUDA graphs, see :func:`~sam2fast.engine.graphs.why_eager`.
        images: Images ``(B, 3, S, S)``.

    Raises:
        RuntimeError: If ``fast`` is True, and the device is a GPU that does not support graphs.
    """
    engine, maps = engine_for(model), None
    if _may_record(model, fast) and len(images) in IMAGES:
        key, state = (f"encodings of {len(images)} images", "image"), engine.state_of_image(images)
        maps = _call(model, key, state, lambda inputs: engine.encode(inputs[0]), [images])
    return maps or engine.encode(images)


def decode(
    model: Any,
    fast: bool | None,
    embedding: Tensor,
    high_res: Sequence[Tensor],
    points: tuple[Tensor, Tensor] | None,
    prompts: Tensor | None,
    multimask: bool,
) -> tuple[Tensor, Tensor]:
    """Computes masks and IoUs of :meth:`~sam2fast.engine.Engine.decode`, by replaying a recording if possible."""
    engine, outputs, levels = engine_for(model), None, len(high_res)
    may_record = _may_record(model, fast)
    if may_record and points is not None and len(points[0]) in PROMPTS and points[0].shape[1] in POINTS:

        def function(inputs: list[Tensor]) -> list[Tensor]:
            coords, labels, image, *others = inputs
            masks = others[levels] if len(others) > levels else None
            return list(engine.decode(image, others[:levels], (coords, labels), masks, multimask)[:2])

        args = [*points, embedding, *high_res, *([] if prompts is None else [prompts])]
        key = f"decodings of {len(points[0])} prompts", "masks", multimask, levels
        outputs = _call(model, key, engine.state_of_masks(embedding), function, args)
    masks, ious = outputs or engine.decode(embedding, high_res, points, prompts, multimask)[:2]
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
    args: list[Tensor],
) -> list[Tensor] | None:
    """Replays a recording and returns copies of the results, or None if the function cannot be recorded.

    Args:
        key, function, args: Arguments of :meth:`GraphCalls.call`. The second item of the key names a part of the model.
        state: Plan and weights' addresses of this part. A new state frees all recordings. None disables recording.
    """
    if state is None or any(x.device != model.device for x in args):
        return None
    calls = graph_calls_of(model)
    with calls.pool.turn():
        if calls.states.setdefault(key[1], state) != state:
            calls.pool.clear()
            calls.states[key[1]] = state
        return calls.call(key, function, args, lambda results: [x.clone() for x in results])

"""Records a function of fixed tensors, to be run again without Python."""

import itertools
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Protocol

import torch

from sam2fast.modeling.compiled import recording

# One recording at a time in the process: each begins by waiting for the whole device, which nobody may do while another
# is under way. Taken last: whoever holds this lock takes no predictor's.
_one_at_a_time = threading.RLock()


class RecordingError(RuntimeError):
    """What ran once could not be recorded; the cause says why."""


class Recorder(Protocol):
    """Makes of a function one that does the same to the same tensors."""

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        """
        Args:
            function: reads and writes tensors whose addresses stay; waits for nothing on the device; may run any
                number of times, the first of them here.

        Raises:
            RecordingError: it ran, and could not be recorded.
            Exception: of the function's own, from that first time.
        """
        ...

    def clear(self) -> None:
        """Lets go of the memory that recordings share; those made before are not run any more."""
        ...


class Direct:
    """Records nothing: the function itself is run again."""

    def __init__(self, device: torch.device) -> None:
        pass

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        return function

    def clear(self) -> None:
        pass


class CudaGraphs:
    """Records CUDA graphs, all in one pool of memory: they never run at the same time.

    Args:
        device: where they run.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # Apart: what torch keeps for each stream, such as workspaces of matrix products, must be made in the graphs'
        # own memory, which stays as long as one of them does, also where torch lets go of the workspace.
        self._first, self._capture = torch.cuda.Stream(device), _capture_stream(self, device)
        self._kept: torch.cuda.CUDAGraph | None = None  # the pool lives as long as one graph of it does
        self._held = 0  # bytes of the pool
        _recorders.append(weakref.ref(self, _recorders.remove))

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        with _one_at_a_time, torch.cuda.device(self._device), recording():
            current = torch.cuda.current_stream()
            self._first.wait_stream(current)
            try:
                with torch.cuda.stream(self._first):
                    function()  # compiles kernels, and makes what is made when it is first needed
            finally:
                current.wait_stream(self._first)
            graph = torch.cuda.CUDAGraph()
            pool = None if self._kept is None else self._kept.pool()
            try:
                # Other threads may decode and copy meanwhile. The outer block restores the stream if capturing fails.
                with (
                    torch.cuda.stream(current),
                    torch.cuda.graph(graph, pool=pool, stream=self._capture, capture_error_mode="thread_local"),
                ):
                    before = torch.cuda.memory_reserved(self._device)  # within: entering gives unused memory back
                    try:
                        function()
                    finally:
                        # Also what another thread has reserved meanwhile: rather too much than too little.
                        self._held += max(0, torch.cuda.memory_reserved(self._device) - before)
            except Exception as error:
                if self._kept is None:
                    self._held = 0
                raise RecordingError("a CUDA graph could not be recorded") from error
        if self._kept is None:
            self._kept = graph
        return graph.replay

    def clear(self) -> None:
        self._kept, self._held = None, 0

    def held(self, device: torch.device) -> int:
        """How many bytes of this device's memory the graphs' pool has."""
        return self._held if self._device == device else 0


class _CaptureStreams:
    """The streams of one device to record on."""

    def __init__(self) -> None:
        self.asked = itertools.count()
        self.free: deque[torch.cuda.Stream] = deque()  # of recorders that are gone, the longest first


_capture_streams: dict[torch.device, _CaptureStreams] = {}
# So many streams torch makes of each priority; then it hands out the first again.
STREAMS_OF_TORCH = 32


def _capture_stream(owner: CudaGraphs, device: torch.device) -> torch.cuda.Stream:
    """A stream that no other recorder has, as long as there are no more than :data:`STREAMS_OF_TORCH`.

    Of high priority, as nothing else here: what a thread does meanwhile on a stream that is being recorded would be
    recorded too. And of its own: graphs that were recorded on one stream share workspaces of matrix products, which
    torch lets go with the first of them. What is recorded keeps the priority, steps and encodings alike.
    """
    streams = _capture_streams.setdefault(device, _CaptureStreams())
    if next(streams.asked) < STREAMS_OF_TORCH:
        stream = torch.cuda.Stream(device, priority=-1)
    else:
        try:
            stream = streams.free.popleft()
        except IndexError:
            return torch.cuda.Stream(device, priority=-1)  # somebody's
    weakref.finalize(owner, streams.free.append, stream).atexit = False
    return stream


# Without a lock: lists are appended to and copied in one go, and a signal's handler may come in anywhere.
_recorders: list[weakref.ref[CudaGraphs]] = []


def memory_of_graphs(device: torch.device) -> int:
    """How many of the bytes that torch has reserved on a device are recorded graphs', which nothing else may use."""
    recorders = (ref() for ref in list(_recorders))
    return sum(recorder.held(device) for recorder in recorders if recorder is not None)

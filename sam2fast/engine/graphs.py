"""Records functions of fixed tensors as CUDA graphs, which are replayed without Python."""

import itertools
import threading
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterator

import torch

from sam2fast.engine.derived import Constants, current_step
from sam2fast.kernels._dispatch import backend_key, why_no_triton
from sam2fast.kernels._launch import tf32_is_allowed
from sam2fast.modeling.compiled import recording
from sam2fast.modeling.position_encoding import PositionEmbeddingSine
from sam2fast.modeling.sam2_base import SAM2Base

# One recording at a time in the process: each begins with a wait for the whole device, which is not allowed while
# another recording runs. This lock is taken last: its holder takes no lock of a predictor.
_one_at_a_time = threading.RLock()


class RecordingError(RuntimeError):
    """A function that ran once could not be recorded; the cause says why."""


class CudaGraphs:
    """Records functions as CUDA graphs, all in one pool of memory: they never run at the same time.

    No value in the pool may be needed after the next replay, which may overwrite it. Functions write their results to
    tensors that were made before, or the caller copies them before the next replay. That also keeps cuBLAS right: its
    workspace is memory of the pool, which torch gives back with the first graph that used it. A graph recorded later
    may have its tensors there, and a replay of an earlier graph writes its workspace over them, but between two replays
    nothing in them is needed.

    Attributes:
        constants: Values that recordings read instead of computing them.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.constants = Constants()
        # Two streams: what torch keeps for each stream, such as cuBLAS workspaces, must be allocated in the graphs' own
        # memory, which lives as long as one of them does, also where torch frees the workspace.
        self._first, self._capture = torch.cuda.Stream(device), _capture_stream(self, device)
        self._kept: torch.cuda.CUDAGraph | None = None  # the memory pool lives as long as one of its graphs
        self._held = 0  # bytes of the pool
        _recorders.append(weakref.ref(self, _recorders.remove))

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        """Returns a function that repeats the work of ``function`` on the same tensors.

        Args:
            function: Reads and writes tensors at fixed addresses, and does not wait for the device. It may run any
                number of times, the first of them here.

        Raises:
            RecordingError: If the function ran, and could not be recorded.
            Exception: If the function raises it in the first run.
        """
        with _one_at_a_time, torch.cuda.device(self._device), recording(), self.constants.in_use():
            graph = self._graph_of(function)
        if self._kept is None:
            self._kept = graph

        def replay() -> None:
            self.constants.refresh()
            graph.replay()

        return replay

    def _graph_of(self, function: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """Returns a graph of the function. For lack of memory, tries a second time."""
        try:
            return self._captured(function)
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
        torch.cuda.empty_cache()  # after the block, as the error held memory
        try:
            return self._captured(function)
        except torch.OutOfMemoryError as error:  # in the first run; eager execution may need less
            raise RecordingError("there is too little memory to record") from error

    def _captured(self, function: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """Runs the function once, and returns a graph of it."""
        current = torch.cuda.current_stream()
        self._first.wait_stream(current)
        try:
            with torch.cuda.stream(self._first):
                function()  # compiles kernels, and does other work of the first call
        finally:
            current.wait_stream(self._first)
        graph, held = torch.cuda.CUDAGraph(), self._held
        pool = torch.cuda.graph_pool_handle() if self._kept is None else self._kept.pool()
        try:
            # Other threads may decode and copy meanwhile. The outer block restores the stream if capturing fails.
            # Entering gives unused memory back, pinned memory too since torch 2.13. The next frame allocates its few
            # pinned buffers again, which takes less than the two runs here. Those in use stay: the caches hold only
            # memory whose copies have ended.
            with (
                torch.cuda.stream(current),
                torch.cuda.graph(graph, pool=pool, stream=self._capture, capture_error_mode="thread_local"),
            ):
                before = torch.cuda.memory_reserved(self._device)
                try:
                    function()
                finally:
                    # May include memory that another thread has reserved meanwhile: an upper bound.
                    self._held += max(0, torch.cuda.memory_reserved(self._device) - before)
        except Exception as error:
            if self._kept is None:
                self._held = held
            if _abandon(graph, pool, self._capture.device.index):
                # The next recording has a pool of its own, and a stream whose workspaces are not in this one.
                self._kept, self._capture = None, _capture_stream(self, self._device)
            raise RecordingError("a CUDA graph could not be recorded") from error
        return graph

    def clear(self) -> None:
        """Releases the memory that recordings share. Earlier recordings may not be replayed any more."""
        self.constants.clear()
        self._kept, self._held = None, 0


def why_eager(device: torch.device, fast: bool | None) -> str | None:
    """Returns the reason why nothing is recorded on a device, or None if functions are.

    Args:
        fast: Use of CUDA graphs: True always, False never, None if they are safe and faster.

    Raises:
        RuntimeError: If ``fast`` is True, and graphs cannot be recorded on this GPU.
    """
    if fast is False:
        return "fast is False"
    if device.type != "cuda":
        return f"there is nothing to record on {device.type}"
    why = why_no_triton(device) if torch.version.hip is None else "it has not been tried on AMD GPUs"
    if fast and why is not None:
        raise RuntimeError(f"fast is True, but {why}; leave it at None to go without recordings then")
    return why


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Returns True if the error or its cause is out-of-memory."""
    if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error):  # the driver's, for a graph
        return True
    return error is not None and _is_out_of_memory(error.__cause__ or error.__context__)


# Torch refers to them as long as the process lives.
_abandoned: list[torch.cuda.CUDAGraph] = []


def _abandon(graph: torch.cuda.CUDAGraph, pool: tuple[int, int], device: int) -> bool:
    """Returns True if CUDA ended a failed capture before torch did, for example if a function waits for the device.

    Torch takes such a capture for one that goes on: it gives no cached memory back, and records nothing more in the
    pool. Here the allocator of the device is told of the end. That of pinned memory cannot be told.
    """
    # The second is its name before torch 2.8.
    names = ("_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool")
    end = next(getattr(torch._C, name) for name in names if hasattr(torch._C, name))
    try:
        end(device, pool)
    except RuntimeError:  # torch has done it
        return False
    torch._C._cuda_releasePool(device, pool)
    _abandoned.append(graph)
    return True


# Counts the streams asked for on each device, and holds those of collected recorders, the oldest first.
_capture_streams: dict[torch.device, tuple[Iterator[int], deque[torch.cuda.Stream]]] = {}
# Streams of each priority that torch creates; after these it returns the first one again.
STREAMS_OF_TORCH = 32


def _capture_stream(owner: CudaGraphs, device: torch.device) -> torch.cuda.Stream:
    """Returns a stream that no other recorder uses, as long as there are at most :data:`STREAMS_OF_TORCH`.

    It has high priority, as no other stream here does: work of another thread on the stream would be recorded too.
    Recorders do not share a stream: graphs that were recorded on one stream share cuBLAS workspaces, which torch frees
    with the first of these graphs. What is recorded keeps the priority, steps and encodings alike.
    """
    asked, free = _capture_streams.setdefault(device, (itertools.count(), deque()))
    if next(asked) < STREAMS_OF_TORCH:
        stream = torch.cuda.Stream(device, priority=-1)
    else:
        try:
            stream = free.popleft()
        except IndexError:
            return torch.cuda.Stream(device, priority=-1)  # shared with another recorder
    weakref.finalize(owner, free.append, stream).atexit = False
    return stream


# Without a lock: appending to and copying a list is atomic, and a signal handler may run at any point.
_recorders: list[weakref.ref[CudaGraphs]] = []


def memory_of_graphs(device: torch.device) -> int:
    """Returns the bytes reserved by torch on a device for recorded graphs, which nothing else may use."""
    recorders = [ref() for ref in list(_recorders)]
    return sum(each._held for each in recorders if each is not None and each._device == device)


def numerics(device: torch.device) -> Hashable:
    """Returns torch's global switches of computation. A function is recorded once for each combination.

    In a step they are read once, see :meth:`~sam2fast.engine.Engine.one_step`.
    """
    step = current_step.get()
    known = {} if step is None else step.switches
    if device not in known:
        known[device] = _switches(device)
    return known[device]


def _switches(device: torch.device) -> Hashable:
    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
    matmul = cuda.matmul
    # Newer torch has another switch for convolutions, which the old one sets too. It refuses to read the old one if the
    # new ones for convolutions and recurrent networks differ.
    convolutions = getattr(getattr(cudnn, "conv", None), "fp32_precision", None)
    attention = cuda.flash_sdp_enabled, cuda.mem_efficient_sdp_enabled, cuda.cudnn_sdp_enabled, cuda.math_sdp_enabled
    return (
        backend_key(),
        autocast_dtype(device),
        tf32_is_allowed(),
        convolutions or cudnn.allow_tf32,
        cudnn.benchmark,
        cudnn.deterministic,
        torch.are_deterministic_algorithms_enabled(),
        matmul.allow_bf16_reduced_precision_reduction,
        matmul.allow_fp16_reduced_precision_reduction,
        getattr(matmul, "allow_fp16_accumulation", None),  # not in the oldest torch
        *(is_enabled() for is_enabled in attention),
    )


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Returns the dtype that autocast computes in on the device, or None without autocast."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def fingerprint(model: SAM2Base) -> Hashable:
    """Returns the facts that recordings of a model depend on, beside the modules, which have a :class:`Watch`.

    The facts are the addresses of the weights, replaced position encodings, and the model's own settings.
    """
    kinds, others = bool | int | float | str, ("training", "fast", "fill_hole_area")  # each step reads these itself
    public = [(name, value) for name, value in vars(model).items() if not name.startswith("_") and name not in others]
    encodings = [module for module in model.modules() if isinstance(module, PositionEmbeddingSine)]
    return (
        tuple((x.data_ptr(), x.dtype) for x in (*model.parameters(), *model.buffers())),
        tuple(id(table) for module in encodings for table in module.replaced().values()),
        tuple((name, value) for name, value in public if isinstance(value, kinds)),
    )

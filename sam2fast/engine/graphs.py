"""Records functions as CUDA graphs. Recorded functions read and write tensors at fixed addresses."""

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

# Allows one recording at a time in the process: a recording first synchronizes the device, and synchronization is not
# allowed while another recording runs. To avoid deadlocks, a thread that holds this lock takes no lock of a predictor.
_one_at_a_time = threading.RLock()

# Priorities of graphs that a caller waits for, and of graphs that compute ahead. Lower numbers run first. Torch has
# priorities from 0, the default of streams, to -3, which NCCL may use. Torch replaces a priority that a device lacks by
# the nearest priority.
AWAITED, AHEAD = -2, -1


class RecordingError(RuntimeError):
    """Raised if a function ran once, but could not be recorded. ``__cause__`` is the reason."""


class CudaGraphs:
    """Records functions as CUDA graphs. All graphs use one memory pool, so two graphs must not run at the same time.

    A replay may overwrite any value in the pool. So functions write results to tensors outside the pool, or the caller
    copies results before the next replay. No tensor in the pool is read after the next replay. Therefore cuBLAS
    workspaces in the pool are safe: torch frees a workspace with the first graph that used the workspace, a later graph
    may store tensors in this memory, and a replay of an earlier graph overwrites these tensors.

    Args:
        device: Device of the graphs.
        priority: Priority of the graphs' kernels, :data:`AWAITED` or :data:`AHEAD`. Before torch 2.10, kernels have the
            priority of the stream that replays the graph.

    Attributes:
        constants: Stored values that recordings read and do not compute.
    """

    def __init__(self, device: torch.device, priority: int = AWAITED) -> None:
        self._device, self._priority = device, priority
        self.constants = Constants()
        # The first run and the capture have separate streams. Torch keeps data per stream, such as cuBLAS workspaces.
        # The workspaces of a separate capture stream are in the graphs' pool. This memory stays valid while a graph
        # exists, even after torch frees the workspaces.
        self._first, self._capture = torch.cuda.Stream(device), _capture_stream(self, device, priority)
        self._pool_owner: torch.cuda.CUDAGraph | None = None  # graph that keeps the memory pool alive
        self._pool_bytes = 0
        _recorders.append(weakref.ref(self, _recorders.remove))

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        """Records ``function``. Returns a function that replays the recording on the same tensors.

        Args:
            function: Function that reads and writes tensors at fixed addresses, and does not synchronize with the
                device. The function may run any number of times, first in this method.

        Raises:
            RecordingError: If the function ran, but could not be recorded.
            Exception: If ``function`` raises an exception in the first run.
        """
        with _one_at_a_time, torch.cuda.device(self._device), recording(), self.constants.in_use():
            graph = self._graph_of(function)
        if self._pool_owner is None:
            self._pool_owner = graph

        def replay() -> None:
            self.constants.refresh()
            graph.replay()

        return replay

    def _graph_of(self, function: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """Returns a graph of the function. If the device is out of memory, frees cached memory and tries again."""
        try:
            return self._captured(function)
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
        torch.cuda.empty_cache()  # after the except block, because the exception references tensors
        try:
            return self._captured(function)
        except torch.OutOfMemoryError as error:  # raised by the first run; eager execution may need less memory
            raise RecordingError("there is too little memory to record") from error

    def _captured(self, function: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """Runs the function once, and returns a graph of the function."""
        current = torch.cuda.current_stream()
        self._first.wait_stream(current)
        try:
            with torch.cuda.stream(self._first):
                function()  # compiles kernels, and does other one-time work
        finally:
            current.wait_stream(self._first)
        graph, pool_bytes = torch.cuda.CUDAGraph(), self._pool_bytes
        pool = torch.cuda.graph_pool_handle() if self._pool_owner is None else self._pool_owner.pool()
        try:
            # thread_local: other threads may decode and copy during the capture. If the capture fails, the outer
            # context restores the stream. torch.cuda.graph first frees cached memory, since torch 2.13 also pinned
            # memory. So the next frame allocates a few pinned buffers again, in less time than the function runs twice.
            # Buffers in use are not affected, because the cache only holds buffers with completed copies.
            with (
                torch.cuda.stream(current),
                torch.cuda.graph(graph, pool=pool, stream=self._capture, capture_error_mode="thread_local"),
            ):
                before = torch.cuda.memory_reserved(self._device)
                try:
                    function()
                finally:
                    # This upper bound includes memory that another thread reserved during the capture.
                    self._pool_bytes += max(0, torch.cuda.memory_reserved(self._device) - before)
        except Exception as error:
            if self._pool_owner is None:
                self._pool_bytes = pool_bytes
            if _abandon(graph, pool, self._capture.device.index):
                # The next recording uses a new pool, and a stream without workspaces in the old pool.
                self._pool_owner = None
                self._capture = _capture_stream(self, self._device, self._priority)
            raise RecordingError("a CUDA graph could not be recorded") from error
        return graph

    def clear(self) -> None:
        """Releases the memory pool. Existing recordings must not be replayed after this call."""
        self.constants.clear()
        self._pool_owner, self._pool_bytes = None, 0


def why_eager(device: torch.device, fast: bool | None) -> str | None:
    """Returns the reason why functions run eagerly on a device, or None if functions are recorded.

    Args:
        fast: Use of CUDA graphs. True: always. False: never. None: if the device supports graphs.

    Raises:
        RuntimeError: If ``fast`` is True, and the device is a CUDA device without support for graphs.
    """
    if fast is False:
        return "fast is False"
    if device.type != "cuda":
        return f"there is nothing to record on {device.type}"
    why = why_no_triton(device) if torch.version.hip is None else "it has not been tried on AMD GPUs"
    if fast and why is not None:
        raise RuntimeError(f"fast is True, but {why}; with fast=None, functions run eagerly on this device")
    return why


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Returns True if the error or its cause is out-of-memory."""
    if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error):  # error of the driver
        return True
    return error is not None and _is_out_of_memory(error.__cause__ or error.__context__)


# Graphs of failed captures. Torch references these graphs until the process ends.
_abandoned: list[torch.cuda.CUDAGraph] = []


def _abandon(graph: torch.cuda.CUDAGraph, pool: tuple[int, int], device: int) -> bool:
    """Returns True if CUDA ended a failed capture before torch did, for example after a synchronization.

    Torch treats such a capture as unfinished: torch frees no cached memory, and cannot record in the pool again. This
    function ends the capture in the allocator of the device. The allocator of pinned memory has no function for this.
    """
    # Before torch 2.8, the function that ends a capture had the second name.
    names = ("_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool")
    end = next(getattr(torch._C, name) for name in names if hasattr(torch._C, name))
    try:
        end(device, pool)
    except RuntimeError:  # torch already ended the capture
        return False
    torch._C._cuda_releasePool(device, pool)
    _abandoned.append(graph)
    return True


# Device and priority -> counter of requested streams, and free streams of garbage-collected recorders, oldest first.
_capture_streams: dict[tuple[torch.device, int], tuple[Iterator[int], deque[torch.cuda.Stream]]] = {}
# Number of streams that torch creates per priority. Further requests return an existing stream.
STREAMS_OF_TORCH = 32


def _capture_stream(owner: CudaGraphs, device: torch.device, priority: int) -> torch.cuda.Stream:
    """Returns a stream for a recorder. Up to :data:`STREAMS_OF_TORCH` recorders of a priority get different streams.

    The priority is never 0, because a capture records all work on its stream, and all other streams of this package
    have priority 0. Recorders do not share a stream: graphs of one stream would share cuBLAS workspaces, and torch
    frees a workspace with the first of these graphs.
    """
    requested, free = _capture_streams.setdefault((device, priority), (itertools.count(), deque()))
    if next(requested) < STREAMS_OF_TORCH:
        stream = torch.cuda.Stream(device, priority=priority)
    else:
        try:
            stream = free.popleft()
        except IndexError:
            return torch.cuda.Stream(device, priority=priority)  # a stream that another recorder uses, too
    weakref.finalize(owner, free.append, stream).atexit = False
    return stream


# Needs no lock: appending to a list and copying a list are atomic. A lock could deadlock in a signal handler.
_recorders: list[weakref.ref[CudaGraphs]] = []


def memory_of_graphs(device: torch.device) -> int:
    """Returns the bytes that torch reserves on a device only for recorded graphs."""
    recorders = [ref() for ref in list(_recorders)]
    return sum(graphs._pool_bytes for graphs in recorders if graphs is not None and graphs._device == device)


def numerics(device: torch.device) -> Hashable:
    """Returns torch's global numerics flags. A function is recorded once for each combination of flags.

    Inside :meth:`~sam2fast.engine.Engine.one_step`, the flags are read only once.
    """
    step = current_step.get()
    known = {} if step is None else step.switches
    if device not in known:
        known[device] = _switches(device)
    return known[device]


def _switches(device: torch.device) -> Hashable:
    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
    matmul = cuda.matmul
    # Newer torch has a new flag for convolutions. Setting the old flag allow_tf32 also sets the new flag. Reading the
    # old flag raises an error if the new flags for convolutions and recurrent networks differ.
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
        getattr(matmul, "allow_fp16_accumulation", None),  # the oldest supported torch lacks this flag
        *(is_enabled() for is_enabled in attention),
    )


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Returns the dtype of autocast on the device, or None if autocast is disabled."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def fingerprint(model: SAM2Base) -> Hashable:
    """Returns a key of the values that recordings of a model depend on. A :class:`Watch` detects changes of modules.

    The key contains the addresses of the weights, replaced position encodings, and settings of the model.
    """
    types, ignored = bool | int | float | str, ("training", "fast", "fill_hole_area")  # a step reads ignored settings
    public = [(name, value) for name, value in vars(model).items() if not name.startswith("_") and name not in ignored]
    encodings = [module for module in model.modules() if isinstance(module, PositionEmbeddingSine)]
    return (
        tuple((x.data_ptr(), x.dtype) for x in (*model.parameters(), *model.buffers())),
        tuple(id(table) for module in encodings for table in module.cache.values()),
        tuple((name, value) for name, value in public if isinstance(value, types)),
    )

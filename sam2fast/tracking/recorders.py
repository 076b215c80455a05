"""Records a function of fixed tensors, to be run again without Python."""

from collections.abc import Callable
from typing import Protocol

import torch

from sam2fast.modeling.compiled import recording


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


class Direct:
    """Records nothing: the function itself is run again."""

    def __init__(self, device: torch.device) -> None:
        pass

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        return function


class CudaGraphs:
    """Records CUDA graphs, all in one pool of memory: they never run at the same time.

    Args:
        device: where they run.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # Apart: what torch keeps for each stream, such as workspaces of matrix products, must be made in the graphs'
        # own memory, where nobody frees it.
        self._first, self._capture = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self._kept: torch.cuda.CUDAGraph | None = None  # the pool lives as long as one graph of it does

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        with torch.cuda.device(self._device), recording():
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
                    function()
            except Exception as error:
                raise RecordingError("a CUDA graph could not be recorded") from error
        if self._kept is None:
            self._kept = graph
        return graph.replay

"""Records a function of fixed tensors, to be run again without Python."""

from collections.abc import Callable
from typing import Protocol

import torch


class Recorder(Protocol):
    """Makes of a function one that does the same to the same tensors."""

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        """
        Args:
            function: reads and writes tensors whose addresses stay; waits for nothing on the device; may run any
                number of times, the first of them here.
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
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        with torch.cuda.device(self._device):
            current = torch.cuda.current_stream()
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                function()  # compiles kernels, and makes what is made when it is first needed
            current.wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            # Other threads may decode and copy meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                function()
        return graph.replay

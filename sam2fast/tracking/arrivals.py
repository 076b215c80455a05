"""Tensors on their way from the device to the CPU, so that nobody waits for them until they are read."""

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

# Copies are taken out of pinned memory so many steps after they were begun, when they have long been made.
STEPS_UNDER_WAY = 2


class HostCopy:
    """A copy of a tensor on the CPU.

    From CUDA it goes to pinned memory, behind whatever the current stream was given before, and the caller goes on at
    once; what comes later on that stream may overwrite the tensor.
    """

    def __init__(self, source: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if source.is_cuda:
            self._tensor = torch.empty(source.shape, dtype=source.dtype, device="cpu", pin_memory=True)
            self._tensor.copy_(source, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(source.device))
        else:
            self._tensor = source.to("cpu", copy=True)

    @property
    def dtype(self) -> torch.dtype:
        return self._tensor.dtype

    def row(self, index: int) -> Tensor:
        """One row of the copy ``(1, ...)``, in memory of its own; waits until it is there."""
        if self._event is not None:
            self._event.synchronize()
        return self._tensor[index : index + 1].clone()

    @property
    def tensor(self) -> Tensor:
        """The copy, in ordinary memory; waits until it is there."""
        if self._event is not None:
            self._event.synchronize()
            self._tensor, self._event = self._tensor.clone(), None
        return self._tensor


class Arrivals:
    """Reads copies a little later, so that pinned memory does not grow with what is kept."""

    def __init__(self) -> None:
        self._steps: deque[list[Callable[[], object]]] = deque([[]])

    def add(self, read: Callable[[], object]) -> None:
        """``read`` will be called after a few steps."""
        self._steps[-1].append(read)

    def begin_step(self) -> None:
        """Reads what was begun :data:`STEPS_UNDER_WAY` steps ago or earlier."""
        self._steps.append([])
        while len(self._steps) > STEPS_UNDER_WAY:
            for read in self._steps.popleft():
                read()

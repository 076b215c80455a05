"""Copies tensors asynchronously between the CPU and the device, through pinned memory."""

from collections import deque
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

# Number of steps after which a copy is moved out of pinned memory. After these steps, the copy is complete.
STEPS_IN_FLIGHT = 2


class AsyncHostCopy:
    """Copies a tensor to the CPU.

    A copy from CUDA goes to pinned memory on the current stream, and the constructor does not wait for the copy. Later
    work on the current stream may overwrite the source tensor.

    Args:
        source: Tensor to copy.
        is_own: If True, no other code writes to ``source``, so a source on the CPU is not copied.
    """

    __slots__ = ("_event", "_tensor")

    def __init__(self, source: Tensor, is_own: bool = False) -> None:
        self._event: torch.cuda.Event | None = None
        if source.is_cuda:
            self._tensor = torch.empty(source.shape, dtype=source.dtype, device="cpu", pin_memory=True)
            self._tensor.copy_(source, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(source.device))
        else:
            self._tensor = source if is_own and source.is_cpu else source.to("cpu", copy=True)

    def arrived(self) -> Tensor:
        """Waits for the copy, and returns the copied tensor, possibly in pinned memory."""
        if self._event is not None:
            self._event.synchronize()
        return self._tensor

    @property
    def tensor(self) -> Tensor:
        """Waits for the copy, and returns the copied tensor in pageable memory."""
        if self._event is not None:
            self._tensor, self._event = self.arrived().clone(), None
        return self._tensor


class PendingCopies:
    """Reads copies a few steps after their start, so that pinned memory does not grow with the number of results."""

    def __init__(self) -> None:
        self._steps: deque[list[Callable[[], object]]] = deque([[]])

    def add(self, read: Callable[[], object]) -> None:
        """Schedules a call of ``read`` after a few steps."""
        self._steps[-1].append(read)

    def begin_step(self) -> None:
        """Reads the copies that started at least :data:`STEPS_IN_FLIGHT` steps ago."""
        self._steps.append([])
        while len(self._steps) > STEPS_IN_FLIGHT:
            for read in self._steps.popleft():
                read()


def copy_to_host(*tensors: Tensor) -> list[Tensor]:
    """Copies tensors from one device to the CPU in a single copy, and waits for the copy.

    If the device is CUDA, results are views of a pinned buffer. Torch reuses the buffer once all results are freed.
    """
    if not tensors[0].is_cuda:
        return [x.cpu() for x in tensors]
    # Tensors with the widest elements come first, so that each tensor begins at a multiple of its element size.
    order = sorted(range(len(tensors)), key=lambda i: -tensors[i].element_size())
    joined = torch.cat([tensors[i].contiguous().view(-1).view(torch.uint8) for i in order])
    parts = AsyncHostCopy(joined).arrived().split([tensors[i].nbytes for i in order])
    copies = {i: part.view(tensors[i].dtype).view(tensors[i].shape) for i, part in zip(order, parts, strict=True)}
    return [copies[i] for i in range(len(tensors))]


def copy_to_device(x: Tensor, device: torch.device | str) -> Tensor:
    """Returns ``x`` on ``device``. If ``x`` is already on ``device``, returns ``x`` itself.

    A copy from the CPU to CUDA is asynchronous, and uses a new pinned buffer and the current stream. Without the
    buffer, the copy would wait for the stream. The caller may overwrite ``x`` immediately.
    """
    if not x.is_cpu or torch.device(device).type != "cuda":
        return x.to(device)
    return torch.empty_like(x, pin_memory=True).copy_(x).to(device, non_blocking=True)


def to_numpy(x: Tensor, dtype: type[np.generic] = np.float32) -> np.ndarray:
    """Returns a CPU tensor as an array. Copies only to convert the dtype, or from pinned memory.

    Args:
        dtype: ``np.float32`` or ``np.bool_``.
    """
    if x.dtype == {np.float32: torch.float32, np.bool_: torch.bool}[dtype] and not x.is_pinned():
        return x.numpy()
    array = np.empty(tuple(x.shape), dtype)
    torch.from_numpy(array).copy_(x)
    return array

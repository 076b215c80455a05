"""What can be measured of a part: time by the clock or by events, memory; or it is shown to torch's profiler."""

import ctypes
import time
from pathlib import Path
from typing import Any, Protocol

import torch

from sam2fast.profiling.tree import Part

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_HIGH_WATER_MARK = "5"


class Probe(Protocol):
    """Measures parts, which are nested."""

    def begin(self, path: str) -> Any:
        """A part begins; the answer is handed to :meth:`end`."""
        ...

    def end(self, part: Part, token: Any) -> None:
        """The part that began last ends."""
        ...

    def finish(self) -> None:
        """All parts have ended."""
        ...


class Clock:
    """Seconds by the clock, for a device that works while it is asked to."""

    def begin(self, path: str) -> float:
        return time.perf_counter()

    def end(self, part: Part, token: float) -> None:
        part.seconds += time.perf_counter() - token

    def finish(self) -> None:
        pass


class Events:
    """Seconds by events on the current stream; the host waits for the device once, when all parts have ended."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pairs: list[tuple[Part, torch.cuda.Event, torch.cuda.Event]] = []

    def begin(self, path: str) -> torch.cuda.Event:
        return self._now()

    def end(self, part: Part, token: torch.cuda.Event) -> None:
        self._pairs.append((part, token, self._now()))

    def finish(self) -> None:
        torch.cuda.synchronize(self._device)
        for part, start, end in self._pairs:
            part.seconds += start.elapsed_time(end) / 1e3
        self._pairs.clear()

    def _now(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


class Peaks:
    """By how much memory grows at most while a part is open."""

    def __init__(self) -> None:
        self._open: list[list[int]] = []  # what there was at the beginning, and the most since

    def begin(self, path: str) -> None:
        self._look()
        now = self._now()
        self._open.append([now, now])

    def end(self, part: Part, token: None) -> None:
        self._look()
        before, most = self._open.pop()
        part.peak_bytes = max(part.peak_bytes or 0, most - before)

    def finish(self) -> None:
        self._open.clear()

    def _look(self) -> None:
        """What was reached since the last look counts for all parts that are open; then it starts again."""
        most = self._most_and_reset()
        for entry in self._open:
            entry[1] = max(entry[1], most)

    def _now(self) -> int:
        raise NotImplementedError

    def _most_and_reset(self) -> int:
        raise NotImplementedError


class CudaPeaks(Peaks):
    """Memory that torch has allocated on a GPU."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device

    def _now(self) -> int:
        return torch.cuda.memory_allocated(self._device)

    def _most_and_reset(self) -> int:
        most = torch.cuda.max_memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        return most


class ResidentPeaks(Peaks):
    """The process's resident memory.

    What the allocator keeps from before would be taken again without growth; where the C library can, it gives that
    back when a part begins.
    """

    def __init__(self) -> None:
        super().__init__()
        self._give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)

    def begin(self, path: str) -> None:
        self._look()
        if self._give_back is not None:
            self._give_back(0)
        super().begin(path)

    @staticmethod
    def available() -> bool:
        """Whether the system says how much it was at most, and can forget it."""
        try:
            CLEAR.write_text(RESET_HIGH_WATER_MARK, encoding="utf-8")
            return "VmHWM" in STATUS.read_text(encoding="utf-8")
        except OSError:
            return False

    def _now(self) -> int:
        return _status("VmRSS")

    def _most_and_reset(self) -> int:
        most = _status("VmHWM")
        CLEAR.write_text(RESET_HIGH_WATER_MARK, encoding="utf-8")
        return most


def _status(field: str) -> int:
    line = next(line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024  # given in kB


class Nothing:
    """Measures nothing, where nothing can be or only products are counted."""

    def begin(self, path: str) -> None:
        pass

    def end(self, part: Part, token: None) -> None:
        pass

    def finish(self) -> None:
        pass


class Ranges:
    """Shows parts to torch's profiler, as ranges named by their paths."""

    def begin(self, path: str) -> torch.profiler.record_function:
        entered = torch.profiler.record_function(path)
        entered.__enter__()
        return entered

    def end(self, part: Part, token: torch.profiler.record_function) -> None:
        token.__exit__(None, None, None)

    def finish(self) -> None:
        pass


def stopwatch(device: torch.device) -> Probe:
    """Seconds, as they are measured on this device.

    Raises:
        ValueError: it is neither a CPU nor a CUDA device.
    """
    if device.type == "cuda":
        return Events(device)
    if device.type == "cpu":
        return Clock()
    raise ValueError(f"parts can be timed on cpu and cuda, and the model is on {device}; build it on one of these")


def memory_watch(device: torch.device) -> tuple[Probe, str]:
    """What watches memory on this device, and in words what it sees."""
    if device.type == "cuda":
        return CudaPeaks(device), "memory that torch allocated on the GPU, above what there was when the part began"
    if ResidentPeaks.available():
        return (
            ResidentPeaks(),
            "growth of the process's resident memory above what there was when the part began; what the allocator "
            "kept from before counts as given back then, where the C library can",
        )
    return Nothing(), "not measured: this system does not say how much resident memory there was at most"

"""Which devices are meant, and how many threads a process on each of them gets."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch

# "cuda:0,cuda:1", "all" (every CUDA device), or devices one by one.
Devices: TypeAlias = "str | Sequence[str | torch.device]"

ALL = "all"


def names_several(device: str) -> bool:
    """Whether a text of the command line means more than one device, or all there are; needs no torch."""
    return device == ALL or "," in device


def device_list(devices: Devices) -> list[str]:
    """Each device by its full name, such as ``cuda:1``.

    A device may be there twice: two processes share it then. ``cpu`` twice are two processes, each with half the
    threads.

    Raises:
        ValueError: there is none, or a text is no device.
        RuntimeError: this machine has no such device.
    """
    import torch

    from sam2fast.build_sam import available_device

    if devices == ALL:
        devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        if not devices:
            raise RuntimeError("'all' means every CUDA device, and there is none here; name devices, such as 'cpu'")
    asked = devices.split(",") if isinstance(devices, str) else list(devices)
    if not asked:
        raise ValueError("no device was given; expected one or more, such as 'cuda:0,cuda:1'")
    found = []
    for one in asked:
        name = one.strip() if isinstance(one, str) else one
        try:
            parsed = torch.device("cpu" if name == "auto" else name)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"{one!r} is no device; expected such as 'cuda:1' or 'cpu'") from error
        device = available_device("auto" if name == "auto" else parsed)
        # With an index, so that a process stays on it whatever its current device is.
        found.append("cuda:0" if device.type == "cuda" and device.index is None else str(device))
    return found


def threads_for_each(processes: int, threads: int | None = None) -> int:
    """Threads of a process among so many: an equal share of those that this one may use, at least one.

    Args:
        threads: what a process gets, if the caller has decided.

    Raises:
        ValueError: ``threads`` is below 1.
    """
    if threads is not None:
        if threads < 1:
            raise ValueError(f"threads is {threads}; expected 1 or more for each process")
        return threads
    return max(1, _threads_here() // processes)


def _threads_here() -> int:
    loaded = sys.modules.get("torch")
    if loaded is not None:
        return int(loaded.get_num_threads())
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) > 0 else os.cpu_count() or 1

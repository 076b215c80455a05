"""Parses lists of devices and divides CPU threads among processes."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from sam2fast.utils.cores import available_cores

if TYPE_CHECKING:
    import torch

# "cuda:0,cuda:1", "all" (every CUDA device), or a sequence of devices.
Devices: TypeAlias = "str | Sequence[str | torch.device]"

ALL = "all"


def names_several(device: str) -> bool:
    """Returns True if a device option names several devices or is ``all``. Does not import torch."""
    return device == ALL or "," in device


def device_list(devices: Devices) -> list[str]:
    """Returns the full names of devices, such as ``cuda:1``.

    If a device occurs twice, two processes share the device. For ``cpu`` twice, each process has half the CPU threads.

    Raises:
        ValueError: If the list is empty, or a name is not a device.
        RuntimeError: If this machine does not have a named device.
    """
    import torch

    from sam2fast.utils.devices import DEVICES, available_device

    if devices == ALL:
        devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        if not devices:
            raise RuntimeError("'all' means every CUDA device, and there is none here; name devices, such as 'cpu'")
    requested = devices.split(",") if isinstance(devices, str) else list(devices)
    if not requested:
        raise ValueError("no device was given; expected one or more, such as 'cuda:0,cuda:1'")
    names = []
    for one in requested:
        name = one.strip() if isinstance(one, str) else one
        try:
            parsed = torch.device("cpu" if name == "auto" else name)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"{one!r} is not a device; {DEVICES}") from error
        device = available_device("auto" if name == "auto" else parsed)
        # The index makes the name independent of the current device.
        names.append("cuda:0" if device.type == "cuda" and device.index is None else str(device))
    return names


def threads_for_each(processes: int, threads: int | None = None) -> int:
    """Returns the number of CPU threads per process: an equal part of this process's threads, at least one.

    Args:
        threads: number of CPU threads per process. If not None, this number is returned.

    Raises:
        ValueError: If ``threads`` is below 1.
    """
    if threads is not None:
        if threads < 1:
            raise ValueError(f"threads is {threads}; expected 1 or more for each process")
        return threads
    loaded, variable = sys.modules.get("torch"), os.environ.get("OMP_NUM_THREADS", "")
    here = int(variable) if variable.isdecimal() and int(variable) > 0 else available_cores()
    return max(1, (here if loaded is None else int(loaded.get_num_threads())) // processes)

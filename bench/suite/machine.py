"""What figures were taken on."""

import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parents[1]
RESULTS = BENCH / "results" / str(datetime.date.today().year)  # below it a folder for each kind


def machine(device: str = "cpu") -> dict[str, Any]:
    """Describes the device, processor, versions and commit, and limits of kernels on a CUDA device."""
    import torch

    import sam2fast
    from sam2fast.utils.devices import processor_name

    about: dict[str, Any] = {
        "device": f"CPU {processor_name()} {os.cpu_count()} cores",
        "cpu": processor_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "numpy": _version("numpy"),
        "sam2fast": sam2fast.__version__,
        "commit": commit(),
    }
    if device.startswith("cuda"):
        name, limits = torch.cuda.get_device_name(device), torch.cuda.get_device_properties(device)
        about |= {
            "device": name,
            "gpu": name,
            "driver": output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
            "cuda": torch.version.cuda,
            "compute capability": f"{limits.major}.{limits.minor}",
            "multiprocessors": limits.multi_processor_count,
            "memory GiB": round(limits.total_memory / 2**30, 1),
        }
    return about


def _version(name: str) -> str | None:
    try:
        return str(__import__(name).__version__)
    except ImportError:
        return None


def commit() -> str | None:
    """Returns the commit measured, with ``-dirty`` where files other than results differ from it.

    In a copy of the tree without git it is ``SAM2FAST_COMMIT``, or None if that is not set.
    """
    if told := os.environ.get("SAM2FAST_COMMIT"):
        return told
    changed = output_of("git", "status", "--porcelain", "--", ":(top)", ":(top,exclude)bench/results")
    head = output_of("git", "rev-parse", "--short=12", "HEAD")
    return f"{head}-dirty" if head and changed else head


def output_of(*command: str) -> str | None:
    """Returns the output of a command in this folder; None if it cannot be run or prints nothing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=BENCH, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def forget_peak(device: str) -> None:
    """Starts to count peak memory."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    elif (reset := Path("/proc/self/clear_refs")).exists():
        reset.write_text("5")


def peak_mib(device: str) -> float | None:
    """Returns the most memory since :func:`forget_peak`: allocated on a GPU, or resident where Linux tells."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024

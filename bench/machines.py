"""What figures were taken on."""

import importlib.util
import os
import platform
import sys
from collections.abc import Iterable
from typing import Any

import torch
from suite.machine import commit, cpu_name, driver


def machine(device: torch.device) -> dict[str, Any]:
    """The device, versions and commit; of a CUDA device also what limits kernels."""
    info: dict[str, Any] = {
        "device": f"CPU {cpu_name()} {os.cpu_count()} cores",
        "torch": torch.__version__,
        "triton": _version("triton"),
        "numpy": _version("numpy"),
        "python": platform.python_version(),
        "commit": commit(),
    }
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        info |= {
            "device": torch.cuda.get_device_name(device),
            "driver": driver(),
            "cuda": torch.version.cuda,
            "cpu": f"{cpu_name()} {os.cpu_count()} cores",
            "capability": f"{about.major}.{about.minor}",
            "multiprocessors": about.multi_processor_count,
            "memory GiB": round(about.total_memory / 2**30, 1),
        }
    return info


def packages(names: Iterable[str]) -> dict[str, Any]:
    """Where the named packages are found; None where they are missing."""
    found = {name: importlib.util.find_spec(name) for name in names}
    return {"packages": {name: None if spec is None else str(spec.origin) for name, spec in found.items()},
            "path": [entry for entry in sys.path if entry]}  # fmt: skip


def _version(name: str) -> str | None:
    try:
        return str(__import__(name).__version__)
    except ImportError:
        return None

"""Selects devices and dtypes of autocast. Finds the processor's name."""

import platform
from pathlib import Path

import torch

# Compute capability of the oldest NVIDIA GPUs with native bfloat16.
OLDEST_WITH_BFLOAT16 = (8, 0)
DEVICES = "expected cpu, cuda (an NVIDIA or AMD GPU), cuda:1 (the second), mps (Apple) or auto"


def available_device(device: str | torch.device) -> torch.device:
    """Returns the ``torch.device``; ``auto`` is CUDA, else MPS, else the CPU. Raises RuntimeError if there is none."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(device)
    except RuntimeError as error:  # torch's own text lists its twenty types of devices
        raise RuntimeError(f"{device!r} is no device; {DEVICES}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"there is no CUDA here for device {str(device)!r}; pass device='cpu' or 'auto'")
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise RuntimeError(f"there is no device {str(device)!r} here; CUDA has {count}, the first is cuda:0")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise RuntimeError("there is no MPS here; pass device='cpu' or 'auto'")
    return device


def processor_name() -> str:
    """Returns the system's name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def gpu_lacks_bfloat16(device: torch.device) -> bool:
    """Returns True if CUDA only emulates bfloat16, which is slow, and attention stores all scores."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) < OLDEST_WITH_BFLOAT16


def autocast_dtype_for(device: torch.device) -> torch.dtype:
    """Returns the dtype to use with autocast on CUDA: bfloat16, as in the original, or float16 if it is emulated."""
    return torch.float16 if gpu_lacks_bfloat16(device) else torch.bfloat16

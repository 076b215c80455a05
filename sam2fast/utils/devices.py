"""Selects devices and autocast dtypes, and finds the name of the processor."""

import platform
from pathlib import Path

import torch

# Minimum compute capability of NVIDIA GPUs with native bfloat16.
OLDEST_WITH_BFLOAT16 = (8, 0)
DEVICES = "expected cpu, cuda (an NVIDIA or AMD GPU), cuda:1 (the second), mps (Apple) or auto"


def available_device(device: str | torch.device) -> torch.device:
    """Returns the ``torch.device``. ``auto`` selects CUDA if available, else MPS, else the CPU.

    Raises:
        RuntimeError: If ``device`` is not a device or is not available.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(device)
    except RuntimeError as error:  # torch's message lists twenty device types
        raise RuntimeError(f"{device!r} is not a device; {DEVICES}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"CUDA is not available for device {str(device)!r}; pass device='cpu' or 'auto'")
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise RuntimeError(f"device {str(device)!r} does not exist; number of CUDA devices: {count}, from cuda:0")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise RuntimeError("MPS is not available; pass device='cpu' or 'auto'")
    return device


def processor_name() -> str:
    """Returns the name of the CPU as reported by the operating system."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def gpu_lacks_bfloat16(device: torch.device) -> bool:
    """Returns True for NVIDIA GPUs that emulate bfloat16. With emulation, attention is slow and stores all scores."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) < OLDEST_WITH_BFLOAT16


def autocast_dtype_for(device: torch.device) -> torch.dtype:
    """Returns the autocast dtype for CUDA: bfloat16, as in SAM 2, or float16 if bfloat16 is emulated."""
    return torch.float16 if gpu_lacks_bfloat16(device) else torch.bfloat16


def usual_dtype(device: torch.device) -> torch.dtype:
    """Returns the dtype of the computation for ``dtype="auto"``: as for autocast on CUDA, float32 on other devices."""
    return autocast_dtype_for(device) if device.type == "cuda" else torch.float32

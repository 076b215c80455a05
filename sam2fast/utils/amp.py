"""Which 16-bit dtype a GPU computes in at its full rate."""

import torch

# Compute capability of the oldest NVIDIA GPUs with instructions for bfloat16.
OLDEST_WITH_BFLOAT16 = (8, 0)


def gpu_lacks_bfloat16(device: torch.device) -> bool:
    """Whether a CUDA device has no instructions for bfloat16, so that torch imitates them, slowly, and attention in it
    writes all its scores out."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) < OLDEST_WITH_BFLOAT16


def autocast_dtype_for(device: torch.device) -> torch.dtype:
    """What autocast should compute in on CUDA: bfloat16, as in the original, or float16 where that is imitated."""
    return torch.float16 if gpu_lacks_bfloat16(device) else torch.bfloat16

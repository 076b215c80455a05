"""Asynchronous copies between the host and a device."""

import torch
from torch import Tensor


def uploaded(x: Tensor, device: torch.device | str) -> Tensor:
    """``x`` on ``device``; ``x`` itself if it is there already.

    A copy from the CPU to CUDA is asynchronous: it goes through a new pinned buffer on the current stream, while one
    from pageable memory would wait for the stream. The caller may overwrite ``x`` at once.
    """
    if not x.is_cpu or torch.device(device).type != "cuda":
        return x.to(device)
    return torch.empty_like(x, pin_memory=True).copy_(x).to(device, non_blocking=True)

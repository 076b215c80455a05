"""Tensors on their way to the device, so that nobody waits for it."""

import torch
from torch import Tensor


def uploaded(x: Tensor, device: torch.device | str) -> Tensor:
    """``x`` on ``device``, which ``x`` may be on already.

    To CUDA it goes through pinned memory of its own, behind whatever the current stream was given before, and the
    caller goes on at once: a copy from ordinary memory would wait for all of that first. The caller may write to ``x``
    again.
    """
    if not x.is_cpu or torch.device(device).type != "cuda":
        return x.to(device)
    return torch.empty_like(x, pin_memory=True).copy_(x).to(device, non_blocking=True)

"""What the kernel supports, and the launch table's names of shapes; imports without Triton."""

import torch

from sam2fast.kernels._dispatch import FLOATS
from sam2fast.kernels._launch import launch_config

# Channels of a head. In fp32 wider heads need 112 KiB of shared memory where windows are padded, more than the 99 KiB
# of compute capabilities 8.6, 8.9 and 12.0. In fp16 and bf16 they need more registers than there are. Hiera's largest
# heads have 96 channels.
WIDEST = 96


def shape_class(d: int, window_size: int) -> str:
    """The launch table's name for heads of ``d`` channels in these windows."""
    return f"{d}w{window_size}" if window_size else "global"


def unsupported_reason(
    qkv: torch.Tensor, num_heads: int, window_size: int, q_stride: tuple[int, int] | None
) -> str | None:
    """Why the kernel does not support these inputs, or None."""
    _, H, W, channels = qkv.shape
    d = channels // (3 * num_heads)
    if qkv.dtype not in FLOATS:
        return f"does not take {qkv.dtype}"
    if d > WIDEST or d % 8:
        return f"takes heads of a multiple of 8 and at most {WIDEST} channels, and got {d}"
    if q_stride and tuple(q_stride) != (2, 2):
        return f"pools queries by 2 x 2 alone, and got {tuple(q_stride)}"
    if q_stride and not window_size and (H % 2 or W % 2):
        return f"pools maps of even sides alone, and got {H} x {W}"
    return None


def sdpa_choice(device: torch.device, dtype: torch.dtype) -> int:
    """The launch table's choice for attention over the whole map, as numbered in ``sdpa.py``; 0 is our kernel."""
    row = launch_config("window_attention", torch.empty(0, dtype=dtype, device=device), "global")
    return row.meta.get("SDPA", 0)


sdpa_choice._dynamo_marked_constant = True  # type: ignore[attr-defined]  # a constant of a graph


def prefers_sdpa(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the launch table prefers torch for attention over the whole map."""
    return sdpa_choice(device, dtype) != 0

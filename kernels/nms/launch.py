"""Launches the Triton kernels of non-maximum suppression."""

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from sam2fast.kernels._dispatch import count_launch
from sam2fast.kernels._launch import LaunchConfig, launch_config
from sam2fast.kernels.nms.kernel import UNFUSED, WORD, _boxes_kernel, _keep_kernel, _masks_kernel

# Masks of a multiple of so many pixels are read in words; others are copied.
ALIGNED = 16


def box_nms_triton(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """:func:`sam2fast.kernels.nms.box_nms` on the GPU; synchronises once, for how many are kept."""
    N, order = len(boxes), scores.sort(descending=True, stable=True).indices
    if N == 0:
        return order
    config = launch_config("nms", boxes)
    words, blocks = _words(N, boxes.device)
    threshold = torch.full((1,), iou_threshold, dtype=boxes.dtype, device=boxes.device)
    count_launch("nms")
    best_first, bits = boxes[order].contiguous(), words.view(torch.int32)
    with config.on_device(boxes):
        _boxes_kernel[(2 * blocks, blocks)](best_first, threshold, bits, N, blocks, **config.options, **UNFUSED)
    return order[_kept(words, N, blocks, config)]


def mask_nms_triton(masks: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """:func:`sam2fast.kernels.nms.mask_nms` on the GPU; synchronises once, for how many are kept."""
    N, order = len(masks), scores.sort(descending=True, stable=True).indices
    if N == 0:
        return order
    pixels = masks.contiguous().view(N, -1).view(torch.int8)
    if pixels.shape[1] % ALIGNED:
        pixels = F.pad(pixels, (0, -pixels.shape[1] % ALIGNED))
    config = launch_config("nms", pixels, "masks")
    words, blocks = _words(N, masks.device)
    threshold = torch.full((1,), iou_threshold, dtype=torch.float64, device=masks.device)
    areas = pixels.sum(1, dtype=torch.int64)[order]
    count_launch("nms")
    inputs, bits = (pixels, order, areas, threshold), words.view(torch.int32)
    options = {"BLOCK_K": config.meta["BLOCK_K"], **config.options}
    with config.on_device(masks):
        _masks_kernel[(2 * blocks, blocks)](*inputs, bits, N, blocks, pixels.shape[1], **options)
    return order[_kept(words, N, blocks, config)]


def _words(N: int, device: torch.device) -> tuple[Tensor, int]:
    blocks = triton.cdiv(N, WORD.value)
    return torch.empty(N, blocks, dtype=torch.int64, device=device), blocks


def _kept(words: Tensor, N: int, blocks: int, config: LaunchConfig) -> Tensor:
    """Of every box or mask, best first, whether it is kept; bool ``(N)``."""
    kept = torch.empty(N, dtype=torch.bool, device=words.device)
    width, warps = triton.next_power_of_2(blocks), config.meta["KEEP_WARPS"]
    with config.on_device(words):
        _keep_kernel[(1,)](words, kept.view(torch.uint8), N, blocks, WIDTH=width, num_warps=warps)
    return kept

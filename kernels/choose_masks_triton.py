"""Selects and copies masks in one kernel. Each program compares the IoUs of all masks of one object."""

# mypy: allow-untyped-defs, allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from sam2fast.kernels._launch import LaunchConfig, launch_config
from sam2fast.kernels.choose_masks import ABSENT, empty_results


@triton.jit(do_not_specialize=["iou_row", "token_row", "score_row"])
def _choose_masks_kernel(
    masks,  # (B, M, pixels)
    ious,  # (B, M), with a stride of iou_row between objects
    tokens,  # (B, M or 1, C), with a stride of token_row between objects
    scores,  # (B, 1), with a stride of score_row between objects
    mask_out,  # (B, pixels) out
    iou_out,  # (B) out
    token_out,  # (B, C) out
    choice_out,  # (B) int64 out
    seen_out,  # (B) uint8 out
    iou_row, token_row, score_row, pixels, presence,
    C: tl.constexpr, M: tl.constexpr, HAS_PRESENCE: tl.constexpr,
    HAS_TOKENS: tl.constexpr,  # True if tokens has M rows per object instead of one
    ABSENT: tl.constexpr,
    WIDTH: tl.constexpr,  # smallest power of two >= C
    BLOCK: tl.constexpr,  # pixels per program
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    best = tl.load(ious + b * iou_row)
    choice = b * 0
    for m in tl.static_range(1, M):
        iou = tl.load(ious + b * iou_row + m)
        is_larger = (iou > best) | ((iou != iou) & (best == best))  # as in torch.argmax, NaN counts as the largest
        best = tl.where(is_larger, iou, best)
        choice = tl.where(is_larger, m, choice)
    pixel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = pixel < pixels
    logit = tl.load(masks + (b * M + choice) * pixels + pixel, mask=mask, other=0)
    seen = b >= 0
    if HAS_PRESENCE:
        seen = tl.load(scores + b * score_row).to(tl.float32) > presence
        logit = tl.where(seen, logit, ABSENT).to(logit.dtype)
    tl.store(mask_out + b * pixels + pixel, logit, mask=mask)
    if tl.program_id(1) == 0:
        tl.store(iou_out + b, best)
        tl.store(choice_out + b, choice)
        tl.store(seen_out + b, seen.to(tl.uint8))
        channel = tl.arange(0, WIDTH)
        token = tokens + b * token_row + channel
        if HAS_TOKENS:
            token += choice * C
        tl.store(token_out + b * C + channel, tl.load(token, mask=channel < C, other=0), mask=channel < C)


def config(arch: str, dtype: str, shape: str) -> LaunchConfig:
    """Returns the number of pixels per program. The kernel is memory-bound, so each thread loads 16 pixels."""
    return LaunchConfig({"BLOCK": 2048}, {"num_warps": 4, "num_stages": 1})


def choose_masks_triton(masks, ious, tokens, scores, presence) -> tuple[Tensor, ...]:
    """Computes :func:`sam2fast.kernels.choose_masks.choose_masks` on the GPU without synchronising."""
    B, M, h, w = masks.shape
    C, launch = tokens.shape[2], launch_config("choose_masks", config, masks)
    out = mask, iou, token, choice, seen = empty_results(masks, ious, tokens, scores)
    if B == 0:
        return out
    # The kernel supports any stride between rows, but the elements of a row must be adjacent in memory.
    ious, scores = (x if x.stride(1) == 1 else x.contiguous() for x in (ious, scores))
    if tokens.stride()[1:] != (C, 1):
        tokens = tokens.contiguous()
    # When comparing scores with a Python number, torch first rounds the number to the dtype of the scores.
    limit = 0.0 if presence is None else torch.tensor(presence, dtype=scores.dtype, device="cpu").item()
    launch.launch(
        "choose_masks", _choose_masks_kernel, (B, max(1, triton.cdiv(h * w, launch.meta["BLOCK"]))),
        masks.contiguous(), ious, tokens, scores, mask, iou, token, choice, seen.view(torch.uint8),
        ious.stride(0), tokens.stride(0), scores.stride(0), h * w, limit,
        C=C, M=M, HAS_PRESENCE=presence is not None, HAS_TOKENS=tokens.shape[1] > 1, ABSENT=ABSENT,
        WIDTH=triton.next_power_of_2(max(1, C)), **launch.meta,
    )  # fmt: skip
    return out

"""Encodes batches of masks as run lengths in COCO's column-major order, and decodes run lengths."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sam2fast.kernels._op import Op, why_unsupported
from sam2fast.kernels.mask_ops import upsample_and_threshold_reference
from sam2fast.kernels.mask_ops.reference import is_size

__all__ = [
    "RunLengths",
    "decode_masks",
    "decode_masks_reference",
    "encode_masks",
    "encode_masks_reference",
    "encode_upsampled",
    "encode_upsampled_reference",
    "run_length_areas",
    "run_length_areas_reference",
]

MOST_PIXELS = 2**31 - 1  # maximum pixels of a mask, since lengths of runs are int32


class RunLengths(NamedTuple):
    """Stores N masks as lengths of runs in column-major order. Runs of background and foreground alternate.

    The counts of a mask equal COCO's uncompressed RLE ``{"size": [H, W], "counts": [...]}``.
    """

    counts: Tensor  # (total) int32, pixels of each run; a mask's first run is background and may have 0 pixels
    offsets: Tensor  # (N + 1) int64, index in counts of each mask's first run; the last entry is len(counts)
    size: tuple[int, int]  # (H, W) of the masks


class Placement(NamedTuple):
    """Stores the position of a mask on a larger canvas of background."""

    origin: tuple[int, int]  # (y, x) of the mask's top left pixel
    canvas: tuple[int, int]  # (H, W) of the canvas


def encode_masks(masks: Tensor) -> RunLengths:
    """Encodes each mask as run lengths. On a GPU, this function synchronises once, to read the number of runs.

    Args:
        masks: Masks ``(N, H, W)`` bool with any strides. N, H and W may be 0.

    Returns:
        Run lengths on the device of ``masks``. A mask without foreground has one run. A mask without pixels has one run
        of length 0.

    Raises:
        ValueError: If ``masks`` have another shape or dtype, or a mask has 2**31 pixels or more.

    Source: ``sam2.utils.amg.mask_to_rle_pytorch``, and ``pycocotools.mask.encode`` before compression.
    """
    if masks.ndim != 3 or masks.dtype != torch.bool:
        raise ValueError(f"expected bool masks (N, H, W), got {masks.dtype} {tuple(masks.shape)}")
    H, W = masks.shape[1:]
    _check_pixels(H, W)
    counts, offsets = _encode_masks(masks)
    return RunLengths(counts, offsets, (H, W))


def encode_upsampled(
    logits: Tensor,
    size: tuple[int, int],
    threshold: float = 0.0,
    origin: tuple[int, int] = (0, 0),
    canvas: tuple[int, int] | None = None,
) -> RunLengths:
    """Computes run lengths of masks on a canvas of background. Masks are upsampled logits above a threshold.

    Equals :func:`encode_masks` of ``upsample_and_threshold(logits, size, threshold)`` on a canvas, but holds only a few
    masks of size ``size`` at once. On a GPU, this function synchronises once, to read the number of runs.

    Args:
        logits: Floating-point logits ``(N, h, w)``; h and w are at least 1. Pixels with NaN are background.
        size: Size (H, W) that logits are upsampled to, bilinearly (``align_corners=False``) in fp32.
        threshold: Upsampled logit above which a pixel is foreground.
        origin: Position (y, x) of the mask's top left pixel on the canvas.
        canvas: Size (H, W) of the canvas. None means ``size``.

    Returns:
        Run lengths of canvases, on the device of ``logits``.

    Raises:
        ValueError: If ``logits`` have another shape or dtype, ``size`` is not positive, a mask extends beyond the
            canvas, or the canvas has 2**31 pixels or more.

    Source: ``sam2.automatic_mask_generator.SAM2AutomaticMaskGenerator``. The original upsamples, thresholds, uncrops
    and encodes masks in turn.
    """
    if logits.ndim != 3:
        raise ValueError(f"expected logits (N, h, w), got {tuple(logits.shape)}")
    is_size(logits, size)
    (H, W), (y, x), (height, width) = size, origin, size if canvas is None else canvas
    if min(y, x) < 0 or y + H > height or x + W > width:
        raise ValueError(
            f"a mask of {H} x {W} at (y, x) = {tuple(origin)} extends beyond the canvas of {height} x {width}"
        )
    _check_pixels(height, width)
    counts, offsets = _encode_upsampled(logits, (H, W), float(threshold), (y, x), (height, width))
    return RunLengths(counts, offsets, (height, width))


def decode_masks(runs: RunLengths) -> Tensor:
    """Returns masks ``(N, H, W)`` bool on the device of the run lengths. Checking run lengths synchronises once.

    Raises:
        ValueError: If a mask's counts are negative or do not add up to its number of pixels.
    """
    (H, W), (counts, offsets) = runs.size, runs[:2]
    ends = torch.cat([offsets.new_zeros(1), counts.cumsum(0, dtype=torch.int64)])[offsets]
    if bool((counts < 0).any() | (ends.diff() != H * W).any()):
        raise ValueError(f"the run lengths do not add up to masks of {H} x {W} pixels")
    return _decode_masks(counts, offsets, H, W)


def run_length_areas(runs: RunLengths) -> Tensor:
    """Returns the number of foreground pixels of each mask, int64 ``(N)``.

    Source: ``sam2.utils.amg.area_from_rle``.
    """
    total = torch.where(_is_foreground(runs), runs.counts, 0).cumsum(0, dtype=torch.int64)
    total = torch.cat([total.new_zeros(1), total])
    return total[runs.offsets].diff()


run_length_areas_reference = run_length_areas


def _check_pixels(H: int, W: int) -> None:
    if H * W > MOST_PIXELS:
        raise ValueError(f"masks of {H} x {W} have more than {MOST_PIXELS} pixels; encode smaller parts")


# ---- reference implementations ----

# Maximum number of upsampled pixels in memory at once. A larger mask is upsampled alone.
CHUNK = 1 << 22


def encode_masks_reference(masks: Tensor) -> RunLengths:
    """Reference implementation of :func:`encode_masks`: finds changes between successive pixels of all masks."""
    N, H, W = masks.shape
    pixels = masks.transpose(1, 2).reshape(-1)  # (N·W·H) in column-major order
    before = torch.zeros_like(pixels)  # value of the previous pixel; background before a mask's first pixel
    before[1:] = pixels[:-1]
    before.view(N, W * H)[:, :1] = False
    changes = (pixels ^ before).nonzero()[:, 0]
    begin_of_mask = torch.arange(N + 1, device=masks.device) * (W * H)
    offsets = torch.searchsorted(changes, begin_of_mask) + torch.arange(N + 1, device=masks.device)
    mask_of_change = torch.searchsorted(begin_of_mask[1:], changes, right=True)
    # A mask's first run begins at the mask's first pixel, and all other runs begin at changes. The last entry of begins
    # is the number of pixels of all masks.
    begins = torch.empty(len(changes) + N + 1, dtype=torch.int64, device=masks.device)
    begins[offsets] = begin_of_mask
    begins[torch.arange(len(changes), device=masks.device) + mask_of_change + 1] = changes
    return RunLengths(begins.diff().to(torch.int32), offsets, (H, W))


def encode_upsampled_reference(
    logits: Tensor, size: tuple[int, int], threshold: float, placement: Placement
) -> RunLengths:
    """Reference implementation of :func:`encode_upsampled`: upsamples a few masks at a time."""
    (H, W), (y, x) = size, placement.origin
    parts = [encode_masks_reference(logits.new_zeros(0, *placement.canvas, dtype=torch.bool))]
    for chunk in logits.split(max(1, CHUNK // max(1, H * W))):
        canvas = logits.new_zeros(len(chunk), *placement.canvas, dtype=torch.bool)
        canvas[:, y : y + H, x : x + W] = upsample_and_threshold_reference(chunk, size, threshold)
        parts.append(encode_masks_reference(canvas))
    return concatenate(parts)


def concatenate(parts: list[RunLengths]) -> RunLengths:
    """Concatenates run lengths of masks of the same size."""
    ends = torch.cat([part.offsets.diff() for part in parts]).cumsum(0)
    offsets = torch.cat([ends.new_zeros(1), ends])
    return RunLengths(torch.cat([part.counts for part in parts]), offsets, parts[0].size)


def decode_masks_reference(runs: RunLengths) -> Tensor:
    """Reference implementation of :func:`decode_masks`: repeats the value of each run by the run's length."""
    H, W = runs.size
    N = len(runs.offsets) - 1
    pixels = torch.repeat_interleave(_is_foreground(runs), runs.counts, output_size=N * H * W)
    return pixels.view(N, W, H).transpose(1, 2).contiguous()


def _is_foreground(runs: RunLengths) -> Tensor:
    """Returns True for foreground runs, which are the second, fourth, ... run of each mask."""
    first = torch.repeat_interleave(runs.offsets[:-1], runs.offsets.diff(), output_size=len(runs.counts))
    return (torch.arange(len(runs.counts), device=runs.counts.device) - first) % 2 == 1


# ---- operators with data-dependent output shapes ----


def _runs_of_masks(masks: Tensor) -> tuple[Tensor, Tensor]:
    return encode_masks_reference(masks)[:2]


def _runs_of_logits(
    logits: Tensor, size: tuple[int, int], threshold: float, origin: tuple[int, int], canvas: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    return encode_upsampled_reference(logits.detach(), size, threshold, Placement(origin, canvas))[:2]


def _masks_of_runs(counts: Tensor, offsets: Tensor, height: int, width: int) -> Tensor:
    return decode_masks_reference(RunLengths(counts, offsets, (height, width)))


def _fake_runs(masks: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    total = torch.library.get_ctx().new_dynamic_size()
    return masks.new_empty(total, dtype=torch.int32), masks.new_empty(masks.shape[0] + 1, dtype=torch.int64)


def _fake_masks(counts: Tensor, offsets: Tensor, height: int, width: int) -> Tensor:
    return counts.new_empty(offsets.shape[0] - 1, height, width, dtype=torch.bool)


def _operator(name: str, reference: Callable[..., Any], fake: Callable[..., Any], **others: Any) -> Op:
    kernel, cpu = f"run_lengths_triton.{name}_triton", f"run_lengths_cpu.{name}_cpu"
    return Op(name, reference, kernel, cpu=cpu, fake=fake, is_chosen_late=True, launches="run_lengths", **others)


_encode_masks = _operator("encode_masks", _runs_of_masks, _fake_runs)
_encode_upsampled = _operator("encode_upsampled", _runs_of_logits, _fake_runs, unsupported=why_unsupported)
_decode_masks = _operator("decode_masks", _masks_of_runs, _fake_masks)

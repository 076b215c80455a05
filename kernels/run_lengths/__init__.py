"""Run lengths of many masks at once, in COCO's column-major order, and masks from run lengths."""

import torch
from torch import Tensor

from sam2fast.kernels._operators import call
from sam2fast.kernels.run_lengths.operators import (
    decode_masks_operator,
    encode_masks_operator,
    encode_upsampled_operator,
)
from sam2fast.kernels.run_lengths.reference import (
    RunLengths,
    decode_masks_reference,
    encode_masks_reference,
    encode_upsampled_reference,
    run_length_areas_reference,
)

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

MOST_PIXELS = 2**31 - 1  # of a mask: a run is an int32


def encode_masks(masks: Tensor) -> RunLengths:
    """Run lengths of each mask.

    Args:
        masks: ``(N, H, W)`` bool; any N, H and W, any strides.

    Returns:
        Counts on the device of ``masks``. An empty mask is one run, a mask of no pixels one run of 0.

    Raises:
        ValueError: ``masks`` have another shape or dtype, or 2**31 pixels or more each.

    On a GPU it synchronises once, for the number of runs.

    Source: ``sam2.utils.amg.mask_to_rle_pytorch``, and ``pycocotools.mask.encode`` before compression.
    """
    if masks.ndim != 3 or masks.dtype != torch.bool:
        raise ValueError(f"expected bool masks (N, H, W), got {masks.dtype} {tuple(masks.shape)}")
    H, W = masks.shape[1:]
    _check_pixels(H, W)
    counts, offsets = call(encode_masks_operator, masks)
    return RunLengths(counts, offsets, (H, W))


def encode_upsampled(
    logits: Tensor,
    size: tuple[int, int],
    threshold: float = 0.0,
    origin: tuple[int, int] = (0, 0),
    canvas: tuple[int, int] | None = None,
) -> RunLengths:
    """Run lengths of upsampled logits above a threshold, placed on a canvas.

    Equal to encoding ``upsample_and_threshold(logits, size, threshold)`` placed on an empty canvas, but holds only a
    few masks of that size at once, and no logits.

    Args:
        logits: ``(N, h, w)`` floating, at least one pixel each; NaN is background.
        size: ``(H, W)`` that the logits are upsampled to, bilinearly (``align_corners=False``) in fp32.
        threshold: a pixel is foreground if its upsampled logit is greater.
        origin: ``(y, x)`` of the mask's top left pixel on the canvas.
        canvas: its ``(H, W)``; ``None`` for ``size``, at the origin ``(0, 0)``.

    Returns:
        Run lengths of the size of the canvas, on the device of ``logits``.

    Raises:
        ValueError: ``logits`` have another shape or dtype, ``size`` is not positive, the mask reaches beyond the
            canvas, or the canvas has 2**31 pixels or more.

    On a GPU it synchronises once, for the number of runs.

    Source: ``sam2.automatic_mask_generator.SAM2AutomaticMaskGenerator``, which upsamples, thresholds, uncrops and
    encodes in turn.
    """
    if logits.ndim != 3 or not logits.is_floating_point() or 0 in logits.shape[1:]:
        raise ValueError(
            f"expected floating logits (N, h, w) of at least one pixel, got {logits.dtype} {tuple(logits.shape)}"
        )
    (H, W), (y, x), (height, width) = size, origin, size if canvas is None else canvas
    if H < 1 or W < 1:
        raise ValueError(f"expected a size (H, W) of at least one pixel, got {tuple(size)}")
    if min(y, x) < 0 or y + H > height or x + W > width:
        raise ValueError(
            f"a mask of {H} x {W} at (y, x) = {tuple(origin)} reaches beyond the canvas {height} x {width}"
        )
    _check_pixels(height, width)
    counts, offsets = call(encode_upsampled_operator, logits, [H, W], float(threshold), [y, x], [height, width])
    return RunLengths(counts, offsets, (height, width))


def decode_masks(runs: RunLengths) -> Tensor:
    """The masks ``(N, H, W)``, bool, on the device of the run lengths.

    Raises:
        ValueError: some mask's counts are negative or do not add up to its pixels. The check synchronises.
    """
    (H, W), (counts, offsets) = runs.size, runs[:2]
    ends = torch.cat([offsets.new_zeros(1), counts.cumsum(0, dtype=torch.int64)])[offsets]
    if bool((counts < 0).any() | (ends.diff() != H * W).any()):
        raise ValueError(f"the run lengths do not add up to masks of {H} x {W} pixels")
    return call(decode_masks_operator, counts, offsets, H, W)


def run_length_areas(runs: RunLengths) -> Tensor:
    """Foreground pixels of each mask, int64 ``(N)``.

    Source: ``sam2.utils.amg.area_from_rle``.
    """
    return run_length_areas_reference(runs)


def _check_pixels(H: int, W: int) -> None:
    if H * W > MOST_PIXELS:
        raise ValueError(f"masks of {H} x {W} have more than {MOST_PIXELS} pixels; encode parts of them")

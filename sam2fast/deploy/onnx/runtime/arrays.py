"""Numpy operations on masks and maps, equal to torch's up to rounding."""

import numpy as np

# In videos, filled holes get this logit. In images, flipped pixels get the threshold plus or minus MARGIN.
FILLED_IN_VIDEO, MARGIN = 0.1, 10.0
# Maximum logit of an object at pixels that belong to another object.
SUPPRESSED = -10.0


def resize(x: np.ndarray, size: tuple[int, int], antialias: bool = False) -> np.ndarray:
    """Resizes ``x (..., h, w)`` to ``(..., H, W)`` fp32, bilinearly, like torch with ``align_corners=False``.

    Args:
        size: output size (H, W).
        antialias: if True, averages over all covered pixels when shrinking.
    """
    height, width = x.shape[-2:]
    if (height, width) == tuple(size):
        return x.astype(np.float32)
    rows, columns = _interpolation(height, size[0], antialias), _interpolation(width, size[1], antialias)
    return rows @ x.astype(np.float32) @ columns.T


def _interpolation(length: int, new: int, antialias: bool) -> np.ndarray:
    """Returns the matrix ``(new, length)`` that interpolates along one axis."""
    scale = length / new
    centres, pixels = scale * (np.arange(new) + 0.5) - 0.5, np.arange(length)
    if not antialias:
        centres = centres.clip(0, length - 1)
    support = max(scale, 1.0) if antialias else 1.0
    weights = np.maximum(0.0, 1 - np.abs(pixels - centres[:, None]) / support)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def small_components(mask: np.ndarray, max_area: float) -> np.ndarray:
    """Returns the 8-connected components of bool ``mask (..., H, W)`` that have at most ``max_area`` pixels."""
    flat = mask.reshape(-1, *mask.shape[-2:])
    return np.stack([_small_components(one, max_area) for one in flat]).reshape(mask.shape)


def _small_components(mask: np.ndarray, max_area: float) -> np.ndarray:
    height, width = mask.shape
    none = height * width  # label outside the mask
    labels = np.where(mask, np.arange(none).reshape(mask.shape), none)
    while True:
        padded = np.pad(labels, 1, constant_values=none)
        windows = (padded[y : y + height, x : x + width] for y in range(3) for x in range(3))
        lowest = np.minimum.reduce(list(windows))
        # The parent of a label is the lowest label next to its pixels. Parents are followed up to the root label.
        parents = np.arange(none + 1)
        np.minimum.at(parents, labels[mask], lowest[mask])
        while not np.array_equal(parents, parents[parents]):
            parents = parents[parents]
        joined = np.where(mask, parents[labels], none)
        if np.array_equal(joined, labels):
            break
        labels = joined
    areas = np.bincount(labels[mask], minlength=none + 1)
    return mask & (areas[labels] <= max_area)


def fill_holes(masks: np.ndarray, max_area: float) -> np.ndarray:
    """Sets logits ``(..., h, w)`` of background components with at most ``max_area`` pixels to 0.1, for videos."""
    if max_area <= 0:
        return masks
    return np.where(small_components(masks <= 0, max_area), np.float32(FILLED_IN_VIDEO), masks)


def without_holes_and_sprinkles(masks: np.ndarray, threshold: float, hole: float, sprinkle: float) -> np.ndarray:
    """Fills holes and removes sprinkles of at most ``hole`` and ``sprinkle`` pixels in logits ``(..., h, w)``."""
    out = masks
    if hole > 0:
        out = np.where(small_components(masks <= threshold, hole), np.float32(threshold + MARGIN), out)
    if sprinkle > 0:
        out = np.where(small_components(masks > threshold, sprinkle), np.float32(threshold - MARGIN), out)
    return out


def suppress_overlaps(logits: np.ndarray) -> np.ndarray:
    """Limits logits ``(N, 1, H, W)`` to -10 at each pixel, except the object with the largest logit (first on ties)."""
    if len(logits) < 2:
        return logits
    owner = logits.argmax(axis=0)[None]
    keep = owner == np.arange(len(logits))[:, None, None, None]
    return np.where(keep, logits, np.minimum(logits, np.float32(SUPPRESSED)))

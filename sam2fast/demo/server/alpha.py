"""The alpha of exported objects: hard, feathered, or a matte that follows the model's logits and the image."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sam2fast.demo.server.demo_errors import BadInputError, shortened

KINDS = ("hard", "feather", "matte")
MAX_FEATHER = 40  # pixels: the time grows with it
# Radius of the windows in which a matte follows the image: shares of its longer and of the objects' shorter side.
PER_IMAGE, PER_OBJECT = 30, 12
FINE = 4  # steps of a radius on the grid of a matte's windows
EPS = 1e-4  # smallest variance of colours, 0 to 1, that a matte follows
ROUNDING = 0.01  # difference of logits that are interpolated in another order
HAZE = 0.15  # alpha that is rounded to 0, as 1 - HAZE is to 1


class Edges(NamedTuple):
    """How outlines are drawn.

    Attributes:
        kind: one of ``KINDS``.
        feather: pixels to each side of the outline over which a feathered alpha rises from 0 to 1.
    """

    kind: str = "hard"
    feather: float = 0.0


class MaskWithLogits(NamedTuple):
    """The mask ``(H, W)`` of an object with the low-resolution logits ``(1, h, w)`` that it was made of, if known."""

    mask: NDArray[np.bool_]
    logits: Tensor | None = None


HARD = Edges()


def read_edges(options: Mapping[str, str]) -> Edges:
    """Reads the edges of a request, which are hard by default. Raises BadInputError for others than there are."""
    kind, feather = options.get("edges", HARD.kind), options.get("feather", "0")
    if kind not in KINDS:
        raise BadInputError(f"there are no edges {shortened(kind)}; expected one of {', '.join(KINDS)}")
    if not re.fullmatch(r"\d{1,3}(\.\d{1,3})?", feather) or float(feather) > MAX_FEATHER:
        raise BadInputError(f"feather is {shortened(feather)}; expected 0 to {MAX_FEATHER} pixels")
    return HARD if kind == "hard" else Edges(kind, float(feather))


def alpha_of(parts: Iterable[MaskWithLogits], edges: Edges, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The alpha ``(H, W)``, 0 to 255, of all objects together; 127 or 128 at the outline.

    Args:
        parts: the objects, read once, so that one at a time is in memory.
        image: the frame ``(H, W, 3)``.
    """
    mask = np.zeros(image.shape[:2], dtype=bool)
    likely = torch.zeros(image.shape[:2] if edges.kind == "matte" else 0)
    cleaned = torch.zeros_like(likely, dtype=torch.bool)
    for part in parts:
        mask |= part.mask
        if edges.kind == "matte":
            probability, is_cleaned = _probability(part)
            torch.maximum(likely, probability, out=likely)
            cleaned |= is_cleaned
    alpha = np.where(mask, np.uint8(255), np.uint8(0))
    if edges.kind == "hard" or not mask.any():
        return alpha
    box = surroundings(mask, 0)
    if edges.kind == "feather":
        near = surroundings(mask, int(edges.feather) + 1)
        share = _ramp(mask[near], edges.feather)
    else:
        shorter = min(side.stop - side.start for side in box)
        radius = max(2, round(min(max(mask.shape) / PER_IMAGE, shorter / PER_OBJECT)))
        near = surroundings(mask, 3 * radius)
        share = _matte(likely[near], mask[near], image[near], radius)
        share = np.where(cleaned[near], mask[near], share)
    alpha[near] = np.rint(255 * share).astype(np.uint8)
    return alpha


def surroundings(mask: NDArray[np.bool_], margin: int) -> tuple[slice, slice]:
    """The rows and columns of a mask that is not empty, and of a margin around it."""
    found = [np.flatnonzero(mask.any(axis)) for axis in (1, 0)]
    rows, columns = (slice(max(0, int(at[0]) - margin), int(at[-1]) + 1 + margin) for at in found)
    return rows, columns


def _ramp(mask: NDArray[np.bool_], feather: float) -> NDArray[np.float32]:
    """A smooth ramp by the distance to the outline."""
    reach = int(feather) + 1
    distance = _distance(~mask, reach) - _distance(mask, reach)  # positive inside
    distance += np.where(mask, np.float32(-0.5), np.float32(0.5))  # the outline is between two pixels
    share = np.clip(0.5 + distance / (2 * max(feather, 0.5)), 0, 1)
    return share * share * (3 - 2 * share)


def _distance(targets: NDArray[np.bool_], reach: int) -> NDArray[np.float32]:
    """The distance of each pixel to the nearest target, at most ``reach + 1``."""
    height, width = targets.shape
    rows = np.arange(height, dtype=np.int32)[:, None]
    far = reach + 1
    above = np.maximum.accumulate(np.where(targets, rows, -far - 1), axis=0)
    below = np.minimum.accumulate(np.where(targets, rows, height + far)[::-1], axis=0)[::-1]
    along = np.minimum(np.minimum(rows - above, below - rows), far).astype(np.uint16) ** 2
    nearest = along.copy()
    for shift in range(1, min(reach, width - 1) + 1):
        added = along + np.uint16(shift * shift)
        np.minimum(nearest[:, shift:], added[:, :-shift], out=nearest[:, shift:])
        np.minimum(nearest[:, :-shift], added[:, shift:], out=nearest[:, :-shift])
    return np.sqrt(np.minimum(nearest, far * far), dtype=np.float32)


@torch.inference_mode()
def _matte(likely: Tensor, mask: NDArray[np.bool_], image: NDArray[np.uint8], radius: int) -> NDArray[np.float32]:
    """The probabilities ``likely`` near the outline, filtered along the image's edges.

    It is a guided filter by colours (He, Sun, Tang: Guided Image Filtering): in each window, alpha is the linear
    function of the colours that fits the probabilities best. Windows are placed on a coarse grid.
    """
    step = max(1, radius // FINE)
    window = 2 * (radius // step) + 1

    def smooth(grid: Tensor) -> Tensor:
        """Means of windows of a grid ``(n, h, w)``."""
        for kernel in ((window, 1), (1, window)):
            padding = (kernel[0] // 2, kernel[1] // 2)
            grid = F.avg_pool2d(grid, kernel, 1, padding, count_include_pad=False)
        return grid

    def means(*maps: Tensor) -> Tensor:
        """Means of each map ``(h, w)`` in the windows of the grid."""
        cells = [F.avg_pool2d(m[None], step, ceil_mode=True, count_include_pad=False) for m in maps]
        return smooth(torch.cat(cells))

    def enlarge(grid: Tensor) -> Tensor:
        """A grid ``(h, w)`` at the image's size."""
        size = [side * step for side in grid.shape]
        large = F.interpolate(grid[None, None], size, mode="bilinear", align_corners=False)[0, 0]
        return large[: image.shape[0], : image.shape[1]]

    inside = torch.from_numpy(mask).float()
    covered = means(inside)
    is_near = enlarge(((covered > 0) & (covered < 1)).float()[0]) > 0
    target = torch.where(is_near, likely, inside)
    colours = [torch.from_numpy(np.ascontiguousarray(image[..., c])).float() / 255 for c in range(3)]
    pairs = [(i, j) for i in range(3) for j in range(i, 3)]
    colour, mean = means(*colours), means(target)
    products = torch.cat([means(colours[i] * colours[j]) for i, j in pairs])
    mixed = torch.cat([means(c * target) for c in colours]) - colour * mean
    # The 3 x 3 linear systems are solved only where alpha varies.
    rows, columns = torch.nonzero((mean[0] > 0) & (mean[0] < 1), as_tuple=True)
    spread = torch.zeros(len(rows), 3, 3)
    for at, (i, j) in enumerate(pairs):
        variance = products[at] - colour[i] * colour[j]
        spread[:, i, j] = spread[:, j, i] = variance[rows, columns] + (EPS if i == j else 0)
    slope = torch.zeros_like(colour)
    slope[:, rows, columns] = torch.linalg.solve(spread, mixed[:, rows, columns].T).T
    offset = mean - (slope * colour).sum(0, keepdim=True)
    *slopes, offset = smooth(torch.cat([slope, offset]))
    share = enlarge(offset)
    for one, c in zip(slopes, colours, strict=True):
        share = share + enlarge(one) * c
    share = ((share - HAZE) / (1 - 2 * HAZE)).clamp(0, 1)
    # Parts of the object that look like the background stay opaque deep inside.
    share = torch.maximum(share, enlarge((2 * covered[0] - 1).clamp(min=0) ** 2))
    is_near = enlarge(((smooth(covered) > 0) & (smooth(covered) < 1)).float()[0]) > 0
    return torch.where(is_near, share, inside).numpy()


@torch.inference_mode()
def _probability(part: MaskWithLogits) -> tuple[Tensor, Tensor]:
    """The probability of an object at each pixel ``(H, W)``, and where its mask was cleaned of specks and holes.

    The probability is 0 or 1 for a mask without logits.
    """
    inside = torch.from_numpy(part.mask)
    if part.logits is None:
        return inside.float(), torch.zeros_like(inside)
    likely = F.interpolate(part.logits[None].float(), inside.shape, mode="bilinear", align_corners=False)[0, 0]
    cleaned = (likely.abs() > ROUNDING) & ((likely > 0) != inside)
    if cleaned.any():
        cells = F.adaptive_max_pool2d(cleaned.float()[None], part.logits.shape[1:])
        cells = F.max_pool2d(cells, 3, 1, 1)  # the surroundings of a speck are likely, too
        cleaned = F.interpolate(cells[None], inside.shape)[0, 0] > 0
    return likely.sigmoid(), cleaned

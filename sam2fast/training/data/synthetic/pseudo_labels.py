"""Pseudo-labels: objects that a trained model finds in photographs with a grid of point prompts."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sam2fast.io.images import IMAGE_READ_ERRORS, open_image

if TYPE_CHECKING:
    from sam2fast.sam2_image_predictor import SAM2ImagePredictor


class ObjectSearch(NamedTuple):
    """Settings of the grid of clicks, and thresholds for predicted masks to count as objects."""

    points_per_side: int = 12  # number of clicks along each side of the grid
    least_iou: float = 0.85  # minimum predicted IoU
    least_stability: float = 0.9  # minimum IoU between the masks at logits 1 and -1
    areas: tuple[float, float] = (0.01, 0.6)  # minimum and maximum area of a mask, as fractions of the image
    most_overlap: float = 0.7  # IoU above which a mask with a lower score is a duplicate
    batch: int = 16  # number of clicks per forward pass


OBJECTS = ObjectSearch()


def write_cutouts(
    images: Iterable[Path],
    predictor: "SAM2ImagePredictor",
    out: Path,
    search: ObjectSearch = OBJECTS,
    longest: int = 768,
) -> Iterator[tuple[Path, int | Exception]]:
    """Writes the objects that a model finds in photographs as RGBA files ``out/cutouts/NAME_NN.png``.

    Args:
        images: Paths of photographs. Unreadable photographs are skipped.
        predictor: Image predictor of the model that finds the objects.
        out: Media folder to write to, see :class:`~sam2fast.training.data.synthetic.media.Media`.
        longest: Maximum side of a photograph in pixels. Larger photographs are scaled down.

    Yields:
        Pairs of an image path and the number of cut-outs written for the image, or the error if the image is
        unreadable.
    """
    folder = out / "cutouts"
    folder.mkdir(parents=True, exist_ok=True)
    for path in images:
        try:
            image = read_photograph(path, longest)
        except IMAGE_READ_ERRORS as error:
            yield path, error
            continue
        alphas = find_objects(image, predictor, search)
        for number, alpha in enumerate(alphas):
            cutout = image.copy()
            cutout.putalpha(Image.fromarray(alpha))
            # Crops the cut-out to pixels with alpha above 127, because pixels with small alpha may lie anywhere.
            box = Image.fromarray(alpha > 127).getbbox()
            cutout.crop(box).save(folder / f"{path.name.replace('.', '_')}_{number:02d}.png")
        yield path, len(alphas)


def read_photograph(path: Path, longest: int) -> Image.Image:
    """Reads a photograph, rotated by EXIF orientation and scaled down to ``longest``. Raises ``IMAGE_READ_ERRORS``."""
    with open_image(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return image


def find_objects(image: Image.Image, predictor: "SAM2ImagePredictor", search: ObjectSearch) -> list[NDArray[np.uint8]]:
    """Returns the alpha ``(H, W)`` of each object that a grid of clicks finds, highest predicted IoU first."""
    predictor.set_image(np.asarray(image))
    alphas, scores = [], []
    for points in _grid(image.size, search.points_per_side, search.batch):
        labels = np.ones(points.shape[:2], dtype=np.int32)
        logits, ious, _ = predictor.predict(points, labels, multimask_output=True, return_logits=True)
        # Reshapes the masks, because the masks of a single click have no batch dimension.
        for mask, iou in zip(logits.reshape(-1, *logits.shape[-2:]), ious.reshape(-1), strict=True):
            if iou <= search.least_iou:
                continue
            share, stability = float((mask > 0).mean()), (mask > 1).sum() / max(1, (mask > -1).sum())
            if search.areas[0] <= share <= search.areas[1] and stability > search.least_stability:
                alpha = np.round(255 / (1 + np.exp(-2 * np.clip(mask, -10, 10))))  # alpha is half of 255 at logit 0
                alphas.append(np.where(alpha < 8, 0, alpha).astype(np.uint8))
                scores.append(float(iou))
    return [alphas[index] for index in _distinct(alphas, scores, search.most_overlap)]


def _grid(size: tuple[int, int], points_per_side: int, batch: int) -> Iterator[NDArray[np.float32]]:
    """Yields clicks ``(B, 1, 2)`` in pixels on a regular grid over an image of ``size`` (width, height)."""
    steps = (np.arange(points_per_side, dtype=np.float32) + 0.5) / points_per_side
    points = np.stack(np.meshgrid(steps * size[0], steps * size[1]), axis=2).reshape(-1, 1, 2).astype(np.float32)
    for start in range(0, len(points), batch):
        yield points[start : start + batch]


def _distinct(masks: list[NDArray[np.uint8]], scores: list[float], most_overlap: float) -> list[int]:
    """Returns the indices of masks in descending order of scores, without duplicates of masks with higher scores."""
    distinct: list[int] = []
    for index in np.argsort(scores)[::-1].tolist():
        mask = masks[index] > 127
        others = (masks[other] > 127 for other in distinct)
        if all((mask & other).sum() <= most_overlap * (mask | other).sum() for other in others):
            distinct.append(index)
    return distinct

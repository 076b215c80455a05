"""One picture of a data set: read, clicked on, and compared."""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sam2fast.datasets.errors import DatasetError
from sam2fast.evaluation.clicks.mask_files import MaskSource, TrueMask
from sam2fast.evaluation.clicks.protocol import AT_ONCE, BoxScores, ClickScores, evaluate_boxes, evaluate_clicks
from sam2fast.transforms import ImageError, to_pixels

if TYPE_CHECKING:
    from sam2fast.sam2_image_predictor import SAM2ImagePredictor


@dataclass(frozen=True)
class ImageJob:
    """A picture and its true masks."""

    name: str
    image: Path
    masks: MaskSource


@dataclass(frozen=True)
class ClickSettings:
    """What is done with every picture.

    Attributes:
        clicks, feed_back, at_once: see :func:`~sam2fast.evaluation.clicks.evaluate_clicks`.
        box: also gives each object's box.
        box_noise: see :func:`~sam2fast.evaluation.clicks.evaluate_boxes`.
        min_area: smaller objects are left out, in pixels; empty ones always are.
        max_objects: of each picture; of more, so many are drawn.
        seed: for what is drawn; a picture's draws do not depend on the other pictures.
    """

    clicks: int = 5
    feed_back: bool = True
    box: bool = False
    box_noise: float = 0.0
    min_area: int = 1
    max_objects: int | None = None
    seed: int = 0
    at_once: int = AT_ONCE


@dataclass(frozen=True)
class ImageScores:
    """What became of O objects of one picture.

    Attributes:
        objects: their ids in the data set.
        areas: ``(O,)`` of the true masks, in pixels.
        clicks, boxes: None without objects; ``boxes`` also if they were not asked for.
        problems: a line on each file or object that could not be read.
    """

    objects: tuple[str, ...]
    areas: NDArray[np.int64]
    clicks: ClickScores | None
    boxes: BoxScores | None
    problems: tuple[str, ...]


def evaluate_image(predictor: "SAM2ImagePredictor", job: ImageJob, settings: ClickSettings) -> ImageScores:
    """Evaluates one picture; what cannot be read of it is said in the result.

    Raises:
        ValueError, torch.OutOfMemoryError: see :func:`~sam2fast.evaluation.clicks.evaluate_clicks`.
    """
    try:
        pixels = to_pixels(job.image)
        found = job.masks.read((pixels.shape[0], pixels.shape[1]))
    except (DatasetError, ImageError, OSError) as error:
        return ImageScores((), np.zeros(0, np.int64), None, None, (str(error),))
    # Of the name, so that it is the same whichever other pictures there are.
    rng = np.random.default_rng([settings.seed, zlib.crc32(job.name.encode(errors="surrogatepass"))])
    objects = _chosen(found.masks, settings, rng)
    clicks = boxes = None
    if objects:
        rles = [one.rle for one in objects]
        predictor.set_image(pixels)
        clicks = evaluate_clicks(
            predictor, None, rles, settings.clicks, feed_back=settings.feed_back, at_once=settings.at_once
        )
        if settings.box:
            boxes = evaluate_boxes(predictor, None, rles, noise=settings.box_noise, rng=rng, at_once=settings.at_once)
    areas = np.array([one.area for one in objects], dtype=np.int64)
    return ImageScores(tuple(one.id for one in objects), areas, clicks, boxes, tuple(found.problems))


def _chosen(masks: list[TrueMask], settings: ClickSettings, rng: np.random.Generator) -> list[TrueMask]:
    large = [one for one in masks if one.area >= max(1, settings.min_area)]
    if settings.max_objects is None or len(large) <= settings.max_objects:
        return large
    return [large[i] for i in sorted(rng.choice(len(large), settings.max_objects, replace=False))]

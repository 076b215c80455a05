"""Evaluates the images of a data set, and summarizes their IoUs as a table and in files."""

import csv
import io
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sam2fast.datasets.dataset_files import DatasetError
from sam2fast.evaluation.clicks.protocol import (
    OBJECTS_PER_BATCH,
    BoxScores,
    ClickScores,
    evaluate_boxes,
    evaluate_clicks,
)
from sam2fast.evaluation.clicks.sources import ClickJob, sample
from sam2fast.transforms import ImageError, to_pixels

if TYPE_CHECKING:
    from sam2fast.sam2_image_predictor import SAM2ImagePredictor

# COCO's object sizes, with the minimum area in pixels.
SIZES = {"small": 0, "medium": 32**2, "large": 96**2}
DIGITS = 6  # decimals of an IoU in files
BEST_OF_THREE = "1 click, best of 3"
BOX = "box"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ClickSettings:
    """Settings of an evaluation.

    Attributes:
        clicks, feed_back, objects_per_batch: see :func:`~sam2fast.evaluation.clicks.evaluate_clicks`.
        box: if True, also evaluates a box prompt for each object.
        box_noise: see :func:`~sam2fast.evaluation.clicks.evaluate_boxes`.
        min_area: minimum area of an object in pixels; empty objects are always excluded.
        max_objects: maximum number of objects per image. If an image has more objects, a random sample is evaluated.
        seed: seed of random numbers. Random numbers for one image do not depend on other images.
    """

    clicks: int = 5
    feed_back: bool = True
    box: bool = False
    box_noise: float = 0.0
    min_area: int = 1
    max_objects: int | None = None
    seed: int = 0
    objects_per_batch: int = OBJECTS_PER_BATCH


@dataclass(frozen=True)
class ImageScores:
    """Scores of O objects of one image.

    Attributes:
        objects: Ids of the objects in the data set.
        areas: Areas ``(O,)`` of the true masks, in pixels.
        clicks, boxes: Scores; None without objects. ``boxes`` is None if boxes were not requested.
        problems: One line per unreadable file or object.
        too_small: Number of objects with an area below ``min_area``.
    """

    objects: tuple[str, ...]
    areas: NDArray[np.int64]
    clicks: ClickScores | None
    boxes: BoxScores | None
    problems: tuple[str, ...]
    too_small: int = 0


def evaluate_image(predictor: "SAM2ImagePredictor", job: ClickJob, settings: ClickSettings) -> ImageScores:
    """Evaluates one image. Read errors are in the result. Raises errors of :func:`evaluate_clicks`."""
    try:
        pixels = to_pixels(job.image)
        read = job.masks.read((pixels.shape[0], pixels.shape[1]))
    except (DatasetError, ImageError, OSError) as error:
        return ImageScores((), np.zeros(0, np.int64), None, None, (str(error),))
    # The generator's seed depends on the image's name, not on other images.
    rng = np.random.default_rng([settings.seed, zlib.crc32(job.name.encode(errors="surrogatepass"))])
    large = [one for one in read.masks if one.area >= max(1, settings.min_area)]
    objects = sample(large, settings.max_objects, rng)
    clicks = boxes = None
    if objects:
        rles = [one.rle for one in objects]
        predictor.set_image(pixels)
        clicks = evaluate_clicks(
            predictor,
            None,
            rles,
            settings.clicks,
            feed_back=settings.feed_back,
            objects_per_batch=settings.objects_per_batch,
        )
        if settings.box:
            boxes = evaluate_boxes(
                predictor, None, rles, noise=settings.box_noise, rng=rng, objects_per_batch=settings.objects_per_batch
            )
    areas = np.array([one.area for one in objects], dtype=np.int64)
    too_small = len(read.masks) - len(large)
    return ImageScores(tuple(one.id for one in objects), areas, clicks, boxes, tuple(read.problems), too_small)


@dataclass(frozen=True)
class MeanIoUs:
    """Mean IoUs in [0, 1] for one type of prompt; NaN without objects."""

    miou: float  # mean over all objects
    by_image: float  # mean over images of the image's mean IoU
    by_size: dict[str, float]  # mean over the objects of each COCO size


class Results:
    """Collects the scores of images and reports means for the numbers of clicks in ``asked``, ascending."""

    def __init__(self, asked: Sequence[int]) -> None:
        self._asked = asked
        self._done: list[tuple[str, ImageScores]] = []

    def add(self, name: str, scores: ImageScores) -> None:
        """Adds an image. Images without objects are ignored."""
        if scores.objects:
            self._done.append((name, scores))

    @property
    def images(self) -> int:
        """Returns the number of images with objects."""
        return len(self._done)

    @property
    def objects(self) -> int:
        """Returns the number of objects in all images."""
        return sum(len(scores.objects) for _, scores in self._done)

    def objects_by_size(self) -> dict[str, int]:
        """Returns the number of objects of each COCO size."""
        sizes = self._sizes().tolist()
        return {name: sizes.count(name) for name in SIZES}

    def means(self) -> dict[str, MeanIoUs]:
        """Returns mean IoUs by prompt: ``1 click``, ``1 click, best of 3``, ``3 clicks``, ..., ``box``."""
        sizes, means = self._sizes(), {}
        by_image = [_ious_by_prompt(scores, self._asked) for _, scores in self._done]
        for prompt in by_image[0] if by_image else ():
            ious = np.concatenate([image[prompt] for image in by_image])
            means[prompt] = MeanIoUs(
                _mean(ious),
                _mean(np.array([image[prompt].mean() for image in by_image])),
                {name: _mean(ious[sizes == name]) for name in SIZES},
            )
        return means

    def as_json(self) -> dict[str, Any]:
        """Returns counts and mean IoUs in [0, 1]; means are None without objects."""
        return {
            "images": self.images,
            "objects": self.objects,
            "objects_by_size": self.objects_by_size(),
            "miou": {
                prompt: {
                    "mean": _rounded(means.miou),
                    "mean_by_image": _rounded(means.by_image),
                    **{name: _rounded(value) for name, value in means.by_size.items()},
                }
                for prompt, means in self.means().items()
            },
        }

    def as_csv(self) -> str:
        """Returns a line per object: the IoU after every click, and the clicks as x,y,label."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for name, scores in self._done:
            assert scores.clicks is not None
            columns = _ious_by_prompt(scores, range(1, scores.clicks.ious.shape[1] + 1))
            if not text.tell():
                writer.writerow(["image", "object", "area", "size", *columns, "clicks"])
            for o, (label, area) in enumerate(zip(scores.objects, scores.areas.tolist(), strict=True)):
                ious = [f"{column[o]:.{DIGITS}f}" for column in columns.values()]
                clicks = zip(scores.clicks.points[o].tolist(), scores.clicks.labels[o].tolist(), strict=True)
                texts = ";".join(f"{x},{y},{label_of}" for (x, y), label_of in clicks if label_of >= 0)
                writer.writerow([name, label, area, size_of(area), *ious, texts])
        return text.getvalue()

    def table(self) -> list[str]:
        """Returns the lines of :func:`table_of`."""
        return table_of(self.as_json())

    def _sizes(self) -> NDArray[np.str_]:
        """Returns the COCO size of every object."""
        return np.array([size_of(area) for _, scores in self._done for area in scores.areas.tolist()], dtype=np.str_)


def table_of(content: Mapping[str, Any]) -> list[str]:
    """Formats :meth:`Results.as_json` as aligned lines, with IoUs in percent."""
    rows = [["", "mIoU", "by image", *SIZES]]
    rows.append(
        ["objects", *(str(x) for x in (content["objects"], content["images"], *content["objects_by_size"].values()))]
    )
    for prompt, means in content["miou"].items():
        rows.append([prompt, *("-" if x is None else f"{100 * x:.1f}" for x in means.values())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"{row[0]:<{widths[0]}}  " + "  ".join(f"{x:>{w}}" for x, w in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]


def size_of(area: int) -> str:
    """Returns COCO's name for the size of an object with this area in pixels."""
    return [name for name, least in SIZES.items() if area >= least][-1]


def _ious_by_prompt(scores: ImageScores, asked: Iterable[int]) -> dict[str, Floats]:
    """Returns the IoUs ``(O,)`` of an image's objects by prompt."""
    assert scores.clicks is not None
    ious = {}
    for clicks in asked:
        ious[f"{clicks} click{'s' if clicks > 1 else ''}"] = scores.clicks.ious[:, clicks - 1]
        if clicks == 1:
            ious[BEST_OF_THREE] = scores.clicks.best_of_three
    if scores.boxes is not None:
        ious[BOX] = scores.boxes.ious
    return ious


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else math.nan


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, DIGITS)

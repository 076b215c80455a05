"""Mean IoUs of many pictures, as a table and as files."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam2fast.evaluation.clicks.job import ImageScores

# COCO's: areas in pixels from which on an object is of this size.
SIZES = {"small": 0, "medium": 32**2, "large": 96**2}
DIGITS = 6  # of an IoU in files
BEST_OF_THREE = "1 click, best of 3"
BOX = "box"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Means:
    """Mean IoUs in [0, 1] for one kind of prompt; NaN where there is no object."""

    miou: float  # over all objects
    by_image: float  # over the means of the pictures
    by_size: dict[str, float]  # over the objects of each of COCO's sizes


class Results:
    """Pictures that are done.

    Args:
        asked: after how many clicks means are reported, rising.
    """

    def __init__(self, asked: Sequence[int]) -> None:
        self._asked = asked
        self._done: list[tuple[str, ImageScores]] = []

    def add(self, name: str, scores: ImageScores) -> None:
        """Takes a picture; one without objects changes nothing."""
        if scores.objects:
            self._done.append((name, scores))

    @property
    def images(self) -> int:
        """Pictures with objects."""
        return len(self._done)

    @property
    def objects(self) -> int:
        """Of all pictures."""
        return sum(len(scores.objects) for _, scores in self._done)

    def objects_by_size(self) -> dict[str, int]:
        """How many there are of each of COCO's sizes."""
        sizes = self._sizes().tolist()
        return {name: sizes.count(name) for name in SIZES}

    def means(self) -> dict[str, Means]:
        """Mean IoUs by prompt: ``1 click``, ``1 click, best of 3``, ``3 clicks``, ..., ``box``; {} without objects."""
        sizes, found = self._sizes(), {}
        by_image = [_ious_by_prompt(scores, self._asked) for _, scores in self._done]
        for prompt in by_image[0] if by_image else ():
            ious = np.concatenate([image[prompt] for image in by_image])
            found[prompt] = Means(
                _mean(ious),
                _mean(np.array([image[prompt].mean() for image in by_image])),
                {name: _mean(ious[sizes == name]) for name in SIZES},
            )
        return found

    def as_json(self) -> dict[str, Any]:
        """Counts and mean IoUs in [0, 1], None where there is no object."""
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
        """A line for each object: the IoU after every click, asked for or not, and the clicks as x,y,label."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for name, scores in self._done:
            assert scores.clicks is not None
            columns = _ious_by_prompt(scores, range(1, scores.clicks.ious.shape[1] + 1))
            if not text.tell():
                writer.writerow(["image", "object", "area", "size", *columns, "clicks"])
            for o, (label, area) in enumerate(zip(scores.objects, scores.areas.tolist(), strict=True)):
                ious = [f"{column[o]:.{DIGITS}f}" for column in columns.values()]
                writer.writerow([name, label, area, size_of(area), *ious, _clicks_of(scores, o)])
        return text.getvalue()

    def table(self) -> list[str]:
        """Aligned lines, IoUs in percent."""
        rows = [["", "mIoU", "by image", *SIZES]]
        rows.append(["objects", str(self.objects), str(self.images), *map(str, self.objects_by_size().values())])
        for prompt, means in self.means().items():
            rows.append([prompt, *map(_percent, (means.miou, means.by_image, *means.by_size.values()))])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return [
            f"{row[0]:<{widths[0]}}  " + "  ".join(f"{x:>{w}}" for x, w in zip(row[1:], widths[1:], strict=True))
            for row in rows
        ]

    def _sizes(self) -> NDArray[np.str_]:
        """Of every object."""
        return np.array([size_of(area) for _, scores in self._done for area in scores.areas.tolist()], dtype=np.str_)


def size_of(area: int) -> str:
    """COCO's name for the size of an object of so many pixels."""
    return [name for name, least in SIZES.items() if area >= least][-1]


def _ious_by_prompt(scores: ImageScores, asked: Iterable[int]) -> dict[str, Floats]:
    """IoUs ``(O,)`` of a picture's objects."""
    assert scores.clicks is not None
    found = {}
    for clicks in asked:
        found[f"{clicks} click{'s' if clicks > 1 else ''}"] = scores.clicks.ious[:, clicks - 1]
        if clicks == 1:
            found[BEST_OF_THREE] = scores.clicks.best_of_three
    if scores.boxes is not None:
        found[BOX] = scores.boxes.ious
    return found


def _clicks_of(scores: ImageScores, o: int) -> str:
    assert scores.clicks is not None
    clicks = zip(scores.clicks.points[o].tolist(), scores.clicks.labels[o].tolist(), strict=True)
    return ";".join(f"{x},{y},{label}" for (x, y), label in clicks if label >= 0)


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else math.nan


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, DIGITS)


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"

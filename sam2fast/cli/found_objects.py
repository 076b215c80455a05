"""Finds a labelled object in images, and writes a table of the results."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sam2fast.cli.command_files import write_atomically
from sam2fast.cli.mask_files import read_foreground
from sam2fast.cli.mask_finder import COCO_KEYS, FoundMasks, MaskFinder, MaskTask, ResultsFile
from sam2fast.cli.prompts import mask_file
from sam2fast.cli.results import DIGITS
from sam2fast.cli.segmenter import NOT_FINITE
from sam2fast.cli.user_errors import UserError, as_user_error
from sam2fast.datasets.displayed import displayed_mask
from sam2fast.downloads.digests import digest_of
from sam2fast.find import Reference, find
from sam2fast.io.rle import encode_rle
from sam2fast.results.coco import CATEGORY, coco_box, coco_entry
from sam2fast.transforms import read_pixels

TABLE = "found.csv"
LabelledImage = tuple[np.ndarray, np.ndarray]  # pixels (H, W, 3) of the image and mask (H, W) of the object


class ObjectFinder(MaskFinder):
    """A segmenter with labelled reference objects instead of a mask generator."""

    references: Sequence[Reference]


@dataclass(frozen=True)
class FindTask(MaskTask):
    """A picklable function that finds the labelled object in an image, and draws its masks."""

    references: Sequence[LabelledImage] = ()
    KEYS: ClassVar = COCO_KEYS | {"predicted_iou", "likeness", "layer"}

    def load(self, device: str) -> ObjectFinder:
        finder = ObjectFinder(self.choice, device, self.dtype)
        with finder.stage("encode references"), as_user_error(ValueError):
            finder.references = [Reference(finder.predictor, *one) for one in self.references]
        return finder

    def generate(self, finder: Any, pixels: np.ndarray) -> list[dict[str, Any]]:
        matches = find(finder.predictor, finder.references, pixels, **self.options)
        if not np.isfinite([match.likeness for match in matches]).all():
            raise UserError(NOT_FINITE)
        return [
            {"segmentation": encode_rle(match.mask), "predicted_iou": match.iou, "match": match} for match in matches
        ]

    @staticmethod
    def annotation(record: Mapping[str, Any], layer: int) -> dict[str, Any]:
        mask, likeness, iou = record["match"]
        scores = {"predicted_iou": round(iou, DIGITS), "likeness": round(likeness, DIGITS)}
        facts = record["segmentation"], coco_box(mask), int(mask.sum())
        return coco_entry(CATEGORY["id"], *facts, **scores, layer=layer)

    def results(self, device: str, seconds: dict[str, float]) -> "FoundObjects":
        return FoundObjects(self, device, seconds)


class FoundObjects(ResultsFile):
    """A results file and a table of its entries, the highest likeness first."""

    def __init__(self, task: FindTask, device: str, seconds: dict[str, float]) -> None:
        self._rows: list[tuple[Any, ...]] = []
        super().__init__(task, device, seconds)

    def add(self, found: FoundMasks) -> None:
        image = found.image["file_name"]
        for one in found.annotations:
            scores = f"{one['likeness']:.{DIGITS}f}", f"{one['predicted_iou']:.{DIGITS}f}"
            self._rows.append((image, one["layer"], *scores, one["area"], *one["bbox"]))
        super().add(found)

    def _save(self) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["image", "id", "likeness", "score", "area", "x", "y", "width", "height"])
        rows = sorted(self._rows, key=lambda row: -float(row[2]))
        writer.writerows(rows)
        write_atomically(self._task.out / TABLE, text.getvalue().encode())
        super()._save()


def read_references(
    images: Sequence[Path], masks: Sequence[Path]
) -> tuple[list[LabelledImage], Mapping[str, Sequence[Any]]]:
    """Returns the labelled images, and the digest of each file by the name of the option that gives the file."""
    contents = [digest_of(image) for image in images]
    references = []
    for image, mask in zip(images, masks, strict=True):
        pixels = read_pixels(image)[0].numpy()
        inside = displayed_mask(read_foreground(mask), pixels.shape[:2], image, f"the mask {mask}")
        if inside.shape != pixels.shape[:2]:
            sizes = [f"{one.shape[1]}x{one.shape[0]}" for one in (inside, pixels)]
            raise UserError(f"the mask {mask} is {sizes[0]}, but {image} is {sizes[1]}; they must agree")
        references.append((pixels, inside))
    labels = [[digest_of(file), label] for file, label in map(mask_file, masks)]
    return references, {"reference": contents, "mask": labels}

"""Masks of many images as one file in COCO's format."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sam2fast import __version__
from sam2fast.cli.files import write_atomically
from sam2fast.cli.results import DIGITS
from sam2fast.video_results.coco import CATEGORY


class CocoFile:
    """A data set as ``pycocotools.coco.COCO`` reads it; ids of images and masks count from 1.

    Besides COCO's own keys an annotation has ``predicted_iou``, ``stability_score``, ``point`` ([x, y] in pixels, which
    gave the mask) and ``layer``, the mask's position in its image, from 1.

    Args:
        path: written by :meth:`save`.
        info: what made the masks.
    """

    def __init__(self, path: Path, info: Mapping[str, Any]) -> None:
        self._path = path
        self._head = _encode({"info": {"description": "masks by sam2fast", "version": __version__, **info}})
        # As JSON already: a long run is saved many times.
        self._images: list[str] = []
        self._annotations: list[str] = []

    def add(self, file_name: str, width: int, height: int, records: Sequence[Mapping[str, Any]]) -> None:
        """Adds an image and its masks, records of the mask generator with compressed run lengths.

        Raises:
            ValueError: a score is not finite; nothing is added.
        """
        image_id, first = len(self._images) + 1, len(self._annotations) + 1
        annotations = [
            _encode({"id": first + i, "image_id": image_id, **_annotation(record), "layer": i + 1})
            for i, record in enumerate(records)
        ]
        self._images.append(_encode({"id": image_id, "file_name": file_name, "width": width, "height": height}))
        self._annotations += annotations

    def keep(self, image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]) -> None:
        """Adds an image and its masks as another such file has them; they get ids of this one."""
        image_id, first = len(self._images) + 1, len(self._annotations) + 1
        self._images.append(_encode({**image, "id": image_id}))
        self._annotations += [
            _encode({**annotation, "id": first + i, "image_id": image_id}) for i, annotation in enumerate(annotations)
        ]

    def save(self) -> None:
        """Writes all that was added, over what was saved before.

        Raises:
            UserError: the file cannot be written; the one before stays.
        """
        lists = {
            "images": self._images,
            "categories": [_encode(CATEGORY)],
            "annotations": self._annotations,
        }
        text = self._head.removesuffix("}")
        for name, items in lists.items():
            text += f',\n"{name}": [\n' + ",\n".join(items) + "\n]"
        write_atomically(self._path, (text + "\n}\n").encode())


def _annotation(record: Mapping[str, Any]) -> dict[str, Any]:
    x, y, width, height = record["bbox"]
    if record["area"]:
        # To the far edge of the last pixel, as COCO has it; a record's box ends at that pixel.
        width, height = width + 1, height + 1
    return {
        "category_id": CATEGORY["id"],
        "segmentation": record["segmentation"],
        "bbox": [x, y, width, height],
        "area": record["area"],
        "iscrowd": 0,
        "predicted_iou": round(record["predicted_iou"], DIGITS),
        "stability_score": round(record["stability_score"], DIGITS),
        "point": record["point_coords"][0],
    }


def _encode(value: Mapping[str, Any]) -> str:
    return json.dumps(value, allow_nan=False)

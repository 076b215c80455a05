"""One run of ``sam2fast segment``: the objects of each image."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sam2fast.cli.command_files import output_files
from sam2fast.cli.model_choice import ModelChoice
from sam2fast.cli.object_prompts import ObjectPrompt
from sam2fast.cli.results import SegmentedObject, write_results
from sam2fast.cli.segmenter import MaskPrompt, Segmenter
from sam2fast.cli.sources import InputSource
from sam2fast.cli.user_errors import UserError

Record = dict[str, Any]
Masks = Mapping[Path, MaskPrompt]  # by the file


class SegmentJob(NamedTuple):
    """An image and its objects."""

    image: InputSource
    objects: Sequence[ObjectPrompt]

    def files(self, out: Path) -> list[Path]:
        """The files of its results."""
        return list(output_files(out, self.image.stem, [one.name for one in self.objects]).values())


class SegmentOutcome(NamedTuple):
    """The outcome of one image."""

    records: list[Record] | UserError  # one for each object
    seconds: dict[str, float]  # of every stage


@dataclass(frozen=True)
class BuildSegmenter:
    """Loads the model and the mask prompts in the process that calls it."""

    choice: ModelChoice
    dtype: str
    masks: Sequence[Path]

    def __call__(self, device: str) -> tuple[Segmenter, Masks]:
        """A segmenter on this device."""
        segmenter = Segmenter(self.choice, device, self.dtype)
        return segmenter, {mask: segmenter.read_mask(mask) for mask in self.masks}


@dataclass(frozen=True)
class SegmentRun:
    """Segments images, and writes the results to a folder."""

    out: Path

    def __call__(self, predictor: tuple[Segmenter, Masks], job: SegmentJob) -> SegmentOutcome:
        """Segments one image, and writes its files."""
        segmenter, masks = predictor
        records: list[Record] | UserError
        try:
            pixels, found = predict_objects(segmenter, job.image, job.objects, masks)
        except UserError as error:
            records = error
        else:
            with segmenter.stage("write"):
                records = write_results(self.out, job.image.stem, job.image, pixels, found, segmenter.description)
        return SegmentOutcome(records, segmenter.take_seconds())

    def read_previous(self, job: SegmentJob, choice: ModelChoice, dtype: str) -> list[Record] | None:
        """The records of an image that already has all results, by the same model and prompts."""
        if job.image.content is not None or not all(file.is_file() for file in job.files(self.out)):
            return None
        content = _read(output_files(self.out, job.image.stem)["json"])
        records = content.get("results", [content])
        if not isinstance(records, list) or len(records) != len(job.objects):
            return None
        made_by = {**choice.as_json(), "image_size": choice.image_size, "dtype": dtype}
        pairs = zip(records, job.objects, strict=True)
        is_same = all(_is_of(record, job.image, one, made_by) for record, one in pairs)
        return records if is_same else None


def predict_objects(
    segmenter: Segmenter, image: InputSource, objects: Sequence[ObjectPrompt], masks: Masks
) -> tuple[np.ndarray, list[SegmentedObject]]:
    """The pixels ``(H, W, 3)`` of an image and the masks of its objects."""
    pixels = segmenter.read(image)
    height, width = pixels.shape[:2]
    asked = []
    for one in objects:
        prompts, mask = one.scaled(image, width, height), None
        if prompts.mask is not None:
            mask = masks[prompts.mask]
            prompts = replace(prompts, box=prompts.box or mask.bounds.scaled(width, height))
        outside = prompts.outside(width, height)
        if outside:
            whose = "" if one.name is None else f"{one}: "
            raise UserError(f"{whose}the {outside[0]} lies outside {image} ({width}x{height})")
        asked.append((one.name, prompts, mask))
    segmenter.encode(pixels)
    return pixels, [SegmentedObject(name, prompts, segmenter.predict(prompts, mask)) for name, prompts, mask in asked]


def _is_of(record: Any, image: InputSource, one: ObjectPrompt, made_by: Mapping[str, Any]) -> bool:
    """Whether a record is that of this object by this model."""
    try:
        asked = one.scaled(image, record["size"]["width"], record["size"]["height"]).as_json()
        # A box that was derived from the mask depends on the image.
        ignored = {"box": None} if one.prompts.mask is not None and one.prompts.box is None else {}
        is_same_model = {name: record["model"].get(name) for name in made_by} == made_by
        is_same_object = record["image"] == str(image) and record.get("object") == one.name
        return is_same_model and is_same_object and {**record["prompts"], **ignored} == asked
    except (KeyError, TypeError, AttributeError, UserError):
        return False


def _read(path: Path) -> Record:
    """The content of a JSON file; empty if it has none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}

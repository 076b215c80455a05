"""Generates the masks of images, and draws them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sam2fast.automatic_mask_generator import Progress, SAM2AutomaticMaskGenerator
from sam2fast.cli.command_files import mask_files, write_atomically
from sam2fast.cli.model_choice import ModelChoice
from sam2fast.cli.results import DIGITS, to_uint8
from sam2fast.cli.segmenter import NOT_FINITE, Segmenter
from sam2fast.cli.sources import InputSource
from sam2fast.cli.user_errors import UserError, as_user_error
from sam2fast.mask_formats import FORMATS, AnnotatedImage, write_masks
from sam2fast.mask_formats.layers import label_png, layers_png, paint_labels


class GeneratedMasks(NamedTuple):
    """The masks of one image."""

    width: int
    height: int
    records: list[dict[str, Any]]  # of non-empty masks, the largest first


class FoundMasks(NamedTuple):
    """The outcome of one image."""

    masks: GeneratedMasks | UserError
    seconds: dict[str, float]  # by stage
    device: str


class MaskFinder:
    """Generates the masks of one image at a time, and draws them.

    Args:
        options: of :class:`SAM2AutomaticMaskGenerator`.
        formats: what to write: ``layers``, ``overlay``, and names of :data:`sam2fast.mask_formats.FORMATS`.
        out: a folder.
        tolerance: of polygons, in pixels.
        progress: called with the number of prompted points and of all points of the current image.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        options: Mapping[str, Any],
        formats: Sequence[str],
        out: Path,
        tolerance: float,
        progress: Progress,
    ) -> None:
        self.segmenter, self._formats, self._out, self._tolerance = segmenter, formats, out, tolerance
        with as_user_error(ValueError):
            self._generator = CheckedGenerator(segmenter.model, **options, output_mode="coco_rle", progress=progress)

    def find(self, image: InputSource) -> FoundMasks:
        """The masks of one image, or its error, after its files are written."""
        found = self._generate(image)
        return FoundMasks(found, self.segmenter.take_seconds(), self.segmenter.description["device"])

    def _generate(self, image: InputSource) -> GeneratedMasks | UserError:
        try:
            pixels = self.segmenter.read(image)
            with self.segmenter.stage("find masks"), as_user_error(torch.OutOfMemoryError):
                records = self._generator.generate(pixels)
        except UserError as error:
            return error
        records = sorted((record for record in records if record["area"]), key=lambda record: -record["area"])
        height, width = pixels.shape[:2]
        with self.segmenter.stage("write"):
            self._write(image, pixels, records)
        return GeneratedMasks(width, height, records)

    def _write(self, image: InputSource, pixels: np.ndarray, records: list[dict[str, Any]]) -> None:
        files, size = mask_files(self._out, image.stem, self._formats), (pixels.shape[0], pixels.shape[1])
        rles = [record["segmentation"] for record in records]
        if "layers" in files or "overlay" in files:
            with as_user_error(ValueError):
                ids = paint_labels(rles, *size)
        if "layers" in files:
            write_atomically(files["layers"], label_png(ids))
        if "overlay" in files:
            write_atomically(files["overlay"], layers_png(to_uint8(pixels), ids))
        scores = [round(record["predicted_iou"], DIGITS) for record in records]
        source = to_uint8(pixels) if image.path is None else image.path
        item = AnnotatedImage(source, image.stem, size, rles, ["object"] * len(rles), scores)
        for name in files.keys() & set(FORMATS):
            with as_user_error(OSError):
                write_masks(self._out / name, [item], name, self._tolerance)


class CheckedGenerator(SAM2AutomaticMaskGenerator):
    """Raises a UserError if scores are not finite, instead of returning no masks."""

    def _predict(self, coords: Tensor, mask_input: Tensor | None, multimask_output: bool) -> tuple[Tensor, Tensor]:
        low_res, ious = super()._predict(coords, mask_input, multimask_output)
        if not ious.isfinite().all():
            raise UserError(NOT_FINITE)
        return low_res, ious


@dataclass(frozen=True)
class BuildMaskFinder:
    """Loads the model in the process that calls it; picklable without a function for ``progress``."""

    choice: ModelChoice
    dtype: str
    options: Mapping[str, Any]
    formats: Sequence[str]
    out: Path
    tolerance: float = 1.0
    progress: Progress = False

    def __call__(self, device: str) -> MaskFinder:
        """A finder on this device."""
        segmenter = Segmenter(self.choice, device, self.dtype)
        return MaskFinder(segmenter, self.options, self.formats, self.out, self.tolerance, self.progress)

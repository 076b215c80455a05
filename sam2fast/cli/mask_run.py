"""Finds the masks of one image after the other, and writes them as it goes."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sam2fast.automatic_mask_generator import SAM2AutomaticMaskGenerator
from sam2fast.cli.coco import CocoFile
from sam2fast.cli.errors import UserError, one_line
from sam2fast.cli.files import RESULTS, mask_files, write_atomically
from sam2fast.cli.layers import draw_layers, layers_picture, paint_layers
from sam2fast.cli.results import OVERLAY_COMPRESSION, png, to_uint8
from sam2fast.cli.segmenter import NOT_FINITE, Segmenter

# The results file is written anew each time, so not after each of thousands of images.
SECONDS_BETWEEN_SAVES = 10.0


class MaskRun:
    """One run over many images.

    ``rows`` has for each image that is done its name, the number of masks, the best predicted IoU and the size as text;
    ``failures`` is the number of those that could not be done.

    Args:
        options: of :class:`SAM2AutomaticMaskGenerator`.
        formats: what to write: ``json``, ``layers``, ``overlay``.
        out: a folder.
        progress: show a bar even if stderr is no terminal.

    Raises:
        UserError: an option cannot be used.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        options: Mapping[str, Any],
        formats: Sequence[str],
        out: Path,
        progress: bool = False,
    ) -> None:
        self.rows: list[tuple[str, str, str, str]] = []
        self.failures = 0
        self._segmenter, self._formats, self._out, self._progress = segmenter, formats, out, progress
        with one_line(ValueError):
            self._generator = _Generator(
                segmenter.model, **options, output_mode="coco_rle", progress=self._show_share_done
            )
        self._results = CocoFile(out / RESULTS, {"model": segmenter.description, "options": dict(options)})
        self._bar: tqdm | None = None

    def find(self, images: Sequence[Path]) -> None:
        """Does one image after the other; one that cannot be done is reported on stderr and counted.

        However it ends, the results file holds what was done until then.

        Raises:
            UserError: a file cannot be written.
        """
        saved = time.monotonic()
        try:
            with tqdm(images, "images", disable=False if self._progress else None) as self._bar:
                for image in self._bar:
                    try:
                        pixels, records = self._masks(image)
                    except UserError as error:
                        self._report(image, error)
                        continue
                    self._write(image, pixels, records)
                    if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                        self._save()
                        saved = time.monotonic()
        finally:
            self._bar = None
            self._save()

    def _masks(self, image: Path) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Pixels ``(H, W, 3)`` and the records of masks with any pixels, the largest first."""
        pixels = self._segmenter.read(image)
        with self._segmenter.stage("find masks"), one_line(torch.OutOfMemoryError):
            records = self._generator.generate(pixels)
        found = [record for record in records if record["area"]]
        return pixels, sorted(found, key=lambda record: -record["area"])

    def _write(self, image: Path, pixels: np.ndarray, records: Sequence[Mapping[str, Any]]) -> None:
        height, width = pixels.shape[:2]
        files = mask_files(self._out, image.stem, self._formats)
        with self._segmenter.stage("write"):
            if files:
                ids = paint_layers([record["segmentation"] for record in records], height, width)
                if "layers" in files:
                    write_atomically(files["layers"], png(layers_picture(ids, len(records))))
                if "overlay" in files:
                    write_atomically(files["overlay"], png(draw_layers(to_uint8(pixels), ids), OVERLAY_COMPRESSION))
            # Last, so that what the results name lies beside them.
            self._results.add(str(image), width, height, records)
        if not records:
            self._say(f"sam2fast: note: no mask in {image} reaches --pred-iou-thresh and --stability-thresh")
        best = max((record["predicted_iou"] for record in records), default=None)
        shown = "-" if best is None else f"{best:.3f}"
        self.rows.append((str(image), str(len(records)), shown, f"{width}x{height}"))

    def _save(self) -> None:
        if "json" in self._formats and self.rows:
            with self._segmenter.stage("write"):
                self._results.save()

    def _report(self, image: Path, error: UserError) -> None:
        self.failures += 1
        if str(image) not in error.message:
            error = UserError(f"{image}: {error.message}")
        self._say(f"sam2fast: {error.message}")

    def _say(self, line: str) -> None:
        """Prints a line to stderr, around the bar."""
        with tqdm.external_write_mode(file=sys.stderr):
            click.echo(line, err=True)

    def _show_share_done(self, done: int, points: int) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(f"{done / points:.0%} of this one")


class _Generator(SAM2AutomaticMaskGenerator):
    """Does not take an image for empty whose scores are no numbers."""

    def _predict(self, coords: Tensor, mask_input: Tensor | None, multimask_output: bool) -> tuple[Tensor, Tensor]:
        low_res, ious = super()._predict(coords, mask_input, multimask_output)
        if not ious.isfinite().all():
            raise UserError(NOT_FINITE)
        return low_res, ious

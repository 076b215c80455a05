"""Finds the masks of one image after the other, and writes them as it goes."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

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
from sam2fast.cli.mask_resume import KeptMasks
from sam2fast.cli.results import OVERLAY_COMPRESSION, png, to_uint8
from sam2fast.cli.segmenter import NOT_FINITE, Segmenter

# The results file is written anew each time, so not after each of thousands of images.
SECONDS_BETWEEN_SAVES = 10.0


class FoundMasks(NamedTuple):
    """What was found in one image."""

    width: int
    height: int
    records: list[dict[str, Any]]  # of masks with any pixels, the largest first


class Finder(Protocol):
    """Finds the masks of images, on one device or several."""

    description: dict[str, Any]  # of the model
    seconds: dict[str, float]  # of every stage

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Adds the time of the block to ``seconds[name]``."""
        ...

    def found(
        self, images: Iterable[Path], show_share_done: Callable[[int, int], None]
    ) -> Iterator[tuple[Path, FoundMasks | UserError]]:
        """Each image, in this order, when its pictures are drawn; an error for one that cannot be done.

        Args:
            show_share_done: is told how many points of how many have been asked in the image at hand.

        Raises:
            UserError: a file cannot be written.
        """
        ...


class MaskFinder:
    """Finds the masks of one image at a time, in this process, and draws them.

    Args:
        options: of :class:`SAM2AutomaticMaskGenerator`.
        formats: what to write: ``layers``, ``overlay``.
        out: a folder.

    Raises:
        UserError: an option cannot be used.
    """

    def __init__(self, segmenter: Segmenter, options: Mapping[str, Any], formats: Sequence[str], out: Path) -> None:
        self._segmenter, self._formats, self._out = segmenter, formats, out
        self.description, self.seconds, self.stage = segmenter.description, segmenter.seconds, segmenter.stage
        self._show_share_done: Callable[[int, int], None] = lambda done, points: None
        with one_line(ValueError):
            self._generator = _Generator(
                segmenter.model,
                **options,
                output_mode="coco_rle",
                progress=lambda done, points: self._show_share_done(done, points),
            )

    def found(
        self, images: Iterable[Path], show_share_done: Callable[[int, int], None]
    ) -> Iterator[tuple[Path, FoundMasks | UserError]]:
        """See :class:`Finder`."""
        self._show_share_done = show_share_done
        for image in images:
            yield image, self.find(image)

    def find(self, image: Path) -> FoundMasks | UserError:
        """One image, as :meth:`found` gives it."""
        try:
            pixels, records = self._masks(image)
        except UserError as error:
            return error
        height, width = pixels.shape[:2]
        files = mask_files(self._out, image.stem, self._formats)
        if files:
            with self.stage("write"):
                ids = paint_layers([record["segmentation"] for record in records], height, width)
                if "layers" in files:
                    write_atomically(files["layers"], png(layers_picture(ids, len(records))))
                if "overlay" in files:
                    write_atomically(files["overlay"], png(draw_layers(to_uint8(pixels), ids), OVERLAY_COMPRESSION))
        return FoundMasks(width, height, records)

    def _masks(self, image: Path) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Pixels ``(H, W, 3)`` and the records of masks with any pixels, the largest first."""
        pixels = self._segmenter.read(image)
        with self.stage("find masks"), one_line(torch.OutOfMemoryError):
            records = self._generator.generate(pixels)
        found = [record for record in records if record["area"]]
        return pixels, sorted(found, key=lambda record: -record["area"])


class MaskRun:
    """One run over many images.

    ``rows`` has for each image that is done its name, the number of masks, the best predicted IoU and the size as text;
    ``failures`` is the number of those that could not be done.

    Args:
        finder: finds the masks.
        options: what it finds them with.
        formats: what to write: ``json``, ``layers``, ``overlay``.
        out: a folder.
        progress: show a bar even if stderr is no terminal.
    """

    def __init__(
        self, finder: Finder, options: Mapping[str, Any], formats: Sequence[str], out: Path, progress: bool = False
    ) -> None:
        self.rows: list[tuple[str, str, str, str]] = []
        self.failures = 0
        self._finder, self._formats, self._progress = finder, formats, progress
        self._results = CocoFile(out / RESULTS, {"model": finder.description, "options": dict(options)})
        self._bar: tqdm | None = None

    def find(self, images: Sequence[Path], before: Mapping[str, KeptMasks] | None = None) -> None:
        """Does the images; one that cannot be done is reported on stderr and counted.

        However it ends, the results file holds what was done until then.

        Args:
            before: entries of an earlier results file by the images' names; they stay, and their images are left out.

        Raises:
            UserError: a file cannot be written.
        """
        kept = before or {}
        left = [image for image in images if str(image) not in kept]
        for entries in kept.values():
            self._results.keep(*entries)
        for image in images:
            if str(image) in kept:
                entries = kept[str(image)]
                self._note(image, entries.image["width"], entries.image["height"], entries.annotations)
        saved = time.monotonic()
        try:
            with tqdm(
                total=len(images),
                initial=len(images) - len(left),
                desc="images",
                disable=False if self._progress else None,
            ) as self._bar:
                for image, found in self._finder.found(left, self._show_share_done):
                    if isinstance(found, UserError):
                        self._report(image, found)
                    else:
                        # After its pictures, so that what the results name lies beside them.
                        self._add(image, found)
                    self._bar.update()
                    if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                        self._save()
                        saved = time.monotonic()
        finally:
            self._bar = None
            self._save()

    def _add(self, image: Path, found: FoundMasks) -> None:
        with self._finder.stage("write"):
            self._results.add(str(image), found.width, found.height, found.records)
        if not found.records:
            self._say(f"sam2fast: note: no mask in {image} reaches --pred-iou-thresh and --stability-thresh")
        self._note(image, found.width, found.height, found.records)

    def _note(self, image: Path, width: int, height: int, records: Sequence[Mapping[str, Any]]) -> None:
        best = max((record["predicted_iou"] for record in records), default=None)
        shown = "-" if best is None else f"{best:.3f}"
        self.rows.append((str(image), str(len(records)), shown, f"{width}x{height}"))

    def _save(self) -> None:
        if "json" in self._formats and self.rows:
            with self._finder.stage("write"):
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

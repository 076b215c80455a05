"""Finds the masks of everything in images, one at a time, and draws them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from sam2fast.automatic_mask_generator import SAM2AutomaticMaskGenerator
from sam2fast.cli.errors import UserError, one_line
from sam2fast.cli.files import mask_files, write_atomically
from sam2fast.cli.layers import draw_layers, layers_picture, paint_layers
from sam2fast.cli.results import OVERLAY_COMPRESSION, png, to_uint8
from sam2fast.cli.segmenter import NOT_FINITE, Segmenter


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


class _Generator(SAM2AutomaticMaskGenerator):
    """Does not take an image for empty whose scores are no numbers."""

    def _predict(self, coords: Tensor, mask_input: Tensor | None, multimask_output: bool) -> tuple[Tensor, Tensor]:
        low_res, ious = super()._predict(coords, mask_input, multimask_output)
        if not ious.isfinite().all():
            raise UserError(NOT_FINITE)
        return low_res, ious

"""Generates the masks of images, in this process or on several devices, and draws them."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from sam2fast.automatic_mask_generator import SAM2AutomaticMaskGenerator
from sam2fast.cli.command_files import mask_files, write_atomically
from sam2fast.cli.model_choice import ModelChoice
from sam2fast.cli.results import OVERLAY_COMPRESSION, draw_layers, label_image, paint_labels, png, to_uint8
from sam2fast.cli.runner_options import add_seconds
from sam2fast.cli.segmenter import NOT_FINITE, Segmenter
from sam2fast.cli.user_errors import UserError, as_user_error
from sam2fast.deploy.parallel.process import WorkerError
from sam2fast.deploy.parallel.runners import Runner


class GeneratedMasks(NamedTuple):
    """The masks of one image."""

    width: int
    height: int
    records: list[dict[str, Any]]  # of non-empty masks, the largest first


class Finder(Protocol):
    """Generates the masks of images, on one device or several."""

    description: dict[str, Any]  # of the model
    seconds: dict[str, float]  # of every stage

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Adds the time of the block to ``seconds[name]``."""
        ...

    def found(
        self, images: Iterable[Path], show_progress: Callable[[int, int], None]
    ) -> Iterator[tuple[Path, GeneratedMasks | UserError]]:
        """Yields each image with its masks, in order, after its files are written; or with an error if it failed.

        Args:
            show_progress: called with the number of prompted points and of all points of the current image.

        Raises:
            UserError: a file cannot be written.
        """
        ...


class MaskFinder:
    """Generates the masks of one image at a time, in this process, and draws them.

    Args:
        options: of :class:`SAM2AutomaticMaskGenerator`.
        formats: what to write: ``layers``, ``overlay``.
        out: a folder.

    Raises:
        UserError: an option is invalid.
    """

    def __init__(self, segmenter: Segmenter, options: Mapping[str, Any], formats: Sequence[str], out: Path) -> None:
        self._segmenter, self._formats, self._out = segmenter, formats, out
        self.description, self.seconds, self.stage = segmenter.description, segmenter.seconds, segmenter.stage
        self._show_progress: Callable[[int, int], None] = lambda done, points: None
        with as_user_error(ValueError):
            self._generator = _Generator(
                segmenter.model,
                **options,
                output_mode="coco_rle",
                progress=lambda done, points: self._show_progress(done, points),
            )

    def found(
        self, images: Iterable[Path], show_progress: Callable[[int, int], None]
    ) -> Iterator[tuple[Path, GeneratedMasks | UserError]]:
        """See :class:`Finder`."""
        self._show_progress = show_progress
        for image in images:
            yield image, self.find(image)

    def find(self, image: Path) -> GeneratedMasks | UserError:
        """The masks of one image, or its error."""
        try:
            pixels, records = self._masks(image)
        except UserError as error:
            return error
        height, width = pixels.shape[:2]
        files = mask_files(self._out, image.stem, self._formats)
        if files:
            with self.stage("write"):
                ids = paint_labels([record["segmentation"] for record in records], height, width)
                if "layers" in files:
                    write_atomically(files["layers"], png(label_image(ids, len(records))))
                if "overlay" in files:
                    write_atomically(files["overlay"], png(draw_layers(to_uint8(pixels), ids), OVERLAY_COMPRESSION))
        return GeneratedMasks(width, height, records)

    def _masks(self, image: Path) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Pixels ``(H, W, 3)`` and the records of the non-empty masks, the largest first."""
        pixels = self._segmenter.read(image)
        with self.stage("find masks"), as_user_error(torch.OutOfMemoryError):
            records = self._generator.generate(pixels)
        found = [record for record in records if record["area"]]
        return pixels, sorted(found, key=lambda record: -record["area"])


class _Generator(SAM2AutomaticMaskGenerator):
    """Raises an error if scores are not finite, instead of returning no masks."""

    def _predict(self, coords: Tensor, mask_input: Tensor | None, multimask_output: bool) -> tuple[Tensor, Tensor]:
        low_res, ious = super()._predict(coords, mask_input, multimask_output)
        if not ious.isfinite().all():
            raise UserError(NOT_FINITE)
        return low_res, ious


class ParallelMaskFinder:
    """A :class:`MaskFinder` in each process of a runner; see :class:`~sam2fast.cli.mask_finder.Finder`.

    Args:
        place: the name of the runner's devices.
        options, formats, out: as for :class:`MaskFinder`.
    """

    def __init__(
        self,
        choice: ModelChoice,
        runner: Runner,
        place: str,
        dtype: str,
        options: Mapping[str, Any],
        formats: Sequence[str],
        out: Path,
    ) -> None:
        self.seconds: dict[str, float] = {}  # of all processes together
        self.description: dict[str, Any] = {
            "config": choice.config,
            "checkpoint": str(choice.checkpoint),
            "device": place,
            "dtype": dtype,
        }
        self._runner, self._build = runner, _Build(choice, dtype, options, formats, out)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time of the block to ``seconds[name]``."""
        start = time.perf_counter()
        yield
        add_seconds(self.seconds, {name: time.perf_counter() - start})

    def found(
        self, images: Iterable[Path], show_progress: Callable[[int, int], None]
    ) -> Iterator[tuple[Path, GeneratedMasks | UserError]]:
        """See :class:`~sam2fast.cli.mask_finder.Finder`; ``show_progress`` is not called."""
        with as_user_error(WorkerError):
            for result in self._runner(_find, list(images), self._build, ordered=True):
                if result.error is not None and result.failure is None:  # the job's workers were lost
                    yield result.job, UserError(result.error)
                else:
                    found, spent = result.unwrap()
                    add_seconds(self.seconds, spent)
                    yield result.job, found


@dataclass(frozen=True)
class _Build:
    """Loads the model in a worker process."""

    choice: ModelChoice
    dtype: str
    options: Mapping[str, Any]
    formats: Sequence[str]
    out: Path

    def __call__(self, device: str) -> MaskFinder:
        return MaskFinder(Segmenter(self.choice, device, self.dtype), self.options, self.formats, self.out)


def _find(finder: MaskFinder, image: Path) -> tuple[GeneratedMasks | UserError, dict[str, float]]:
    """The masks of one image, and the seconds it took by stage."""
    found = finder.find(image)
    spent = dict(finder.seconds)
    finder.seconds.clear()
    return found, spent

"""Segments one image after the other, or several at a time on several devices, and writes what is found."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from sam2fast.cli.devices import add_seconds, done_on
from sam2fast.cli.model_choice import ModelChoice
from sam2fast.cli.prompts import Prompts
from sam2fast.cli.results import write_result
from sam2fast.cli.segmenter import MaskPrompt, Segmenter


class SegmentedFile(NamedTuple):
    """One image that is done."""

    record: dict[str, Any]  # what its JSON file holds
    notes: list[str]  # on prompts outside the image


@dataclass(frozen=True)
class SegmentRun:
    """What is asked of every image, and where the results go."""

    prompts: Prompts
    out: Path

    def on_one(
        self, choice: ModelChoice, device: str, dtype: str, images: Sequence[Path], seconds: dict[str, float]
    ) -> Iterator[tuple[Path, SegmentedFile]]:
        """The images as they are done by a model in this process; ``seconds`` are kept of every stage.

        Raises:
            UserError: see :class:`Segmenter`; the first image that fails.
        """
        segmenter = Segmenter(choice, device, dtype)
        mask_prompt = self._mask_prompt(segmenter)
        for image in images:
            found = self._segment(segmenter, mask_prompt, image)
            seconds.update(segmenter.seconds)
            yield image, found

    def on_several(
        self, choice: ModelChoice, devices: Sequence[str], dtype: str, images: Sequence[Path], seconds: dict[str, float]
    ) -> Iterator[tuple[Path, SegmentedFile]]:
        """The same with a process on each device; images after one that fails may have been done too."""
        for image, (found, spent) in done_on(devices, self, images, _Build(self, choice, dtype)):
            add_seconds(seconds, spent)
            yield image, found

    def __call__(
        self, predictor: tuple[Segmenter, MaskPrompt | None], image: Path
    ) -> tuple[SegmentedFile, dict[str, float]]:
        """One image in a process of its own, and the seconds since the last one."""
        segmenter, mask_prompt = predictor
        found = self._segment(segmenter, mask_prompt, image)
        spent = dict(segmenter.seconds)
        segmenter.seconds.clear()
        return found, spent

    def _mask_prompt(self, segmenter: Segmenter) -> MaskPrompt | None:
        return None if self.prompts.mask is None else segmenter.read_mask(self.prompts.mask)

    def _segment(self, segmenter: Segmenter, mask_prompt: MaskPrompt | None, image: Path) -> SegmentedFile:
        pixels = segmenter.read(image)
        height, width = pixels.shape[:2]
        asked = self.prompts
        if mask_prompt is not None and asked.box is None:
            asked = replace(asked, box=mask_prompt.bounds.scaled(width, height))
        notes = [f"{prompt} lies outside {image} ({width}x{height})" for prompt in asked.outside(width, height)]
        segmenter.encode(pixels)
        prediction = segmenter.predict(asked, mask_prompt)
        with segmenter.stage("write"):
            record = write_result(self.out, image.stem, image, pixels, asked, prediction, segmenter.description)
        return SegmentedFile(record, notes)


@dataclass(frozen=True)
class _Build:
    """Loads the model in a process."""

    run: SegmentRun
    choice: ModelChoice
    dtype: str

    def __call__(self, device: str) -> tuple[Segmenter, MaskPrompt | None]:
        segmenter = Segmenter(self.choice, device, self.dtype)
        return segmenter, self.run._mask_prompt(segmenter)

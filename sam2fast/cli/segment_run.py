"""Segments one image after the other, or several at a time on several devices, and writes what is found."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from sam2fast.cli.devices import add_seconds, done_by
from sam2fast.cli.files import output_files
from sam2fast.cli.model_choice import ModelChoice
from sam2fast.cli.prompts import Prompts
from sam2fast.cli.results import write_result
from sam2fast.cli.runner_options import Cluster, chosen_place
from sam2fast.cli.segmenter import MaskPrompt, Segmenter
from sam2fast.deploy.parallel.runners import Runner


class SegmentedFile(NamedTuple):
    """One image that is done."""

    record: dict[str, Any]  # what its JSON file holds
    notes: list[str]  # on prompts outside the image


@dataclass(frozen=True)
class SegmentRun:
    """What is asked of every image, and where the results go."""

    prompts: Prompts
    out: Path

    def on(
        self,
        cluster: Cluster,
        choice: ModelChoice,
        device: str,
        dtype: str,
        images: Sequence[Path],
        seconds: dict[str, float],
    ) -> Iterator[tuple[Path, SegmentedFile]]:
        """The images as they are done, wherever that is; ``seconds`` are kept of every stage.

        Raises:
            UserError: see :func:`chosen_place`, :meth:`on_one` and :meth:`by`.
        """
        if not images:
            return
        place = chosen_place(cluster, device, len(images), "images")
        if place.is_here:
            yield from self.on_one(choice, place.name, dtype, images, seconds)
        else:
            yield from self.by(place.runner, choice, dtype, images, seconds)

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

    def by(
        self, runner: Runner, choice: ModelChoice, dtype: str, images: Sequence[Path], seconds: dict[str, float]
    ) -> Iterator[tuple[Path, SegmentedFile]]:
        """The same in processes elsewhere; images after one that fails may have been done too."""
        for image, (found, spent) in done_by(runner, self, images, _Build(self, choice, dtype)):
            add_seconds(seconds, spent)
            yield image, found

    def done_before(self, choice: ModelChoice, dtype: str, images: Sequence[Path]) -> dict[Path, dict[str, Any]]:
        """The records of images whose results are all there, and were asked for by the same model in the same way."""
        found = {}
        for image in images:
            files = output_files(self.out, image.stem)
            if all(file.is_file() for file in files.values()):
                record = _record(files["json"])
                if record is not None and self._is_asked_for(record, image, choice, dtype):
                    found[image] = record
        return found

    def _is_asked_for(self, record: dict[str, Any], image: Path, choice: ModelChoice, dtype: str) -> bool:
        asked, prompts, model = self.prompts.as_json(), record.get("prompts"), record.get("model")
        if not isinstance(prompts, dict) or not isinstance(model, dict):
            return False
        if self.prompts.mask is not None and self.prompts.box is None:
            prompts = {**prompts, "box": None}  # it is the mask's own, for each image another
        made_by = {"config": choice.config, "checkpoint": str(choice.checkpoint), "dtype": dtype}
        is_same_model = {name: model.get(name) for name in made_by} == made_by
        return record.get("image") == str(image) and prompts == asked and is_same_model

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


def _record(path: Path) -> dict[str, Any] | None:
    """What a JSON file holds; None if that is no record."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None

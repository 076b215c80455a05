"""``sam2fast segment``: one object in each image."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from sam2fast.cli.command_files import check_files, make_folder, output_files, remove_leftovers
from sam2fast.cli.model_choice import ModelChoice, choose_model
from sam2fast.cli.options import PATH, model_options, out_option
from sam2fast.cli.prompt_options import Box, BoxType, Click, ClickType, Prompts
from sam2fast.cli.runner_options import (
    RayOptions,
    add_seconds,
    choose_runner,
    resume_option,
    runner_options,
)
from sam2fast.cli.user_errors import as_user_error, print_note
from sam2fast.deploy.parallel.process import WorkerError

if TYPE_CHECKING:
    from sam2fast.cli.segmenter import MaskPrompt, Segmenter


@click.command()
@click.argument("images", nargs=-1, required=True, type=PATH, metavar="IMAGE...")
@click.option(
    "--point", "clicks", multiple=True, type=ClickType(), help="A click; LABEL 0 is not the object. Repeatable."
)
@click.option("--box", "boxes", multiple=True, type=BoxType(), help="A box around the object.")
@click.option(
    "--mask",
    type=PATH,
    metavar="FILE",
    help="A rough mask: an image of any size, bright where the object is. Without --box its bounds "
    "are the box, since a mask alone has little effect.",
)
@model_options
@runner_options
@resume_option
@out_option("out")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of the table.")
def segment(
    images: Sequence[Path],
    clicks: Sequence[Click],
    boxes: Sequence[Box],
    mask: Path | None,
    model: str | None,
    checkpoint: Path | None,
    device: str,
    dtype: str,
    ray_options: RayOptions,
    resume: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Find one object in each IMAGE by points, a box or a mask.

    Coordinates are pixels of the image as it is displayed, and apply to every image. A single point is ambiguous:
    the best-scored of three masks is taken. Writes STEM_mask.png, STEM_overlay.png and STEM.json to
    the output folder. Stops at the first image that fails.
    """
    if len(boxes) > 1:
        raise click.UsageError("give one --box: one object is segmented per run")
    prompts = Prompts(clicks, boxes[0] if boxes else None, mask)
    if not prompts:
        raise click.UsageError("say what to segment, with --point, --box or --mask")
    check_files(images, mask, out)
    choice = choose_model(model, checkpoint)
    make_folder(out)
    files = (file for image in images for file in output_files(out, image.stem).values())
    remove_leftovers(files, bool(ray_options))

    from sam2fast.cli.results import print_results

    run, spent = SegmentRun(prompts, out), dict[str, float]()
    before = run.read_previous(choice, dtype, images) if resume else {}
    left = [image for image in images if image not in before]
    if resume:
        print_note(f"{len(before)} of {len(images)} images were done before")
    done = dict(before)
    if left:
        runner = choose_runner(ray_options, device, len(left), "images").runner
        build = partial(_build, mask, choice, dtype)
        with as_user_error(WorkerError):
            for result in runner(run, left, build, ordered=True):
                done[result.job], notes, seconds = result.unwrap()
                for note in notes:
                    print_note(note)
                add_seconds(spent, seconds)
    records = {str(image): done[image] for image in images}
    if as_json:
        rounded = {stage: round(value, 4) for stage, value in spent.items()}
        click.echo(json.dumps({"results": list(records.values()), "seconds": rounded}, indent=2))
    else:
        print_results(records, spent, out)


class SegmentedFile(NamedTuple):
    """The result of one image."""

    record: dict[str, Any]  # the content of its JSON file
    notes: list[str]  # about prompts outside the image
    seconds: dict[str, float]  # of every stage


@dataclass(frozen=True)
class SegmentRun:
    """Segments images by the same prompts, and writes the results to a folder."""

    prompts: Prompts
    out: Path

    def read_previous(self, choice: ModelChoice, dtype: str, images: Sequence[Path]) -> dict[Path, dict[str, Any]]:
        """The records of images that already have all results, by the same model and prompts."""
        found = {}
        for image in images:
            files = output_files(self.out, image.stem)
            if all(file.is_file() for file in files.values()):
                record = _record(files["json"])
                if record is not None and self._matches_request(record, image, choice, dtype):
                    found[image] = record
        return found

    def _matches_request(self, record: dict[str, Any], image: Path, choice: ModelChoice, dtype: str) -> bool:
        asked, prompts, model = self.prompts.as_json(), record.get("prompts"), record.get("model")
        if not isinstance(prompts, dict) or not isinstance(model, dict):
            return False
        if self.prompts.mask is not None and self.prompts.box is None:
            prompts = {**prompts, "box": None}  # derived from the mask, different for each image
        made_by = {**choice.as_json(), "dtype": dtype}
        is_same_model = {name: model.get(name) for name in made_by} == made_by
        return record.get("image") == str(image) and prompts == asked and is_same_model

    def __call__(self, predictor: "tuple[Segmenter, MaskPrompt | None]", image: Path) -> "SegmentedFile":
        """Segments one image, and writes its files."""
        segmenter, mask_prompt = predictor
        record, notes = segment_image(segmenter, self.prompts, mask_prompt, image, self.out, image.stem)
        return SegmentedFile(record, notes, segmenter.take_seconds())


def segment_image(
    segmenter: "Segmenter", prompts: Prompts, mask_prompt: "MaskPrompt | None", image: Path, out: Path, stem: str
) -> tuple[dict[str, Any], list[str]]:
    """Writes the result for one image as ``stem*``; returns its record, and notes about prompts outside the image.

    Raises:
        UserError: the image cannot be read or segmented, or a file cannot be written.
    """
    from sam2fast.cli.results import write_result

    pixels = segmenter.read(image)
    height, width = pixels.shape[:2]
    if mask_prompt is not None and prompts.box is None:
        prompts = replace(prompts, box=mask_prompt.bounds.scaled(width, height))
    notes = [f"{prompt} lies outside {image} ({width}x{height})" for prompt in prompts.outside(width, height)]
    segmenter.encode(pixels)
    prediction = segmenter.predict(prompts, mask_prompt)
    with segmenter.stage("write"):
        return write_result(out, stem, image, pixels, prompts, prediction, segmenter.description), notes


def _build(mask: Path | None, choice: ModelChoice, dtype: str, device: str) -> "tuple[Segmenter, MaskPrompt | None]":
    """Loads the model and the mask prompt in the process that calls it."""
    from sam2fast.cli.segmenter import Segmenter

    segmenter = Segmenter(choice, device, dtype)
    return segmenter, None if mask is None else segmenter.read_mask(mask)


def _record(path: Path) -> dict[str, Any] | None:
    """The record in a JSON file; None if it has none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None

"""``sam2fast evaluate-images``: computes the mean IoU of clicks and boxes on images with masks."""

import functools
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sam2fast import __version__
from sam2fast.cli.command import argument, command, option, shared
from sam2fast.cli.command_files import make_folder, note_kept, write_atomically
from sam2fast.cli.jobs import work_through
from sam2fast.cli.left_out import LeftOut
from sam2fast.cli.model_choice import ModelChoice
from sam2fast.cli.options import ModelOptions, NumbersType, ignore_label_option, model_options
from sam2fast.cli.reporting import emit, output_options, progress_bar, say
from sam2fast.cli.runner_options import RayOptions, choose_runner
from sam2fast.cli.user_errors import ErrorReport, UserError, as_user_error, print_note
from sam2fast.deploy.parallel.device_list import device_list
from sam2fast.downloads.digests import digest_of
from sam2fast.io.atomic import remove_leftovers
from sam2fast.io.made_from import described, differences, is_whole

if TYPE_CHECKING:
    from sam2fast.sam2_image_predictor import SAM2ImagePredictor


FORMATS = ("auto", "sa1b", "coco", "png")
# Options that the record of the results has as keys of the same names.
RECORDED = (
    "clicks",
    "box",
    "box_noise",
    "no_feedback",
    "max_objects",
    "min_area",
    "seed",
    "with_crowds",
    "skip_unmasked",
)
SUFFIXES = (".json", ".csv")
MAX_SHOWN = 3  # maximum number of reported problems per image
MOST_NOISE = 0.5  # maximum noise as a fraction of a box side; larger values could invert the box


class EvaluateImagesCommand:
    """Measure how well a model segments the objects in the images of the folder IMAGES from clicks and boxes.

    \b
    The ground truth is one of
      sa1b  NAME.json for each image, as in SA-1B
      coco  one JSON file, with polygons or run lengths
      png   NAME.png with a value for each object, or a PNG
            for each object: NAME_*.png or NAME/*.png

    Images lie in IMAGES or its subfolders, masks under the same names in PATH. The first click is at the center of the
    object, each later click at the center of the largest error. Unreadable images and masks, and images
    without masks, are reported and skipped, and set the exit code to 1. Files of --out are kept if the model, options
    and data are the same and the results are complete. Other files of --out are replaced.
    """

    images: Path = argument(metavar="IMAGES")
    masks: Path | None = option(
        metavar="PATH", help="Folder of the ground truth, or COCO's JSON file.  [default: IMAGES]"
    )
    format: str = option(type=click.Choice(FORMATS), default="auto", help="Format of the masks.")
    clicks: tuple[int, ...] = option(
        type=NumbersType(1),
        default="1,3,5",
        help="Report the mean IoU after these numbers of clicks; every object gets the largest number.",
    )
    box: bool = option(help="Also prompt with each object's box, without clicks.")
    box_noise: float = option(
        type=click.FloatRange(0, MOST_NOISE, max_open=True),
        default=0.0,
        help="Move each side of the box at random: by up to this share of the side's length, at most 20 pixels.",
    )
    no_feedback: bool = option(help="Prompt with clicks only, without the previous mask.")
    most_images: int | None = option("--images", type=click.IntRange(1), help="Evaluate N random images.")
    max_objects: int | None = option(type=click.IntRange(1), help="Evaluate N random objects of each image.")
    min_area: int = option(type=click.IntRange(1), default=1, help="Leave out objects with fewer pixels than this.")
    seed: int = option(type=click.IntRange(0), default=0, help="Seed of random choices and noise.")
    with_crowds: bool = option(help="Also evaluate COCO's crowds.")
    ignored_labels: tuple[int, ...] = shared(
        ignore_label_option(
            "Values of label images that count as background, as 0 does; 255 for Pascal VOC. Masks that cover such "
            "pixels lose IoU; `sam2fast evaluate` leaves such pixels out.",
            least=0,
        )
    )
    skip_unmasked: bool = option(help="Skip images without masks.")
    model: ModelOptions = shared(functools.partial(model_options, many_devices=True))
    objects_per_batch: int = option(type=click.IntRange(1), default=32, help="Objects per batch of the decoder.")
    out: Path | None = option(
        metavar="FILE", help="Write the means to NAME.json and every object to NAME.csv; FILE is either name."
    )

    def run(self) -> None:
        if self.box_noise and not self.box:
            raise click.UsageError("--box-noise needs --box")
        if not self.images.is_dir():
            raise UserError(f"no folder {str(self.images)!r}")
        if self.masks is not None and not self.masks.exists():
            raise UserError(f"no file or folder {str(self.masks)!r}")
        masks, choice = self.masks or self.images, self.model.choose()

        from sam2fast.evaluation.clicks.image_evaluation import ClickSettings, Results, evaluate_image
        from sam2fast.evaluation.clicks.sources import open_data_set, sample

        if find_spec("scipy") is None:
            raise UserError("clicks need scipy: pip install 'sam2fast[eval]'")
        options = {"skip_unmasked": self.skip_unmasked, "with_crowds": self.with_crowds}
        data = open_data_set(self.images, masks, self.format, **options, ignored_labels=self.ignored_labels)
        if self.out is not None:
            inputs = {os.path.realpath(file) for job in data.jobs for file in (job.image, *job.masks.files)}
            for file in output_files(self.out):
                if os.path.realpath(file) in inputs:
                    raise click.UsageError(f"the result {file} would overwrite an input; choose another --out")
            remove_leftovers(output_files(self.out))
        jobs = sample(data.jobs, self.most_images, self.seed)
        of_run = {"images": self.most_images, "ignore_label": self.ignored_labels, "format": data.format}
        of_run |= {name: getattr(self, name) for name in RECORDED}
        dtype = self.model.with_dtype([] if self.out is None else output_files(self.out)[:1]).dtype
        made_from = choice.made_from(dtype=dtype, **of_run)
        for what, path, files in (
            ("image", self.images, [job.image for job in jobs]),
            ("mask", masks, [file for job in jobs for file in job.masks.files]),
        ):
            made_from[f"{what}_path"] = os.path.realpath(path)
            # Files that cannot be opened are reported later, when the image is read.
            readable = [file for file in dict.fromkeys(files) if os.path.isfile(file) and os.access(file, os.R_OK)]
            made_from[f"{what}_content"] = digest_of(path, readable)
        if self.out is not None and not data.problems and _print_same(self.out, made_from):
            return
        workers = choose_runner(RayOptions(), self.model.device, len(jobs), "images")
        with as_user_error(ValueError, RuntimeError):
            devices = device_list(workers.name)
        of_prompts = max(self.clicks), not self.no_feedback, self.box, self.box_noise
        settings = ClickSettings(*of_prompts, self.min_area, self.max_objects, self.seed, self.objects_per_batch)
        results, problems, left_out = Results(self.clicks), ErrorReport("images and masks"), LeftOut()
        for what, why, name in data.left_out:
            left_out.add(what, why, name)
        for subject, why in data.problems:
            problems.add(subject, why)
        begun, function = time.perf_counter(), functools.partial(evaluate_image, settings=settings)
        build = functools.partial(_build, choice, dtype)
        with progress_bar("images", len(jobs), "images") as bar:
            for job, result in work_through(
                function, jobs, workers.runner, build, problems, bar, lambda job: job.image
            ):
                results.add(job.name, result)
                if not (result.objects or result.too_small or result.problems):
                    left_out.add("image", "it has no objects", job.name)
                if result.too_small:
                    why = f"its area is less than {self.min_area} pixels"
                    left_out.add("object", why, f"in {job.image}", result.too_small)
                if result.problems:
                    more = len(result.problems) - MAX_SHOWN
                    shown = "; ".join(result.problems[:MAX_SHOWN]) + (f"; and {more} more" if more > 0 else "")
                    problems.add(job.image, shown)
        seconds = time.perf_counter() - begun
        left_out.report()
        if results.objects:
            for line in results.table():
                say(line)
            say(f"time: {seconds:.2f} s")
            content = {
                "version": __version__,
                "model": {**choice.as_json(), "device": ",".join(devices), "dtype": dtype},
                "data": {"images": str(self.images), "masks": str(masks), "format": data.format},
                "settings": {**asdict(settings), "clicks": self.clicks, "images": self.most_images},
                "seconds": round(seconds, 3),
                "problems": [{"file": subject, "why": why} for subject, why in problems.found],
                "left_out": left_out.as_json(),
                "made_from": made_from,
                **results.as_json(),
            }
            emit(content)
            if self.out is not None:
                means, objects = output_files(self.out)
                make_folder(means.parent)
                write_atomically(objects, results.as_csv().encode())
                # The JSON file is written last: if it exists, the CSV file exists.
                write_atomically(means, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
                say(f"written to {click.format_filename(means)} and {click.format_filename(objects)}")
        problems.raise_if_any(len(jobs) + len(data.problems))
        if not results.objects:
            raise UserError(f"no image has an object of {self.min_area} pixels or more")


evaluate_images = command(EvaluateImagesCommand, output_options(has_bar=True))


def _print_same(out: Path, made_from: Mapping[str, Any]) -> bool:
    """If existing results are complete, without problems and of this ``made_from``, prints them and returns True."""
    from sam2fast.evaluation.clicks.image_evaluation import table_of

    means, objects = output_files(out)
    if not means.exists():
        return False
    try:
        content = json.loads(means.read_bytes())
        before, problems, lines = content["made_from"], content["problems"], table_of(content)
    except (OSError, ValueError, TypeError, LookupError, AttributeError):  # results of version 0.2, or damaged results
        before, problems, lines = None, [], []
    if other := differences(before, made_from):
        print_note(f"{means} {described(other)}, and is replaced")
        return False
    if problems or not is_whole(objects):
        return False
    note_kept(means)
    for line in lines:
        say(line)
    emit(content)
    return True


def _build(choice: ModelChoice, dtype: str, device: str) -> "SAM2ImagePredictor":
    """Loads the model in the calling process."""
    from sam2fast.cli.segmenter import Segmenter

    return Segmenter(choice, device, dtype).predictor


def output_files(out: Path) -> tuple[Path, Path]:
    """Returns the JSON and the CSV file for ``--out``, the path of one of these files or their common stem."""
    stem = out.with_suffix("") if out.suffix.lower() in SUFFIXES else out
    json_file, csv_file = (stem.with_name(stem.name + suffix) for suffix in SUFFIXES)
    return json_file, csv_file

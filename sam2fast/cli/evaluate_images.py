"""``sam2fast evaluate-images``: mean IoU by clicks and boxes on pictures with masks."""

from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from sam2fast.cli.devices import chosen_devices
from sam2fast.cli.errors import UserError, one_line
from sam2fast.cli.files import remove_leftovers
from sam2fast.cli.model_choice import choose_model
from sam2fast.cli.options import model_options

FORMATS = ("auto", "sa1b", "coco", "png")
MOST_NOISE = 0.5  # of which each side of a box is moved at most: more could turn it inside out


class NumbersType(click.ParamType):
    """Whole numbers, separated by commas; each once, rising."""

    name = "N,N,..."

    def __init__(self, least: int) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Reads the numbers; anything else is a usage error."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isdecimal() and int(part) >= self._least for part in parts):
            self.fail(f"{value!r} is not whole numbers from {self._least} on, separated by commas", param, ctx)
        return tuple(sorted({int(part) for part in parts}))


@click.command()
@click.argument("images", type=click.Path(path_type=Path), metavar="IMAGES")
@click.option(
    "--masks",
    type=click.Path(path_type=Path),
    metavar="PATH",
    show_default="IMAGES",
    help="The folder of the true masks, or COCO's JSON file.",
)
@click.option("--format", type=click.Choice(FORMATS), default="auto", show_default=True, help="Of the masks.")
@click.option(
    "--clicks",
    type=NumbersType(1),
    default=(1, 3, 5),
    show_default="1,3,5",
    help="After which clicks mean IoUs are told; every object gets as many as the greatest of them.",
)
@click.option("--box", is_flag=True, help="Also give each object's box, without clicks.")
@click.option(
    "--box-noise",
    type=click.FloatRange(0, MOST_NOISE, max_open=True),
    default=0.0,
    show_default=True,
    help="Each side of the box is moved by up to this share of its length, and at most 20 pixels.",
)
@click.option("--no-feedback", is_flag=True, help="Clicks alone: later ones do not come with the mask so far.")
@click.option("--images", "most_images", type=click.IntRange(1), metavar="N", help="So many pictures, drawn.")
@click.option("--max-objects", type=click.IntRange(1), metavar="N", help="So many objects of each picture, drawn.")
@click.option(
    "--min-area", type=click.IntRange(1), default=1, show_default=True, help="Objects of fewer pixels are left out."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="For whatever is drawn.")
@click.option("--with-crowds", is_flag=True, help="Take COCO's crowds for objects, too.")
@click.option(
    "--ignore-label",
    "ignored_labels",
    type=NumbersType(0),
    default=(),
    help="Values of label pictures that are no objects, besides 0; 255 for those of Pascal VOC.",
)
@click.option("--skip-unmasked", is_flag=True, help="A picture without masks is no problem.")
@model_options
@click.option(
    "--at-once", type=click.IntRange(1), default=32, show_default=True, help="Objects prompted together, at most."
)
@click.option("--progress", is_flag=True, help="A bar on stderr also where that is no terminal.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="NAME.json for the means and NAME.csv for every object; whichever is given, both are written.",
)
def evaluate_images(
    images: Path,
    masks: Path | None,
    format: str,
    clicks: tuple[int, ...],
    box: bool,
    box_noise: float,
    no_feedback: bool,
    most_images: int | None,
    max_objects: int | None,
    min_area: int,
    seed: int,
    with_crowds: bool,
    ignored_labels: tuple[int, ...],
    skip_unmasked: bool,
    model: str | None,
    checkpoint: Path | None,
    device: str,
    dtype: str,
    at_once: int,
    progress: bool,
    out: Path | None,
) -> None:
    """Measure how well a model finds the objects in the pictures of the folder IMAGES by clicks and boxes.

    \b
    The true masks are one of
      sa1b  NAME.json for each picture, as in SA-1B
      coco  one JSON file, with polygons or run lengths
      png   NAME.png with a value for each object, or a PNG
            for each object: NAME_*.png or NAME/*.png

    Pictures lie in IMAGES or its subfolders, masks under the same names in PATH. The first click is in the middle of
    the object, each later one in the middle of what is wrong with the mask. Pictures and masks that cannot be read are
    reported, and the others go on; then the exit code is 1.
    """
    if box_noise and not box:
        raise click.UsageError("--box-noise needs --box")
    if not images.is_dir():
        raise UserError(f"no folder {str(images)!r}")
    if masks is not None and not masks.exists():
        raise UserError(f"no file or folder {str(masks)!r}")
    choice = choose_model(model, checkpoint)

    from sam2fast.cli.evaluate_images_run import BuildPredictor, EvaluationRun, check_out, output_files
    from sam2fast.deploy.parallel.devices import device_list
    from sam2fast.deploy.parallel.runners import in_this_process, on_devices
    from sam2fast.evaluation.clicks.job import ClickSettings
    from sam2fast.evaluation.clicks.sources import draw, open_data_set

    if find_spec("scipy") is None:
        raise UserError("clicks need scipy: pip install 'sam2fast[eval]'")
    with one_line(ValueError, OSError, ImportError):
        data = open_data_set(
            images,
            masks or images,
            format,
            skip_unmasked=skip_unmasked,
            with_crowds=with_crowds,
            ignored_labels=ignored_labels,
        )
    if out is not None:
        check_out(out, data)
        remove_leftovers(output_files(out))
    jobs = data.jobs if most_images is None else draw(data.jobs, most_images, seed)
    with one_line(ValueError, RuntimeError):
        devices = device_list(chosen_devices(device, len(jobs), "images"))
    settings = ClickSettings(max(clicks), not no_feedback, box, box_noise, min_area, max_objects, seed, at_once)
    run = EvaluationRun(settings, clicks, data, jobs, progress)
    runner = in_this_process(devices[0]) if len(devices) == 1 else on_devices(devices)
    run.evaluate(runner, BuildPredictor(choice, dtype))
    if run.results.objects:
        for line in run.results.table():
            click.echo(line)
        click.echo(f"time: {run.seconds:.2f} s")
        if out is not None:
            facts = {
                "model": {
                    **choice._asdict(),
                    "checkpoint": str(choice.checkpoint),
                    "device": ",".join(devices),
                    "dtype": dtype,
                },
                "data": {"images": str(images), "masks": str(masks or images), "format": data.format},
                "settings": {**asdict(settings), "clicks": clicks, "images": most_images},
            }
            run.write(out, facts)
            click.echo(f"written to {' and '.join(click.format_filename(file) for file in output_files(out))}")
    run.finish()

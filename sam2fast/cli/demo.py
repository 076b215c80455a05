"""``sam2fast demo``: segments objects in photographs, and tracks objects through a video."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from sam2fast.cli.command_files import make_folder
from sam2fast.cli.options import PATH, ModelOptions, model_options, out_option
from sam2fast.cli.prompt_texts import POINT
from sam2fast.cli.prompts import Prompts, merged
from sam2fast.cli.reporting import output_options, say
from sam2fast.cli.user_errors import UserError
from sam2fast.io.atomic import remove_leftovers

DEFAULT_MODEL = "mini"


@click.command()
@click.option(
    "--image",
    type=PATH,
    metavar="FILE",
    help="Your image, with --point.  [default: two photographs of the package]",
)
@click.option(
    "--point",
    "clicks",
    multiple=True,
    type=POINT,
    help="A click in --image; LABEL 0 is not the object. Repeatable.",
)
@partial(model_options, default=DEFAULT_MODEL)
@out_option("out/demo")
@output_options()
def demo(
    image: Path | None,
    clicks: Sequence[Prompts],
    model: ModelOptions,
    out: Path,
) -> None:
    """Segment objects in two photographs, and track three through a video.

    Writes demo.png: one collage of all masks. Of the photographs, coffee* and cat*: the files of `sam2fast segment`.
    Of the video, tracked.mp4 and tracked.json: the masks in colour, and as run lengths. The photographs and the video
    are in the package. With --image, your image takes the place of the photographs; its files are photo*.
    """
    if (image is None) != (not clicks):
        raise click.UsageError("--image and --point go together")
    if image is not None:
        if not image.is_file():
            raise UserError(f"no file {str(image)!r}")
        if os.path.dirname(os.path.realpath(image)) == os.path.realpath(out):
            raise click.UsageError(f"a result might overwrite {image}; choose another --out folder")
    choice = model.with_default(DEFAULT_MODEL).choose()
    make_folder(out)

    from sam2fast.cli.demo_run import (
        PHOTOGRAPHS,
        Photograph,
        demo_files,
        segment_photographs,
        track_clip,
        write_collage,
    )
    from sam2fast.cli.results import print_results
    from sam2fast.cli.segmenter import Segmenter

    photographs = PHOTOGRAPHS
    if image is not None:
        photographs = {"photo": Photograph(image, merged(clicks, lambda _: None))}
    remove_leftovers(demo_files(out, photographs))
    segmenter = Segmenter(choice, model.device, model.dtype)
    records = segment_photographs(segmenter, photographs, out)
    tracked = track_clip(segmenter, choice, out)
    collage = write_collage(photographs, tracked, out)
    print_results(records, segmenter.seconds, out)
    say(f"open {click.format_filename(collage)} to see the masks")

"""``sam2fast demo``: segments objects in photographs, and tracks objects through a video."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from sam2fast.cli.command import command, option, shared
from sam2fast.cli.command_files import make_folder
from sam2fast.cli.options import ModelOptions, model_options, out_option
from sam2fast.cli.prompt_texts import POINT
from sam2fast.cli.prompts import Prompts, merged
from sam2fast.cli.reporting import output_options, say
from sam2fast.cli.user_errors import UserError
from sam2fast.io.atomic import remove_leftovers

DEFAULT_MODEL = "mini"


class DemoCommand:
    """Segment objects in two photographs, and track three through a video.

    Writes demo.png, a collage of all masks. For the photographs, coffee* and cat* are the files of `sam2fast segment`.
    For the video, tracked.mp4 shows the masks in colour, and tracked.json has the run lengths. The photographs and the
    video are in the package. With --image, your image (files photo*) replaces the photographs.
    """

    image: Path | None = option(
        metavar="FILE", help="Your image, with --point.  [default: two photographs of the package]"
    )
    clicks: Sequence[Prompts] = option(
        "--point", multiple=True, type=POINT, help="A click in --image; LABEL 0 marks background. Repeatable."
    )
    model: ModelOptions = shared(partial(model_options, default=DEFAULT_MODEL))
    out: Path = shared(out_option("out/demo"))

    def run(self) -> None:
        if (self.image is None) != (not self.clicks):
            raise click.UsageError("--image and --point go together")
        if self.image is not None:
            if not self.image.is_file():
                raise UserError(f"no file {str(self.image)!r}")
            if os.path.dirname(os.path.realpath(self.image)) == os.path.realpath(self.out):
                raise click.UsageError(f"a result might overwrite {self.image}; choose another --out folder")
        choice = self.model.with_default(DEFAULT_MODEL).choose()
        make_folder(self.out)

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
        if self.image is not None:
            photographs = {"photo": Photograph(self.image, merged(self.clicks, lambda _: None))}
        remove_leftovers(demo_files(self.out, photographs))
        segmenter = Segmenter(choice, self.model.device, self.model.with_dtype().dtype)
        records = segment_photographs(segmenter, photographs, self.out)
        tracked = track_clip(segmenter, choice, self.out)
        collage = write_collage(photographs, tracked, self.out)
        print_results(records, segmenter.seconds, self.out)
        say(f"open {click.format_filename(collage)} to see the masks")


demo = command(DemoCommand, output_options())

"""``sam2fast demo``: segments a photograph and a synthetic image, and tracks through a synthetic video."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from sam2fast.cli.command_files import make_folder, remove_leftovers
from sam2fast.cli.model_choice import choose_model
from sam2fast.cli.options import PATH, model_options, out_option
from sam2fast.cli.prompt_texts import POINT
from sam2fast.cli.prompts import FOREGROUND, Click, Prompts, merged
from sam2fast.cli.reporting import emit, output_options, say
from sam2fast.cli.sources import InputSource
from sam2fast.cli.user_errors import UserError

DEFAULT_MODEL = "mini"


@click.command()
@click.option(
    "--image",
    type=PATH,
    metavar="FILE",
    help="Your image, with --point.  [default: a cup of coffee]",
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
    model: str | None,
    checkpoint: Path | None,
    image_size: int | None,
    device: str,
    dtype: str,
    out: Path,
) -> None:
    """Segment an object in a photograph, four in a synthetic image, and track two through a synthetic video.

    Writes photo*, vase*, apple*, mug* and book*: the files of `sam2fast segment`; scene.png and overlay.png: the
    synthetic image without and with masks; tracked.mp4, tracked.png and tracked.json: the tracked masks as a video,
    as a sheet of frames beside the ground truth, and as run lengths. Prints J, F and their mean in percent, as DAVIS
    defines them.
    """
    if (image is None) != (not clicks):
        raise click.UsageError("--image and --point go together")
    if image is not None:
        if not image.is_file():
            raise UserError(f"no file {str(image)!r}")
        if os.path.dirname(os.path.realpath(image)) == os.path.realpath(out):
            raise click.UsageError(f"a result might overwrite {image}; choose another --out folder")
    choice = choose_model(model or (DEFAULT_MODEL if checkpoint is None else None), checkpoint, image_size)
    make_folder(out)

    from sam2fast.cli.demo_run import demo_files, segment_scene, track_clip
    from sam2fast.cli.results import print_results, write_results
    from sam2fast.cli.segment import predict_objects
    from sam2fast.cli.segmenter import Segmenter
    from sam2fast.demo.scene import PHOTOGRAPH, PHOTOGRAPH_POINT

    remove_leftovers(demo_files(out))
    segmenter = Segmenter(choice, device, dtype)
    if image is None:
        image, clicks = PHOTOGRAPH, [Prompts((Click(*PHOTOGRAPH_POINT, FOREGROUND),))]
    found = predict_objects(segmenter, InputSource(str(image)), merged(clicks, lambda _: None))
    (photo,) = write_results(out, "photo", image, *found, segmenter.description, [None])
    records = {"photo": photo} | segment_scene(segmenter, out)
    for record in records.values():
        emit(record)
    track_clip(segmenter, choice, out)
    print_results(records, segmenter.seconds, out)
    video = next(file for file in (out / "tracked.mp4", out / "tracked.png", out / "overlay.png") if file.is_file())
    say(f"open {click.format_filename(video)} to see the masks")

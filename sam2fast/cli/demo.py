"""``sam2fast demo``: what the model makes of a photograph, of a drawn picture and of a video with known truth."""

import os
from collections.abc import Sequence
from pathlib import Path

import click

from sam2fast.cli.files import check_files, make_folder, remove_leftovers
from sam2fast.cli.model_choice import choose_model
from sam2fast.cli.options import model_options, out_option
from sam2fast.cli.prompts import Click, ClickType, Prompts


@click.command()
@click.option(
    "--image",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A picture of yours, with --point. Left out, a cup of coffee from scikit-image, where that is installed.",
)
@click.option(
    "--point",
    "clicks",
    multiple=True,
    type=ClickType(),
    help="A click in --image; LABEL 0 is not the object. Repeatable.",
)
@model_options
@out_option("out/demo")
def demo(
    image: Path | None,
    clicks: Sequence[Click],
    model: str | None,
    checkpoint: Path | None,
    device: str,
    dtype: str,
    out: Path,
) -> None:
    """Find a thing in a photograph, two in a drawn picture, and track two through a made-up video.

    Writes photo*, vase* and mug*, for each what `sam2fast segment` writes; scene.png and overlay.png, the drawn picture
    without and with what was found in it; tracked.mp4, tracked.png and tracked.json: what was tracked as a film, as a
    sheet of frames beside the truth, and as run lengths. Prints J, F and their mean against the truth in percent, as
    DAVIS measures them.
    """
    if (image is None) != (not clicks):
        raise click.UsageError("--image and --point go together")
    if image is not None:
        check_files([image], None, out)
        if os.path.dirname(os.path.realpath(image)) == os.path.realpath(out):
            raise click.UsageError(f"a result might overwrite {image}; choose another --out folder")
    choice = choose_model(model, checkpoint)
    make_folder(out)

    from sam2fast.cli.demo_parts import find_photograph, its_files, segment_photograph, segment_scene, track_clip
    from sam2fast.cli.results import print_results
    from sam2fast.cli.segmenter import Segmenter

    remove_leftovers(its_files(out))
    segmenter = Segmenter(choice, device, dtype)
    records = {}
    photograph = find_photograph() if image is None else (image, Prompts(clicks))
    if photograph is None:
        click.echo(
            "sam2fast: note: no photograph without scikit-image: pip install 'sam2fast[eval]', or give --image",
            err=True,
        )
    else:
        records["photo"] = segment_photograph(segmenter, *photograph, out)
    records |= segment_scene(segmenter, out)
    track_clip(segmenter, choice, out)
    print_results(records, segmenter.seconds, out)

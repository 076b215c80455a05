"""``sam2fast track``: objects through a video."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from sam2fast.cli.command_files import EXPORT_FILES
from sam2fast.cli.model_choice import choose_model
from sam2fast.cli.options import (
    PATH,
    FormatsType,
    check_exports,
    model_options,
    out_option,
    progress_option,
    strategy_option,
    tolerance_option,
)
from sam2fast.cli.runner_options import names_several
from sam2fast.cli.terminal import report_interrupt
from sam2fast.cli.track_request import (
    MaskType,
    PointType,
    TrackBoxType,
    TrackPrompt,
    TrackRequest,
    VideoSource,
    merge_prompts,
    read_prompt_file,
)
from sam2fast.cli.user_errors import UserError
from sam2fast.tracking.approximations import Approximations

FORMATS = ("json", "png", "overlay", "coco", *EXPORT_FILES)
WITH_IMAGES = ("yolo", "yolo-seg", "labelme")  # as sam2fast.mask_formats.writers.WITH_IMAGES
DEFAULT_FORMATS = ("json", "overlay")
MAX_PALETTE_OBJECTS = 255


@click.command()
@click.argument("video")
@click.option(
    "--point",
    "points",
    multiple=True,
    type=PointType(),
    help="A click on a frame; OBJ is a number or a name, LABEL 0 is not the object. Repeatable.",
)
@click.option("--box", "boxes", multiple=True, type=TrackBoxType(), help="A box around an object. Repeatable.")
@click.option(
    "--mask",
    "masks",
    multiple=True,
    type=MaskType(),
    help="An object's mask: an image of the video's size, bright where the object is. Repeatable.",
)
@click.option(
    "--prompts",
    "prompt_files",
    multiple=True,
    type=PATH,
    metavar="FILE",
    help='Prompts as JSON: {"prompts": [{"frame": 0, "object": 1, "points": [[X, Y]], "labels": [1], '
    '"box": [X0, Y0, X1, Y1]}, {"frame": 9, "object": "dog", "mask": "dog.png"}]}. Repeatable.',
)
@model_options
@click.option("--reverse", is_flag=True, help="Also track backwards, from the first prompted frame to the beginning.")
@click.option("--start", type=click.IntRange(0), metavar="FRAME", default=0, help="The first frame to track.")
@click.option(
    "--end", type=click.IntRange(0), metavar="FRAME", show_default="the video's", help="The last frame to track."
)
@click.option(
    "--stream",
    is_flag=True,
    help="Read the video once, in order, in constant memory; required for cameras and URLs.",
)
@click.option("--max-frames", type=click.IntRange(1), help="With --stream: stop after this many frames.")
@click.option(
    "--format",
    "formats",
    type=FormatsType(FORMATS),
    metavar=",".join(FORMATS),
    default=DEFAULT_FORMATS,
    show_default=",".join(DEFAULT_FORMATS),
    help="What to write, separated by commas; masks.jsonl is always written. docs/formats.md has all of them.",
)
@tolerance_option
@click.option(
    "--approximate",
    "approximations",
    multiple=True,
    metavar="NAME[=VALUE]",
    callback=lambda ctx, option, names: _approximations(names),
    help="Trade accuracy for speed: memory_slots=N, pooled_memory, still_frames=DIFFERENCE, "
    "fp8_attention[=emulated]. docs/approximations.md shows how much masks change. Repeatable.",
)
@strategy_option
@click.option("--show-ids", is_flag=True, help="Write each object's id beside it in the overlay.")
@click.option("--overwrite", is_flag=True, help="Remove the results of another run from the output folder.")
@progress_option
@out_option("out/track")
@click.pass_context
def track(
    ctx: click.Context,
    video: str,
    points: Sequence[TrackPrompt],
    boxes: Sequence[TrackPrompt],
    masks: Sequence[TrackPrompt],
    prompt_files: Sequence[Path],
    model: str | None,
    checkpoint: Path | None,
    device: str,
    dtype: str,
    overwrite: bool,
    out: Path,
    **options: Any,
) -> None:
    """Track objects through a VIDEO, from clicks, boxes and masks on any of its frames.

    VIDEO is a file, a folder of images, and with --stream also a URL or camera:0. Frames count from 0, coordinates
    are pixels of the video. All points and the box of an object on one frame are one prompt. Tracking begins with
    the first prompted frame.

    \b
    Writes to the output folder
      masks.jsonl  a line of JSON for each frame: run lengths, areas, boxes and scores of all objects
      track.json   the request and the progress of the run
      overlay.mp4  the masks in colour on the video
      masks/       with --format png: palette images, 1 for the first object, 2 for the second, ...
      masks.json   with --format coco: all masks in COCO's format for videos
      FORMAT/      with --format yolo, yolo-seg, labelme, npz, geojson: a file for each frame

    Ctrl-C keeps all results. The same command again continues there, and writes missing formats.
    """
    if names_several(device):
        raise click.UsageError(
            f"--device {device} for one video was removed in sam2fast 0.2; give one device. Several videos are spread "
            "over devices by `sam2fast vos` and sam2fast.deploy.parallel.track_videos"
        )
    source = VideoSource.parse(video)
    parts = [*points, *boxes, *masks, *(prompt for file in prompt_files for prompt in read_prompt_file(file))]
    request = TrackRequest(source, merge_prompts(parts, each_shows_object=not options["stream"]), **options)
    _check(request)
    source.check_out(out)
    choice = choose_model(model, checkpoint)
    with report_interrupt(ctx):
        from sam2fast.cli.track_run import run

        ctx.exit(run(request, choice, device, dtype, out, overwrite))


def _approximations(names: Sequence[str]) -> Approximations:
    try:
        return Approximations.of(names)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _check(request: TrackRequest) -> None:
    """Checks for contradictory options, and that the masks of prompts exist."""
    if request.source.is_live and not request.stream:
        raise click.UsageError(f"{request.source.name} can only be read once, in order; give --stream")
    if request.stream and request.reverse:
        raise click.UsageError("--reverse needs the whole video, --stream reads it once; give one of them")
    if request.reverse and request.strategy == "sam2long":
        raise click.UsageError(
            "--strategy sam2long decides about masks when a pass ends, and --reverse begins in the middle of one; give "
            "one of them, or call propagate_in_video twice from Python"
        )
    if request.max_frames is not None and not request.stream:
        raise click.UsageError("--max-frames goes with --stream; to stop early otherwise, give --end")
    if request.end is not None and request.start > request.end:
        raise click.UsageError(f"--start {request.start} lies after --end {request.end}")
    if "png" in request.formats and len(request.objects) > MAX_PALETTE_OBJECTS:
        raise click.UsageError(
            f"{len(request.objects)} objects, but a palette image holds at most {MAX_PALETTE_OBJECTS}; "
            "leave out --format png"
        )
    images = [name for name in WITH_IMAGES if name in request.formats]
    if request.source.is_live and images:
        raise click.UsageError(
            f"--format {images[0]} reads the video's frames again, and {request.source.name} can only be read once; "
            "leave it out"
        )
    check_exports(request.formats)
    for prompt in request.prompts:
        if prompt.mask is not None and not prompt.mask.is_file():
            raise UserError(f"{prompt}: no file {str(prompt.mask)!r}")

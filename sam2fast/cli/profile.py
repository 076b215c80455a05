"""``sam2fast profile``: where the time goes in an image or in frames of a video."""

import json
import os
from pathlib import Path

import click

from sam2fast.cli.options import PATH, ModelOptions, model_options
from sam2fast.cli.reporting import emit, output_options, say
from sam2fast.cli.user_errors import as_user_error
from sam2fast.io.images import SUFFIXES

RUNS_OF_IMAGES, RUNS_OF_VIDEOS = 5, 1


@click.command()
@click.argument("source", type=PATH, metavar="IMAGE|VIDEO")
@click.option("--objects", type=click.IntRange(1), default=1, help="This many clicks on a grid, one per object.")
@model_options
@click.option(
    "--frames",
    type=click.IntRange(1),
    default=5,
    help="Frames of a video to measure, after those that fill the memory bank.",
)
@click.option(
    "--runs",
    type=click.IntRange(1),
    help=f"Repetitions.  [default: {RUNS_OF_IMAGES} of an image, {RUNS_OF_VIDEOS} of a video]",
)
@click.option("--depth", type=click.IntRange(1), default=3, help="Depth of the printed tree.")
@click.option(
    "--trace",
    type=PATH,
    metavar="FILE",
    help="Also write a .json or .json.gz trace for Perfetto (https://ui.perfetto.dev) or Chrome.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of the tree.")
@output_options()
def profile(
    source: Path,
    objects: int,
    model: ModelOptions,
    frames: int,
    runs: int | None,
    depth: int,
    trace: Path | None,
    as_json: bool,
) -> None:
    """Show where the time goes in an IMAGE or VIDEO, by part, and how close each part is to the hardware limit.

    An image is decoded, encoded and prompted. A video, a file or a folder of images, is tracked from its first frame;
    the last frames that are tracked are measured. FLOPs are counted by torch, and compared with a large matrix
    multiplication on this machine. docs/profiling.md explains the columns.
    """
    if trace is not None and not trace.name.endswith((".json", ".json.gz")):
        raise click.UsageError(f"--trace {trace} does not end with .json or .json.gz")
    os.stat(source)
    os.stat(source if trace is None else trace.absolute().parent)
    choice = model.choose()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch.profiler's lines on stderr

    import torch

    from sam2fast.cli.segmenter import Segmenter
    from sam2fast.cli.track_run import load_predictor
    from sam2fast.profiling import profile_image, profile_video

    errors = as_user_error(OSError, ValueError, TypeError, ImportError, torch.OutOfMemoryError)
    if source.suffix.lower() in SUFFIXES and not source.is_dir():
        images = Segmenter(choice, model.device, model.dtype).predictor
        with errors:
            found = profile_image(images, source, objects=objects, runs=runs or RUNS_OF_IMAGES, trace=trace)
    else:
        video, _ = load_predictor(choice, model.device, model.dtype)
        with errors:
            found = profile_video(
                video, str(source), objects=objects, frames=frames, runs=runs or RUNS_OF_VIDEOS, trace=trace
            )
    record = {"input": str(source), "model": {**choice.as_json(), "dtype": model.dtype}, **found.as_json()}
    emit(record)
    if as_json:
        click.echo(json.dumps(record, indent=1))
    else:
        say(found.as_text(depth))

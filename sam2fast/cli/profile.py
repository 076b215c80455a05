"""``sam2fast profile``: shows where the time goes in an image or in frames of a video."""

import json
import os
from pathlib import Path
from typing import Any

import click

from sam2fast.cli.command import argument, command, option, shared
from sam2fast.cli.options import ModelOptions, model_options
from sam2fast.cli.reporting import emit, output_options, say
from sam2fast.cli.user_errors import as_user_error
from sam2fast.io.images import SUFFIXES

RUNS_OF_IMAGES, RUNS_OF_VIDEOS = 5, 1


class ProfileCommand:
    """Show where the time goes in an IMAGE or VIDEO, by part, and how close each part is to the hardware limit.

    An image is decoded, encoded and prompted. A video (a file or a folder of images) is tracked from its first frame,
    and the last tracked frames are measured. torch counts FLOPs. The FLOPs per second are compared with a large matrix
    multiplication on this machine. docs/profiling.md explains the columns.
    """

    source: Path = argument(metavar="IMAGE|VIDEO")
    objects: int = option(type=click.IntRange(1), default=1, help="Number of objects, each with a click on a grid.")
    model: ModelOptions = shared(model_options)
    frames: int = option(
        type=click.IntRange(1), default=5, help="Number of measured frames of a video, after the memory bank is full."
    )
    runs: int | None = option(
        type=click.IntRange(1),
        help=f"Repetitions.  [default: {RUNS_OF_IMAGES} of an image, {RUNS_OF_VIDEOS} of a video]",
    )
    depth: int = option(type=click.IntRange(1), default=3, help="Depth of the printed tree.")
    trace: Path | None = option(
        metavar="FILE", help="Also write a .json or .json.gz trace for Perfetto (https://ui.perfetto.dev) or Chrome."
    )
    as_json: bool = option("--json", help="Print one JSON document instead of the tree.")

    def run(self) -> None:
        if self.trace is not None and not self.trace.name.endswith((".json", ".json.gz")):
            raise click.UsageError(f"--trace {self.trace} does not end with .json or .json.gz")
        os.stat(self.source)
        os.stat(self.source if self.trace is None else self.trace.absolute().parent)
        choice = self.model.choose()
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # hides torch.profiler's lines on stderr

        import torch

        from sam2fast.cli.segmenter import Segmenter
        from sam2fast.cli.track_run import load_predictor
        from sam2fast.profiling import profile_image, profile_video

        model = self.model.with_dtype()
        errors = as_user_error(OSError, ValueError, TypeError, ImportError, torch.OutOfMemoryError)
        options: dict[str, Any] = {"objects": self.objects, "trace": self.trace}
        if self.source.suffix.lower() in SUFFIXES and not self.source.is_dir():
            images = Segmenter(choice, model.device, model.dtype).predictor
            with errors:
                report = profile_image(images, self.source, runs=self.runs or RUNS_OF_IMAGES, **options)
        else:
            video, _ = load_predictor(choice, model.device, model.dtype)
            options |= {"frames": self.frames, "runs": self.runs or RUNS_OF_VIDEOS}
            with errors:
                report = profile_video(video, str(self.source), **options)
        described = {**choice.as_json(), "dtype": model.dtype}
        record = {"input": str(self.source), "model": described, **report.as_json()}
        emit(record)
        if self.as_json:
            click.echo(json.dumps(record, indent=1))
        else:
            say(report.as_text(self.depth))


profile = command(ProfileCommand, output_options())

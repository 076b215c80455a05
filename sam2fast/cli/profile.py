"""``sam2fast profile``: where the time goes in images and in frames of videos."""

import importlib.util
import json
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sam2fast.cli.command_files import remove_leftovers, write_atomically
from sam2fast.cli.model_choice import ModelChoice, choose_model
from sam2fast.cli.options import PATH, model_options
from sam2fast.cli.prompt_options import Box, BoxType, Click, ClickType, Prompts
from sam2fast.cli.reporting import emit, output_options, say
from sam2fast.cli.sources import InputSource, list_sources
from sam2fast.cli.track_request import (
    PointType,
    TrackBoxType,
    TrackPrompt,
    VideoSource,
    check_against_video,
    merge_prompts,
)
from sam2fast.cli.user_errors import ModelError, UserError, as_user_error
from sam2fast.io.images import SUFFIXES

if TYPE_CHECKING:
    from sam2fast.profiling import Profile

CHART_OPTION = "--picture"
CHARTS = (".png", ".svg", ".pdf")
TRACES = (".json", ".json.gz")
STDOUT = "-"
RUNS_OF_IMAGES, RUNS_OF_VIDEOS = 5, 1


class _EitherType(click.ParamType):
    """A prompt in the form of ``segment``, or in that of ``track`` with a frame and an object before it."""

    def __init__(self, plain: click.ParamType, tracked: click.ParamType, longest: int) -> None:
        self._plain, self._tracked, self._longest = plain, tracked, longest
        self.name = f"[FRAME,OBJ,]{plain.name}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Reads one prompt; anything else is a usage error."""
        if not isinstance(value, str):
            return value
        kind = self._tracked if value.count(",") >= self._longest else self._plain
        return kind.convert(value, param, ctx)


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="IMAGE|VIDEO...")
@click.option(
    "--point",
    "points",
    multiple=True,
    type=_EitherType(ClickType(), PointType(), 3),
    help="A click; in a video FRAME must be 0, and OBJ is 1 if left out. Repeatable.",
)
@click.option(
    "--box", "boxes", multiple=True, type=_EitherType(BoxType(), TrackBoxType(), 4), help="A box around an object."
)
@click.option(
    "--objects",
    type=click.IntRange(1),
    help="Without --point and --box: this many clicks on a grid, one per object.  [default: 1]",
)
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
    help=f"Repetitions for each input.  [default: {RUNS_OF_IMAGES} for images, {RUNS_OF_VIDEOS} for videos]",
)
@click.option("--depth", type=click.IntRange(1), metavar="N", help="Depth of the printed tree.  [default: 3]")
@click.option(
    "--trace",
    type=PATH,
    metavar="FILE",
    help="Also write a .json trace for Perfetto (https://ui.perfetto.dev) or Chrome.",
)
@click.option(CHART_OPTION, "chart", type=PATH, metavar="FILE", help="Also draw a .png, .svg or .pdf chart.")
@click.option(
    "--json",
    "json_file",
    is_flag=False,
    flag_value=STDOUT,
    metavar="[FILE]",
    help="Write all results to a .json file, or print them as JSON without FILE. Give it after the inputs.",
)
@output_options()
def profile(
    inputs: Sequence[str],
    points: Sequence[Click | TrackPrompt],
    boxes: Sequence[Box | TrackPrompt],
    objects: int | None,
    model: str | None,
    checkpoint: Path | None,
    device: str,
    dtype: str,
    frames: int,
    runs: int | None,
    depth: int | None,
    trace: Path | None,
    chart: Path | None,
    json_file: str | None,
) -> None:
    """Show where the time goes in each IMAGE or VIDEO, by part, and how close each part is to the hardware limit.

    An image is decoded, encoded and prompted. A video is tracked from its first frame; its last frames are measured.
    FLOPs are counted by torch, and compared with a large matrix multiplication on this machine. docs/profiling.md
    explains the columns.
    """
    prompts = [*points, *boxes]
    if objects is not None and prompts:
        raise click.UsageError("--objects gives the prompts; give it, or --point and --box")
    sources, problems = list_sources(inputs, lambda folder: [folder], "inputs")
    total = len(sources) + len(problems.found)
    images = [Path(one.file_name).suffix.lower() in SUFFIXES and not os.path.isdir(one.text) for one in sources]
    for source, is_image in zip(sources, images, strict=True):
        _check_input(source, is_image, prompts)
    json_path = None if json_file in (None, STDOUT) else Path(str(json_file))
    _check_outputs(sources, {"--trace": trace, CHART_OPTION: chart, "--json": json_path})
    choice = choose_model(model, checkpoint)

    from sam2fast.profiling.report import DEPTH, as_text, draw

    profiles = []
    models = _Models(choice, device, dtype)
    for source, is_image in zip(sources, images, strict=True):
        usual = RUNS_OF_IMAGES if is_image else RUNS_OF_VIDEOS
        options = {"objects": objects or 1, "runs": runs or usual, "trace": trace}
        try:
            with source.file() as file:
                text = str(file)
                found = (
                    models.image(text, prompts, options) if is_image else models.video(text, prompts, frames, options)
                )
        except ModelError:
            raise
        except UserError as error:
            problems.add(source, error.message)
            continue
        profiles.append({"input": str(source), **found.as_json()})
        emit({**profiles[-1], "model": {**choice.as_json(), "dtype": dtype}})
        if json_file != STDOUT:
            if len(sources) > 1:
                say(f"\n{source}")
            say(as_text(found, depth or DEPTH))
        if chart is not None:
            with as_user_error(ImportError):
                content = draw(found, chart.suffix.lower())
            write_atomically(chart, content)
    if not profiles:
        problems.raise_if_any(total)
    document = json.dumps({"model": {**choice.as_json(), "dtype": dtype}, "profiles": profiles}, indent=1) + "\n"
    if json_file == STDOUT:
        click.echo(document, nl=False)
    elif json_path is not None:
        write_atomically(json_path, document.encode())
    problems.raise_if_any(total)


class _Models:
    """Profiles images and videos; each predictor is loaded at first use."""

    def __init__(self, choice: ModelChoice, device: str, dtype: str) -> None:
        self._choice, self._device, self._dtype = choice, device, dtype
        self._images: Any = None
        self._videos: Any = None

    def image(self, text: str, prompts: Sequence[Any], options: dict[str, Any]) -> "Profile":
        """The profile of an image with clicks and at most one box.

        Raises:
            ModelError: the model cannot be loaded.
            UserError: the file or a prompt cannot be used.
        """
        from sam2fast.cli.segmenter import Segmenter
        from sam2fast.profiling import profile_image

        if self._images is None:
            self._images = Segmenter(self._choice, self._device, self._dtype)
        clicks = tuple(prompt for prompt in prompts if isinstance(prompt, Click))
        box = next((prompt for prompt in prompts if isinstance(prompt, Box)), None)
        if prompts:
            height, width = self._images.read(InputSource(text)).shape[:2]
            if outside := Prompts(clicks, box).outside(width, height):
                raise UserError(f"the {outside[0]} lies outside {text} ({width}x{height})")
        coords, labels = [(c.x, c.y) for c in clicks], [c.label for c in clicks]
        corners = None if box is None else list(box)
        with _expected_errors():
            return profile_image(
                self._images.predictor,
                text,
                point_coords=coords or None,
                point_labels=labels or None,
                box=corners,
                **options,
            )

    def video(self, text: str, prompts: Sequence[Any], frames: int, options: dict[str, Any]) -> "Profile":
        """The profile of a video, with all prompts on the first frame; raises as :meth:`image`."""
        from sam2fast.cli.track_run import load_predictor
        from sam2fast.profiling import profile_video

        asked = [_on_first_frame(prompt) for prompt in prompts]
        merged = merge_prompts(asked, each_shows_object=True) if asked else []
        if merged:
            source = VideoSource.of(InputSource(text), is_streamed=False)
            check_against_video(merged, {}, *source.probe(), start=0, end=None)
        if self._videos is None:
            self._videos, _ = load_predictor(self._choice, self._device, self._dtype)
        with _expected_errors():
            by_object = {prompt.object: prompt.as_arguments() for prompt in merged}
            return profile_video(self._videos, text, prompts=by_object, frames=frames, **options)


def _expected_errors() -> AbstractContextManager[None]:
    """Errors caused by the input."""
    import torch

    return as_user_error(OSError, ValueError, TypeError, ImportError, torch.OutOfMemoryError)


def _on_first_frame(prompt: Click | Box | TrackPrompt) -> TrackPrompt:
    if isinstance(prompt, Click):
        return TrackPrompt(0, 1, (prompt,))
    return TrackPrompt(0, 1, box=prompt) if isinstance(prompt, Box) else prompt


def _check_input(source: InputSource, is_image: bool, prompts: Sequence[Any]) -> None:
    if is_image:
        if any(isinstance(prompt, TrackPrompt) for prompt in prompts):
            raise click.UsageError(
                f"{source} is an image, and a prompt has a frame and an object; expected X,Y or a box"
            )
        if sum(isinstance(prompt, Box) for prompt in prompts) > 1:
            raise click.UsageError(f"{source} is an image; give one --box")
        return
    if VideoSource.of(source, is_streamed=False).is_live:
        raise click.UsageError(f"{source} can only be read once; give a file or a folder of images")
    late = [p for p in prompts if isinstance(p, TrackPrompt) and p.frame != 0]
    if late:
        raise click.UsageError(f"{late[0]} is not on the first frame, where profiling begins; give frame 0")


def _check_outputs(sources: Sequence[InputSource], files: dict[str, Path | None]) -> None:
    """Checks before any work: one input for a trace or chart, known file endings, existing folders."""
    endings = {"--trace": TRACES, CHART_OPTION: CHARTS, "--json": (".json",)}
    taken = {os.path.realpath(source.text) for source in sources}
    for option, file in files.items():
        if file is None:
            continue
        if option != "--json" and len(sources) > 1:
            raise click.UsageError(f"{option} takes one image or video, got {len(sources)}")
        if not file.name.lower().endswith(endings[option]):
            wanted = " or ".join(endings[option])
            after = "; give it after the inputs" if option == "--json" else ""
            raise click.UsageError(f"{option} {file} does not end with {wanted}{after}")
        if os.path.realpath(file) in taken:
            raise click.UsageError(f"{option} {file} would overwrite an input or another output")
        taken.add(os.path.realpath(file))
        if not file.absolute().parent.is_dir():
            raise UserError(f"no folder {str(file.absolute().parent)!r} for {option}")
    if files[CHART_OPTION] is not None and importlib.util.find_spec("matplotlib") is None:
        raise UserError(f"{CHART_OPTION} needs matplotlib, which is not installed: pip install 'sam2fast[profile]'")
    remove_leftovers(file for file in files.values() if file is not None)

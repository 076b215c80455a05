"""``sam2fast dataset convert``: from one layout to another."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from sam2fast.cli.dataset_run import (
    LAYOUTS,
    MASKLETS,
    done_jobs,
    jobs_option,
    layout_option,
    names_of,
    open_output,
    open_source,
    rate_option,
    source_argument,
    video_option,
)
from sam2fast.cli.errors import one_line
from sam2fast.cli.problems import Problems

RECORD = ".convert.json"


@click.command()
@source_argument
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--to", "to", type=click.Choice(LAYOUTS), required=True, help="Layout of OUT.")
@layout_option
@click.option(
    "--masklets",
    type=click.Choice(MASKLETS),
    default="manual",
    show_default=True,
    help="Which of SA-V's two JSON files of a video to read or write.",
)
@rate_option
@click.option(
    "--pictures",
    type=click.Choice(("all", "annotated", "none")),
    default="all",
    show_default=True,
    help="Which frames come along: byte for byte, or, from films into layouts of pictures, as JPEG of quality 95.",
)
@click.option(
    "--overlaps",
    type=click.Choice(("refuse", "smaller-id", "larger-area")),
    default="refuse",
    show_default=True,
    help="davis and ytvos have one object at each pixel. Who gets a pixel of several objects; the others lose it.",
)
@click.option("--check", is_flag=True, help="Read every mask back and compare.")
@click.option("--overwrite", is_flag=True, help="Write videos again that are there.")
@video_option
@jobs_option()
def convert(
    source: Path,
    target: Path,
    to: str,
    layout: str | None,
    masklets: str,
    rate: int,
    pictures: str,
    overlaps: str,
    check: bool,
    overwrite: bool,
    videos: Sequence[str],
    processes: int | None,
) -> None:
    """Convert the data set in the folder IN, or one file of it, to another layout in the folder OUT.

    Nothing is lost: what a layout has no place for is in small files in OUT/Facts (in SA-V's JSON, under the key
    sam2fast), from which the way back restores it. A video appears in OUT whole or not at all; those that are there
    already are not done again. What cannot be read or held is named at the end.
    """
    data, only = open_source(source, layout, masklets, rate)
    names = names_of(data, only, videos)
    if os.path.realpath(target) == os.path.realpath(data.root):
        raise click.UsageError("OUT is the folder of IN; choose another one")
    if data.name == to == "sav" and data.settings.masklets != masklets:
        masklets = data.settings.masklets

    from sam2fast.datasets.conversion import ConvertJob, Place, convert_video
    from sam2fast.datasets.errors import DatasetError
    from sam2fast.datasets.layout import Settings

    asked = {"to": to, "masklets": masklets, "rate": rate, "pictures": pictures, "overlaps": overlaps}
    open_output(target, RECORD, asked, overwrite)
    place = Place(target, to, Settings(masklets, rate, overlaps))
    output = place.open()
    jobs = [
        ConvertJob(Place(data.root, data.name, data.settings), place, name, pictures, check)
        for name in names
        if overwrite or not output.has(name)
    ]
    problems, count, frames, objects, bare = Problems("videos"), 0, 0, 0, 0
    for result in done_jobs(convert_video, jobs, processes, "videos", problems, lambda job: job.video):
        done = result.value
        count, frames, objects = count + 1, frames + done.frames, objects + done.objects
        bare += not done.has_pictures
        if done.lost:
            click.echo(_told(result.job.video, done.lost))
    with one_line(DatasetError, OSError):
        output.finish()
    there = len(names) - len(jobs)
    click.echo(
        f"{count} videos with {objects} objects in {frames} annotated frames in {target}, layout {to}"
        + (f"; {there} videos were there already" if there else "")
        + (f"; of {bare} videos IN has no pictures" if bare and pictures != "none" else "")
    )
    problems.raise_if_any(len(names))


def _told(video: str, lost: Mapping[str, Sequence[int]]) -> str:
    objects = sorted({number for numbers in lost.values() for number in numbers})
    return (
        f"{video}: lost pixels where masks overlap, {len(lost)} frames from {next(iter(lost))} on, "
        f"objects {', '.join(map(str, objects))}"
    )

"""``sam2fast dataset info``: what a data set holds."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sam2fast.cli.dataset_run import (
    MASKLETS,
    chosen,
    layout_option,
    names_of,
    open_source,
    plain,
    rate_option,
    source_argument,
    video_option,
)
from sam2fast.cli.errors import UserError, one_line
from sam2fast.cli.problems import Problems
from sam2fast.cli.tables import aligned

if TYPE_CHECKING:
    from sam2fast.datasets.layout import Layout
    from sam2fast.datasets.layouts import VideoSummary

HEADERS = ("video", "objects", "frames", "from", "to", "size", "pictures", "masks", "visible")


@click.command()
@source_argument
@layout_option
@rate_option
@click.option("--count", is_flag=True, help="Read every mask: counts them, and finds what is damaged.")
@click.option("--json", "as_json", is_flag=True, help="Print a list of JSON instead of a table.")
@video_option
def info(source: Path, layout: str | None, rate: int, count: bool, as_json: bool, videos: Sequence[str]) -> None:
    """List the videos of the data set in the folder IN, or of one file of it, with their objects, frames and sizes.

    Frames and sizes are those of masks. What cannot be read is named at the end.
    """
    from sam2fast.datasets.errors import DatasetError
    from sam2fast.datasets.layouts import summarise

    problems, rows = Problems("videos"), []
    kinds = [(data, names_of(data, only, ())) for data, only in both_kinds(source, layout, rate)]
    asked = chosen(sorted({name for _, names in kinds for name in names}), videos, source)
    total = 0
    for data, there in kinds:
        names = [name for name in there if name in asked]
        total += len(names)
        for name in names:
            try:
                rows.append(summarise(data, name, count))
            except (DatasetError, OSError) as error:
                problems.add(name, plain(str(error)))
    if as_json:
        click.echo(json.dumps([row.content() for row in rows], indent=2))
    else:
        _print(rows, kinds[0][0].name)
    problems.raise_if_any(total)


def both_kinds(source: Path, layout: str | None, rate: int) -> "list[tuple[Layout, list[str]]]":
    """The data set; of a folder in SA-V's layout, the manual and the automatic masklets, as far as they are there.

    Raises:
        UserError: as :func:`~sam2fast.cli.dataset_run.open_source`; there are no videos.
    """
    data, only = open_source(source, layout, MASKLETS[0], rate)
    if data.name != "sav" or only:
        return [(data, only)]
    from sam2fast.datasets.errors import DatasetError

    found = [open_source(source, "sav", kind, rate) for kind in MASKLETS]
    with one_line(DatasetError):
        there = [pair for pair in found if pair[0].videos()]
    if not there:
        raise UserError(f"there are no annotated videos in {source}")
    return there


def _print(rows: "Sequence[VideoSummary]", layout: str) -> None:
    table: list[tuple[str, ...]] = [HEADERS]
    for row in rows:
        counted = ("-" if value is None else str(value) for value in (row.masks, row.visible))
        table.append(
            (
                f"{row.video} {row.masklets}".rstrip(),
                str(row.objects),
                str(row.frames),
                row.first,
                row.last,
                f"{row.width}x{row.height}",
                "film" if row.pictures is None else str(row.pictures),
                *counted,
            )
        )
    for line in aligned(table):
        click.echo(line)
    objects, frames = sum(row.objects for row in rows), sum(row.frames for row in rows)
    click.echo(f"{len(rows)} videos, {objects} objects, {frames} annotated frames; layout {layout}")

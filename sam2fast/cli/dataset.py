"""``sam2fast dataset``: data sets of masks in the common layouts; its commands ``info`` and ``show``."""

import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sam2fast.cli.command_files import make_folder, write_atomically
from sam2fast.cli.dataset_convert import convert, extract
from sam2fast.cli.dataset_options import (
    MASKLETS,
    layout_option,
    open_source,
    rate_option,
    select_source_videos,
    select_videos,
    source_argument,
    video_option,
)
from sam2fast.cli.options import out_option
from sam2fast.cli.reporting import emit, output_options, say
from sam2fast.cli.terminal import aligned
from sam2fast.cli.user_errors import ErrorReport, UserError, format_error
from sam2fast.io.atomic import remove_leftovers

if TYPE_CHECKING:
    import numpy as np

    from sam2fast.datasets.annotations import VideoAnnotations
    from sam2fast.datasets.layout import Layout
    from sam2fast.datasets.layout_registry import VideoSummary


HEADERS = ("video", "objects", "frames", "from", "to", "size", "images", "masks", "visible")


@click.command()
@source_argument
@layout_option
@rate_option
@click.option("--count", is_flag=True, help="Read every mask: counts them, and finds damaged ones.")
@video_option
@click.option("--json", "as_json", is_flag=True, help="Print a list of JSON instead of a table.")
@output_options()
def info(source: Path, layout: str | None, rate: int, count: bool, as_json: bool, videos: Sequence[str]) -> None:
    """List the videos of the data set in the folder IN, or of one file of it, with their objects, frames and sizes.

    Frames and sizes are those of masks. Unreadable videos are listed at the end.
    """
    from sam2fast.datasets.dataset_files import DatasetError
    from sam2fast.datasets.layout_registry import summarise

    problems, rows = ErrorReport("videos"), []
    kinds = open_masklets(source, layout, rate)
    asked = select_videos(sorted({name for _, names in kinds for name in names}), videos, source)
    total = 0
    for data, present in kinds:
        names = [name for name in present if name in asked]
        total += len(names)
        for name in names:
            try:
                rows.append(summarise(data, name, count))
            except (DatasetError, OSError) as error:
                problems.add(name, format_error(error))
    for row in rows:
        emit(row.content())
    if as_json:
        click.echo(json.dumps([row.content() for row in rows], indent=2))
    else:
        _print(rows, kinds[0][0].name)
    problems.raise_if_any(total)


def open_masklets(source: Path, layout: str | None, rate: int, both: bool = False) -> "list[tuple[Layout, list[str]]]":
    """Returns the data set and its videos. SA-V gives manual and automatic masklets; of one file only if ``both``."""
    data, only = open_source(source, layout, MASKLETS[0], rate)
    if data.name != "sav" or (only and not both):
        return [(data, select_source_videos(data, only, ()))]
    kinds = [open_source(data.root, "sav", kind, rate)[0] for kind in MASKLETS]
    if only:
        return [(one, only) for one in kinds if (data.root / f"{only[0]}_{one.settings.masklets}.json").is_file()]
    present = [(one, names) for one in kinds if (names := one.videos())]
    if not present:
        raise UserError(f"there are no annotated videos in {source}")
    return present


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
                "video" if row.images is None else str(row.images),
                *counted,
            )
        )
    for line in aligned(table):
        say(line)
    objects, frames = sum(row.objects for row in rows), sum(row.frames for row in rows)
    say(f"{len(rows)} videos, {objects} objects, {frames} annotated frames; layout {layout}")


FRAMES_SHOWN = 4  # frames per video


@click.command()
@source_argument
@layout_option
@rate_option
@click.option(
    "--frames",
    metavar="A,B,C",
    help="Annotated frames by number or file name: 0,40,480.  [default: up to four, evenly spaced]",
)
@video_option
@out_option("out/dataset")
@output_options()
def show(source: Path, layout: str | None, rate: int, frames: str | None, videos: Sequence[str], out: Path) -> None:
    """Draw the masks of annotated frames, of the data set in the folder IN or of one file of it.

    They are drawn on the frames, or on grey without frames. SA-V's manual and automatic masklets are drawn side by
    side. Each image is OUT/VIDEO_FRAME.png.
    """
    asked = None if frames is None else [part.strip() for part in frames.split(",") if part.strip()]
    if asked == []:
        raise click.UsageError("--frames names no frame; expected such as 0,40,480")
    kinds = open_masklets(source, layout, rate, both=True)
    names = select_videos(sorted({name for _, names in kinds for name in names}), videos, source)
    make_folder(out)

    from sam2fast.datasets.dataset_files import DatasetError
    from sam2fast.video_io import VideoError

    problems, count = ErrorReport("videos"), 0
    for name in names:
        opened = []
        for data, present in kinds:
            if name in present:
                try:
                    opened.append((data, data.open(name)))
                except DatasetError as error:
                    problems.add(name, format_error(error))
        try:
            count += _draw_video(name, opened, asked, out)
        except (DatasetError, VideoError, OSError, ImportError) as error:
            problems.add(name, format_error(error))
    emit({"out": str(out), "images": count})
    say(f"{count} images in {out}")
    problems.raise_if_any(sum(name in present for name in names for _, present in kinds))


def _draw_video(
    name: str, found: "Sequence[tuple[Layout, VideoAnnotations]]", asked: Sequence[str] | None, out: Path
) -> int:
    """Draws frames of a video; returns their number."""
    from sam2fast.datasets.dataset_files import DatasetError
    from sam2fast.datasets.frame_files import frame_key

    if not found:
        return 0
    known = {frame_key(frame): frame for _, video in found for frame in video.frames}
    ordered = list(known.values())
    if asked is None:
        step = max(1, -(-len(ordered) // FRAMES_SHOWN))
        wanted = ordered[::step]
    else:
        missing = [number for number in asked if frame_key(number) not in known]
        if missing:
            raise DatasetError(f"{name} has no annotation in frame {missing[0]}; it has {', '.join(ordered[:5])}, ...")
        wanted = [known[frame_key(number)] for number in asked]
    left = dict.fromkeys(wanted)
    for frame, image in found[0][0].frame_files(name).read(wanted):
        _draw_frame(frame, image, found, out)
        del left[frame]
    for frame in left:
        _draw_frame(frame, None, found, out)
    return len(set(wanted))


def _draw_frame(
    frame: str, image: "np.ndarray | None", found: "Sequence[tuple[Layout, VideoAnnotations]]", out: Path
) -> None:
    from sam2fast.datasets.segmentations import area_of
    from sam2fast.datasets.visualization import Panel, draw_panels

    panels = []
    for layout, video in found:
        if frame in video.frames:
            masks = video.masks(frame)
            kind = f" {layout.settings.masklets}" if layout.name == "sav" else ""
            visible = sum(area_of(rle) > 0 for rle in masks.values())
            title = f"{video.name}{kind}, frame {frame}: {visible} of {len(video.objects)} objects"
            panels.append(Panel(title, video.size, masks, layout.first_id))
    content = BytesIO()
    draw_panels(image, panels).save(content, "PNG")
    file = out / f"{found[0][1].name}_{frame}.png"
    remove_leftovers([file])
    write_atomically(file, content.getvalue())


@click.group()
def dataset() -> None:
    """Data sets of masks: list what is in them, show it, convert them, extract frames of videos.

    Layouts: sav (SA-V's JSON files beside videos), sav-png (SA-V's folders of PNGs), davis (DAVIS, MOSE), ytvos
    (YouTube-VOS), coco-jsonl (a file of JSON lines for each video; also what track writes).
    """


for command in (info, show, convert, extract):
    dataset.add_command(command)

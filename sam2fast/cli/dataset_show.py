"""``sam2fast dataset show``: pictures of annotated frames."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sam2fast.cli.dataset_info import both_kinds
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
from sam2fast.cli.files import make_folder, remove_leftovers, write_atomically
from sam2fast.cli.options import out_option
from sam2fast.cli.problems import Problems

if TYPE_CHECKING:
    import numpy as np

    from sam2fast.datasets.annotations import VideoAnnotations
    from sam2fast.datasets.layout import Layout

USUAL = 4  # pictures of a video


@click.command()
@source_argument
@layout_option
@rate_option
@click.option(
    "--frames",
    metavar="A,B,C",
    help="Annotated frames, by the numbers or names of their files: 0,40,480. Left out, four over the whole video.",
)
@video_option
@out_option("out/dataset")
def show(source: Path, layout: str | None, rate: int, frames: str | None, videos: Sequence[str], out: Path) -> None:
    """Draw the masks of annotated frames, of the data set in the folder IN or of one file of it.

    They are drawn on the frames where film or pictures are there, else on grey; SA-V's manual and automatic masklets
    side by side. Each picture is OUT/VIDEO_FRAME.png.
    """
    asked = None if frames is None else [part.strip() for part in frames.split(",") if part.strip()]
    if asked == []:
        raise click.UsageError("--frames names no frame; expected such as 0,40,480")
    kinds = [(data, set(names_of(data, only, ()))) for data, only in _with_other_kind(source, layout, rate)]
    names = chosen(sorted(set().union(*(there for _, there in kinds))), videos, source)
    make_folder(out)

    from sam2fast.datasets.errors import DatasetError
    from sam2fast.video_io import VideoError

    problems, count = Problems("videos"), 0
    for name in names:
        opened = []
        for data, there in kinds:
            if name in there:
                try:
                    opened.append((data, data.open(name)))
                except DatasetError as error:
                    problems.add(name, plain(str(error)))
        try:
            count += _draw_video(name, opened, asked, out)
        except (DatasetError, VideoError, OSError, ImportError) as error:
            problems.add(name, plain(str(error)))
    click.echo(f"{count} pictures in {out}")
    problems.raise_if_any(sum(name in there for name in names for _, there in kinds))


def _with_other_kind(source: Path, layout: str | None, rate: int) -> "list[tuple[Layout, list[str]]]":
    """The data set; in SA-V's layout both kinds of masklets, also of a video whose one file was given."""
    pairs = both_kinds(source, layout, rate)
    data, only = pairs[0]
    if data.name != "sav" or not only:
        return pairs
    both = [(open_source(data.root, "sav", kind, rate)[0], only) for kind in MASKLETS]
    return [(one, names) for one, names in both if (data.root / f"{names[0]}_{one.settings.masklets}.json").is_file()]


def _draw_video(
    name: str, found: "Sequence[tuple[Layout, VideoAnnotations]]", asked: Sequence[str] | None, out: Path
) -> int:
    """Draws frames of a video from the layouts that have it; how many."""
    from sam2fast.datasets.errors import DatasetError
    from sam2fast.datasets.frame_files import frame_key

    if not found:
        return 0
    known = {frame_key(frame): frame for _, video in found for frame in video.frames}
    ordered = list(known.values())
    if asked is None:
        step = max(1, -(-len(ordered) // USUAL))
        wanted = ordered[::step]
    else:
        missing = [number for number in asked if frame_key(number) not in known]
        if missing:
            raise DatasetError(f"{name} has no annotation in frame {missing[0]}; it has {', '.join(ordered[:5])}, ...")
        wanted = [known[frame_key(number)] for number in asked]
    left = dict.fromkeys(wanted)
    for frame, picture in found[0][0].frame_files(name).read(wanted):
        _draw_frame(frame, picture, found, out)
        del left[frame]
    for frame in left:
        _draw_frame(frame, None, found, out)
    return len(set(wanted))


def _draw_frame(
    frame: str, picture: "np.ndarray | None", found: "Sequence[tuple[Layout, VideoAnnotations]]", out: Path
) -> None:
    from sam2fast.datasets.pictures import Panel, draw_panels
    from sam2fast.datasets.segmentations import area_of

    panels = []
    for layout, video in found:
        if frame in video.frames:
            masks = video.masks(frame)
            kind = f" {layout.settings.masklets}" if layout.name == "sav" else ""
            visible = sum(area_of(rle) > 0 for rle in masks.values())
            title = f"{video.name}{kind}, frame {frame}: {visible} of {len(video.objects)} objects"
            panels.append(Panel(title, video.size, masks, layout.first_id))
    content = BytesIO()
    draw_panels(picture, panels).save(content, "PNG")
    file = out / f"{found[0][1].name}_{frame}.png"
    remove_leftovers([file])
    write_atomically(file, content.getvalue())

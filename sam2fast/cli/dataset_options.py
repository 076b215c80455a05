"""Options and sources of the commands of ``sam2fast dataset``."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sam2fast.cli.options import PATH
from sam2fast.cli.user_errors import UserError

if TYPE_CHECKING:
    from sam2fast.datasets.layout import Layout

LAYOUTS = ("sav", "sav-png", "davis", "ytvos", "coco-jsonl")
MASKLETS = ("manual", "auto")
Command = TypeVar("Command", bound=Callable[..., Any])

source_argument = click.argument("source", metavar="IN", type=PATH)
layout_option = click.option("--from", "layout", type=click.Choice(LAYOUTS), help="Layout of IN.  [default: detected]")
rate_option = click.option(
    "--rate", type=click.IntRange(1), default=4, help="SA-V's JSON files annotate every Nth frame of the video."
)
video_option = click.option(
    "--video", "videos", metavar="NAME", multiple=True, help="Take only this video. Repeatable.  [default: all]"
)


def jobs_option(*names: str) -> Callable[[Command], Command]:
    """Adds ``--jobs``, also under other names."""
    return click.option(
        "--jobs",
        *names,
        "processes",
        type=click.IntRange(1),
        help="Processes.  [default: one for each core]",
    )


def select_videos(present: Sequence[str], asked: Collection[str], where: Path) -> list[str]:
    """The requested videos, or all if none was requested."""
    if not present:
        raise UserError(f"there are no annotated videos in {where}")
    missing = sorted(set(asked) - set(present))
    if missing:
        raise click.UsageError(f"there is no video {missing[0]!r} in {where}; there are {', '.join(present[:5])}")
    return [name for name in present if not asked or name in asked]


def open_source(source: Path, layout: str | None, masklets: str, rate: int) -> tuple["Layout", list[str]]:
    """Opens a folder, or one file of it, as a data set. Returns it with the videos of the file, none for a folder."""
    from sam2fast.datasets.layout import Settings
    from sam2fast.datasets.layout_registry import open_layout

    videos: list[str] = []
    if source.is_file():
        for kind in MASKLETS:
            if source.name.endswith(f"_{kind}.json"):
                layout, masklets, videos = "sav", kind, [source.name.removesuffix(f"_{kind}.json")]
        if source.suffix == ".jsonl":
            name = source.resolve().parent.name if source.name == "masks.jsonl" else source.stem  # of `sam2fast track`
            layout, videos = "coco-jsonl", [name]
        if not videos:
            raise UserError(f"{source} is neither <video>_manual.json, <video>_auto.json nor <video>.jsonl")
        source = source.parent
    if not source.is_dir():
        raise UserError(f"no file or folder {str(source)!r}")
    return open_layout(source, layout, Settings(masklets, rate)), videos


def select_source_videos(data: "Layout", videos: Sequence[str], asked: Collection[str]) -> list[str]:
    """The videos to work on."""
    return select_videos(list(videos) or data.videos(), asked, data.root)

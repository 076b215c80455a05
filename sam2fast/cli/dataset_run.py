"""What the commands of ``sam2fast dataset`` share: options, the record of a run, jobs with their problems."""

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sam2fast.cli.errors import UserError, one_line
from sam2fast.cli.files import make_folder, remove_leftovers, write_atomically
from sam2fast.cli.problems import Problems

if TYPE_CHECKING:
    from sam2fast.datasets.layout import Layout
    from sam2fast.deploy.parallel.pool import JobResult

LAYOUTS = ("sav", "sav-png", "davis", "ytvos", "coco-jsonl")
MASKLETS = ("manual", "auto")
# Kinds of errors whose messages say all.
TELLING = ("DatasetError: ", "OverlapError: ", "VideoError: ", "NoFramesError: ")
Command = TypeVar("Command", bound=Callable[..., Any])

source_argument = click.argument("source", metavar="IN", type=click.Path(path_type=Path))
layout_option = click.option(
    "--from", "layout", type=click.Choice(LAYOUTS), help="Layout of IN. Left out, it is what IN looks like."
)
rate_option = click.option(
    "--rate",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="Every how many frames of the film SA-V's JSON files have an annotation.",
)
video_option = click.option(
    "--video",
    "videos",
    metavar="NAME",
    multiple=True,
    help="Take this video only. Repeatable. Left out, all.",
)


def jobs_option(*names: str) -> Callable[[Command], Command]:
    """Adds ``--jobs``, with other names if there are any."""
    return click.option(
        "--jobs",
        *names,
        "processes",
        type=click.IntRange(1),
        metavar="N",
        help="Processes. Left out, one for each core.",
    )


def chosen(present: Sequence[str], asked: Collection[str], where: Path) -> list[str]:
    """Those of the videos that were asked for; all, if none was.

    Raises:
        UserError: there are none.
        click.UsageError: one is not there.
    """
    if not present:
        raise UserError(f"there are no annotated videos in {where}")
    missing = sorted(set(asked) - set(present))
    if missing:
        raise click.UsageError(f"there is no video {missing[0]!r} in {where}; there are {', '.join(present[:5])}")
    return [name for name in present if not asked or name in asked]


def open_output(out: Path, file: str, asked: Mapping[str, Any], overwrite: bool = False) -> None:
    """Makes an output folder, or goes on with one that was filled in the same way.

    Args:
        file: which says how, in the folder.
        overwrite: take whatever is there.

    Raises:
        UserError: the folder is not empty, and was filled otherwise.
    """
    make_folder(out)
    record = out / file
    remove_leftovers([record])  # of a run that was killed before there was one
    with one_line(OSError, ValueError):
        is_new = not any(path.name != file for path in out.iterdir())
        before = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else None
    if not overwrite and not is_new:
        if not isinstance(before, dict):
            raise UserError(
                f"the folder {out} is not empty and has no {file} that says how it was filled; choose another"
            )
        changed = [f"--{name}" for name, value in asked.items() if before.get(name) != value]
        if changed:
            raise UserError(f"{out} was filled with another {', '.join(changed)}, see {record}; choose another folder")
    write_atomically(record, (json.dumps(dict(asked), indent=2) + "\n").encode())


def done_jobs(
    function: Callable[[Any, Any], Any],
    jobs: Sequence[Any],
    processes: int | None,
    what: str,
    problems: Problems,
    name_of: Callable[[Any], str],
) -> Iterator["JobResult"]:
    """The results of jobs that need no model, under a bar; those that failed go to the problems.

    Args:
        processes: at most so many; by default one for each core.
    """
    from tqdm import tqdm

    from sam2fast.datasets.conversion import no_model
    from sam2fast.deploy.parallel.runners import in_this_process, on_devices

    count = min(processes or os.cpu_count() or 1, len(jobs))
    runner = in_this_process("cpu") if count < 2 else on_devices(["cpu"] * count, threads=1)
    results = runner(function, jobs, no_model)
    with tqdm(results, what, total=len(jobs), disable=None) as bar:
        for result in bar:
            if result.error is None:
                yield result
            else:
                problems.add(name_of(result.job), plain(result.error))


def plain(error: str) -> str:
    """An error without the name of its kind, where the message says all."""
    for kind in TELLING:
        error = error.removeprefix(kind)
    return error


def open_source(source: Path, layout: str | None, masklets: str, rate: int) -> tuple["Layout", list[str]]:
    """A folder, or one file of it, as a data set; and the videos that are meant, if it is a file.

    Raises:
        UserError: there is no such file or folder, or it is in no layout.
    """
    from sam2fast.datasets.errors import DatasetError
    from sam2fast.datasets.layout import Settings
    from sam2fast.datasets.layouts import open_layout

    videos: list[str] = []
    if source.is_file():
        for kind in MASKLETS:
            if source.name.endswith(f"_{kind}.json"):
                layout, masklets, videos = "sav", kind, [source.name.removesuffix(f"_{kind}.json")]
        if source.suffix == ".jsonl":
            layout, videos = "coco-jsonl", [source.stem]
        if not videos:
            raise UserError(f"{source} is neither <video>_manual.json, <video>_auto.json nor <video>.jsonl")
        source = source.parent
    if not source.is_dir():
        raise UserError(f"no file or folder {str(source)!r}")
    with one_line(DatasetError):
        return open_layout(source, layout, Settings(masklets, rate)), videos


def names_of(data: "Layout", videos: Sequence[str], asked: Collection[str]) -> list[str]:
    """The videos to work on.

    Raises:
        UserError, click.UsageError: as :func:`chosen`; the folder is not in its layout.
    """
    from sam2fast.datasets.errors import DatasetError

    with one_line(DatasetError):
        present = list(videos) or data.videos()
    return chosen(present, asked, data.root)

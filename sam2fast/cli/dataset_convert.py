"""``sam2fast dataset convert`` and ``extract``: other layouts, and frames of videos as JPEG files."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from sam2fast import __version__
from sam2fast.cli.command_files import add_counts, open_output, read_counts
from sam2fast.cli.dataset_options import (
    LAYOUTS,
    MASKLETS,
    jobs_option,
    layout_option,
    open_source,
    rate_option,
    run_jobs,
    select_source_videos,
    source_argument,
    video_option,
)
from sam2fast.cli.left_out import LeftOut
from sam2fast.cli.options import PATH
from sam2fast.cli.reporting import emit, output_options, say
from sam2fast.cli.user_errors import ErrorReport, as_user_error, format_error
from sam2fast.downloads.digests import digest_of

RECORD_OF_CONVERT, RECORD_OF_EXTRACT = ".convert.json", ".extract.json"


@click.command()
@source_argument
@click.argument("target", metavar="OUT", type=PATH)
@click.option("--to", "to", type=click.Choice(LAYOUTS), required=True, help="Layout of OUT.")
@layout_option
@click.option(
    "--masklets",
    type=click.Choice(MASKLETS),
    default="manual",
    help="Which of SA-V's two JSON files of a video to read or write.",
)
@rate_option
@click.option(
    "--images",
    type=click.Choice(("all", "annotated", "none")),
    default="all",
    help="Which frames to copy: byte for byte, or, from video files into layouts of images, as JPEG of quality 95.",
)
@click.option(
    "--overlaps",
    type=click.Choice(("refuse", "smaller-id", "larger-area")),
    default="refuse",
    help="davis and ytvos have one object at each pixel. Which object gets a pixel of several objects.",
)
@click.option("--check", is_flag=True, help="Read every mask back and compare.")
@click.option("--overwrite", is_flag=True, help="Replace existing videos, also those of other options.")
@video_option
@jobs_option()
@output_options(has_bar=True)
def convert(
    source: Path,
    target: Path,
    to: str,
    layout: str | None,
    masklets: str,
    rate: int,
    images: str,
    overlaps: str,
    check: bool,
    overwrite: bool,
    videos: Sequence[str],
    processes: int | None,
) -> None:
    """Convert the data set in the folder IN, or one file of it, to another layout in the folder OUT.

    Nothing is lost: what a layout cannot hold is written to OUT/Facts (in SA-V's JSON under the key sam2fast), and
    restored when converting back. Each video is written atomically. Existing videos are skipped, so the same
    command continues an interrupted run. Videos that cannot be read or converted are listed at the end.
    """
    data, only = open_source(source, layout, masklets, rate)
    names = select_source_videos(data, only, videos)
    if os.path.realpath(target) == os.path.realpath(data.root):
        raise click.UsageError("OUT is the folder of IN; choose another one")
    if data.name == to == "sav" and data.settings.masklets != masklets:
        masklets = data.settings.masklets

    from sam2fast.datasets.conversion import ConvertJob, convert_video
    from sam2fast.datasets.dataset_files import DatasetError
    from sam2fast.datasets.layout import Settings
    from sam2fast.datasets.layout_registry import open_layout

    options = {"to": to, "masklets": masklets, "rate": rate, "images": images, "overlaps": overlaps}
    run: dict[str, Any] = {"version": __version__, "options": options}
    output = open_layout(target, to, Settings(masklets, rate, overlaps))
    problems, count, frames, objects, bare = ErrorReport("videos"), 0, 0, 0, 0
    made_from = {}
    for name in names:
        try:
            digests = data.digests(name, with_frames=images != "none")
            made_from[name] = {**run, "video_path": os.path.realpath(data.masks_at(name)), **digests}
        except (DatasetError, OSError) as error:
            problems.add(name, format_error(error))
    counts = read_counts(target, RECORD_OF_CONVERT)
    with as_user_error(DatasetError, OSError):
        exist = [name for name in made_from if output.has(name, counts.get(name))]
    there, replaced = ([], exist) if overwrite else (exist, [])
    # Until they are replaced, nothing says what they were made from: the run may be interrupted.
    advice = "choose another folder, or --overwrite"
    open_output(target, RECORD_OF_CONVERT, run, overwrite, {**made_from, **dict.fromkeys(replaced)}, there, advice)
    jobs = [ConvertJob(data, output, name, images, check) for name in made_from if name not in there]
    for result in run_jobs(convert_video, jobs, processes, "videos", problems, lambda job: job.video):
        done = result.value
        count, frames, objects = count + 1, frames + done.frames, objects + done.objects
        bare += not done.has_images
        if done.lost:
            say(_format_lost(result.job.video, done.lost))
    with as_user_error(DatasetError, OSError):
        output.finish()
    failed = {subject for subject, _ in problems.found}
    if replaced:
        again = {name: made_from[name] for name in replaced if name not in failed}
        open_output(target, RECORD_OF_CONVERT, run, True, again)
    with as_user_error(DatasetError, OSError):
        files = {name: len(output.files(name)) for name in made_from if name not in failed}
    add_counts(target, RECORD_OF_CONVERT, files)
    done_before = len(there)
    emit({"out": str(target), "videos": count, "objects": objects, "frames": frames, "done_before": done_before})
    say(
        f"{count} videos with {objects} objects in {frames} annotated frames in {target}, layout {to}"
        + (f"; {done_before} videos were done before" if done_before else "")
        + (f"; of {bare} videos IN has no images" if bare and images != "none" else "")
    )
    problems.raise_if_any(len(names))


def _format_lost(video: str, lost: Mapping[str, Sequence[int]]) -> str:
    objects = sorted({number for numbers in lost.values() for number in numbers})
    return (
        f"{video}: lost pixels where masks overlap, {len(lost)} frames from {next(iter(lost))} on, "
        f"objects {', '.join(map(str, objects))}"
    )


@click.command()
@click.option(
    "--videos",
    "--sav-vid-dir",
    "videos",
    required=True,
    metavar="DIR",
    type=PATH,
    help="Folder of .mp4 files, or of folders with such files.",
)
@click.option(
    "--out",
    "--output-dir",
    "out",
    required=True,
    metavar="DIR",
    type=PATH,
    help="For the frames: DIR/VIDEO/00000.jpg, 00004.jpg and so on.",
)
@click.option(
    "--rate",
    "--sav-frame-sample-rate",
    "rate",
    type=click.IntRange(1),
    default=4,
    help="Take every RATEth frame. 4 are SA-V's annotated ones.",
)
@click.option("--quality", type=click.IntRange(1, 100), default=95, help="Of the JPEG files.")
@jobs_option("--n-jobs")
@output_options(has_bar=True)
def extract(videos: Path, out: Path, rate: int, quality: int, processes: int | None) -> None:
    """Extract every RATEth frame of videos, several videos at once.

    The folder of a video appears when all its frames are written. Existing folders are skipped, so the same command
    continues an interrupted run. Videos that cannot be read to their end get no folder, and are listed at the end.
    """
    from sam2fast.datasets.conversion import ExtractJob, extract_frames, list_videos
    from sam2fast.datasets.dataset_files import DatasetError
    from sam2fast.video_io.video_types import require_pyav

    with as_user_error(DatasetError):
        files, others = list_videos(videos)
    with as_user_error(ImportError):
        require_pyav()
    problems, left_out = ErrorReport("videos"), LeftOut()
    for why, file in others:
        left_out.add("file", why, file)
    run: dict[str, Any] = {"version": __version__, "options": {"rate": rate, "quality": quality}}
    jobs: dict[str, ExtractJob] = {}
    made_from = {}
    for file in files:
        job = ExtractJob(file, out, rate, quality)
        if job.name in jobs:
            problems.add(file, f"{file} has the name of {jobs[job.name].video}, their frames would be in one folder")
            continue
        try:
            made_from[job.name] = {**run, "video_path": os.path.realpath(file), "video_content": digest_of(file)}
        except OSError as error:
            problems.add(file, format_error(error))
        else:
            jobs[job.name] = job
    counts = read_counts(out, RECORD_OF_EXTRACT)
    waiting = [job for name, job in jobs.items() if not job.is_done(counts.get(name))]
    there = [name for name, job in jobs.items() if job not in waiting]
    open_output(out, RECORD_OF_EXTRACT, run, False, made_from, there)
    count = frames = 0
    for result in run_jobs(extract_frames, waiting, processes, "videos", problems, lambda job: str(job.video)):
        count, frames = count + 1, frames + result.value
    failed = {subject for subject, _ in problems.found}
    add_counts(out, RECORD_OF_EXTRACT, {n: len(job.files) for n, job in jobs.items() if str(job.video) not in failed})
    done_before = len(there)
    emit({"out": str(out), "videos": count, "frames": frames, "done_before": done_before})
    say(
        f"{frames} frames of {count} videos in {out}"
        + (f"; {done_before} videos were done before" if done_before else "")
    )
    left_out.report()
    problems.raise_if_any(len(files))

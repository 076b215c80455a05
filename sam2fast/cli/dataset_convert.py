"""``sam2fast dataset convert`` and ``extract``: other layouts, and frames of videos as JPEG files."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sam2fast import __version__
from sam2fast.cli.command_files import OutputFolder
from sam2fast.cli.dataset_options import (
    LAYOUTS,
    MASKLETS,
    jobs_option,
    layout_option,
    open_source,
    rate_option,
    select_source_videos,
    source_argument,
    video_option,
)
from sam2fast.cli.jobs import work_through
from sam2fast.cli.left_out import LeftOut
from sam2fast.cli.options import PATH
from sam2fast.cli.reporting import emit, output_options, progress_bar, say
from sam2fast.cli.user_errors import ErrorReport, format_error

if TYPE_CHECKING:
    from sam2fast.datasets.conversion import ConvertJob, ExtractJob


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
    from sam2fast.datasets.layout import Settings
    from sam2fast.datasets.layout_registry import open_layout

    options = {"to": to, "masklets": masklets, "rate": rate, "images": images, "overlaps": overlaps}
    run = {"version": __version__, "options": options}
    folder = OutputFolder(target / ".convert.json", run, overwrite, "choose another folder, or --overwrite")
    output = open_layout(target, to, Settings(masklets, rate, overlaps))
    problems, count, frames, objects, bare = ErrorReport("videos"), 0, 0, 0, 0
    jobs = {name: ConvertJob(data, output, name, images, check) for name in names}
    results, done_before = _run(convert_video, jobs, folder, problems, processes, overwrite)
    for video, done in results.items():
        count, frames, objects = count + 1, frames + done.frames, objects + done.objects
        bare += not done.has_images
        if done.lost:
            lost = ", ".join(map(str, sorted({number for numbers in done.lost.values() for number in numbers})))
            of_frames = f"{len(done.lost)} frames from {next(iter(done.lost))} on"
            say(f"{video}: lost pixels where masks overlap, {of_frames}, objects {lost}")
    output.finish()
    emit({"out": str(target), "videos": count, "objects": objects, "frames": frames, "done_before": done_before})
    say(
        f"{count} videos with {objects} objects in {frames} annotated frames in {target}, layout {to}"
        + (f"; {done_before} videos were done before" if done_before else "")
        + (f"; of {bare} videos IN has no images" if bare and images != "none" else "")
    )
    problems.raise_if_any(len(names))


def _run(
    function: Callable[[Any, Any], Any],
    jobs: "Mapping[str, ConvertJob] | Mapping[str, ExtractJob]",
    folder: OutputFolder,
    problems: ErrorReport,
    processes: int | None,
    overwrite: bool = False,
) -> tuple[dict[str, Any], int]:
    """Runs the jobs of videos that are not done. Returns the results, and the number of videos that were done."""
    from sam2fast.datasets.conversion import no_model
    from sam2fast.datasets.dataset_files import DatasetError
    from sam2fast.deploy.parallel.runners import in_this_process, on_devices

    made_from = {}
    for name, job in jobs.items():
        try:
            made_from[name] = {**folder.made_from, **job.made_from()}
        except (DatasetError, OSError) as error:
            problems.add(job.video, format_error(error))
    exist = [name for name in made_from if jobs[name].is_done(folder.counts.get(name))]
    there, replaced = ([], exist) if overwrite else (exist, [])
    # Until they are replaced, nothing says what they were made from: the run may be interrupted.
    folder.begin({**made_from, **dict.fromkeys(replaced)}, there)
    left = [jobs[name] for name in made_from if name not in there]
    count = min(processes or os.cpu_count() or 1, len(left))
    runner = in_this_process("cpu") if count < 2 else on_devices(["cpu"] * count, threads=1)
    with progress_bar("videos", len(left), "videos") as bar:
        results = work_through(function, left, runner, no_model, problems, bar, lambda job: job.video)
        found = {str(job.video): value for job, value in results}
    failed = {subject for subject, _ in problems.found}
    done = {name: made for name, made in made_from.items() if str(jobs[name].video) not in failed}
    folder.write(videos=done, files={name: len(jobs[name].files) for name in done})
    return found, len(there)


@click.command()
@click.option(
    "--videos",
    "--sav-vid-dir",
    "videos",
    required=True,
    metavar="DIR",
    type=PATH,
    help="Folder of video files, or of folders with such files.",
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
    from sam2fast.video_io.video_types import require_pyav

    files, hidden = list_videos(videos)
    require_pyav()
    problems, left_out = ErrorReport("videos"), LeftOut()
    for file in hidden:
        left_out.add("file", "it is hidden", file)
    jobs = dict[str, ExtractJob]()
    for file in files:
        job = ExtractJob(file, out, rate, quality)
        if jobs.setdefault(job.name, job) is not job:
            problems.add(file, f"{file} has the name of {jobs[job.name].video}, their frames would be in one folder")
    folder = OutputFolder(
        out / ".extract.json", {"version": __version__, "options": {"rate": rate, "quality": quality}}
    )
    results, done_before = _run(extract_frames, jobs, folder, problems, processes)
    count, frames = len(results), sum(results.values())
    emit({"out": str(out), "videos": count, "frames": frames, "done_before": done_before})
    say(
        f"{frames} frames of {count} videos in {out}"
        + (f"; {done_before} videos were done before" if done_before else "")
    )
    left_out.report()
    problems.raise_if_any(len(files))

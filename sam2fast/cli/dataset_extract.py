"""``sam2fast dataset extract``: frames of films as JPEG files."""

from pathlib import Path

import click

from sam2fast.cli.dataset_run import done_jobs, jobs_option, open_output
from sam2fast.cli.errors import one_line
from sam2fast.cli.problems import Problems

RECORD = ".extract.json"


@click.command()
@click.option(
    "--videos",
    "--sav-vid-dir",
    "videos",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder of .mp4 files, or of folders with such files.",
)
@click.option(
    "--out",
    "--output-dir",
    "out",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="For the frames: DIR/FILM/00000.jpg, 00004.jpg and so on.",
)
@click.option(
    "--rate",
    "--sav-frame-sample-rate",
    "rate",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="Take every RATEth frame. 4 are SA-V's annotated ones.",
)
@click.option("--quality", type=click.IntRange(1, 100), default=95, show_default=True, help="Of the JPEG files.")
@jobs_option("--n-jobs")
def extract(videos: Path, out: Path, rate: int, quality: int, processes: int | None) -> None:
    """Extract frames of films at a rate, several films at once.

    A film's folder appears when all its frames are there. What is there already is not done again, so that an
    interrupted run can be repeated. Films that cannot be read to their end are named at the end, and have no folder.
    """
    from sam2fast.datasets.conversion import ExtractJob, extract_frames, list_films
    from sam2fast.datasets.errors import DatasetError
    from sam2fast.video_io.errors import require_pyav

    with one_line(DatasetError):
        films = list_films(videos)
    with one_line(ImportError):
        require_pyav()
    open_output(out, RECORD, {"rate": rate, "quality": quality})
    problems = Problems("films")
    jobs: dict[str, ExtractJob] = {}
    for film in films:
        job = ExtractJob(film, out, rate, quality)
        if job.name in jobs:
            problems.add(film, f"{film} has the name of {jobs[job.name].film}, their frames would be in one folder")
        else:
            jobs[job.name] = job
    waiting = [job for job in jobs.values() if not job.is_done()]
    count = frames = 0
    for result in done_jobs(extract_frames, waiting, processes, "films", problems, lambda job: str(job.film)):
        count, frames = count + 1, frames + result.value
    there = len(jobs) - len(waiting)
    click.echo(f"{frames} frames of {count} films in {out}" + (f"; {there} films were there already" if there else ""))
    problems.raise_if_any(len(films))

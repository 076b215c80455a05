"""One run of ``sam2fast vos``: what is to be done, where, and what is said about it."""

import json
import time
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
from tqdm import tqdm

from sam2fast import __version__
from sam2fast.cli.devices import add_seconds, chosen_devices
from sam2fast.cli.errors import UserError, one_line
from sam2fast.cli.files import make_folder
from sam2fast.cli.model_choice import ModelChoice
from sam2fast.cli.problems import Problems
from sam2fast.cli.runner_options import Cluster, chosen_place
from sam2fast.datasets.errors import DatasetError
from sam2fast.deploy.parallel.process import WorkerError
from sam2fast.deploy.parallel.runners import Runner, in_this_process, on_devices
from sam2fast.evaluation.vos.folders import is_done, is_other, remove_leftovers, told
from sam2fast.evaluation.vos.job import VosDone, VosJob, VosSettings
from sam2fast.evaluation.vos.listing import find_video, inputs_of, listed_names, video_names
from sam2fast.evaluation.vos.run import build_for_vos, run_vos
from sam2fast.video_io import VideoError


class Request(NamedTuple):
    """What was asked for."""

    videos: Path
    masks: Path
    out: Path
    list_file: Path | None
    settings: VosSettings
    overwrite: bool
    progress: bool


class Model(NamedTuple):
    """By what model."""

    choice: ModelChoice
    dtype: str
    postprocessing: bool
    vos_optimized: bool

    def facts(self) -> dict[str, Any]:
        """What tells it from another one.

        Raises:
            UserError: a file cannot be read.
        """
        with one_line(OSError):
            return {**self.choice.facts(), "dtype": self.dtype, "postprocessing": self.postprocessing}

    def builder(self, per_object: bool) -> partial[Any]:
        """Loads it, on a device that is yet to be said, and wherever the process is."""
        config = Path(self.choice.config)
        return partial(
            build_for_vos,
            str(config.absolute()) if config.is_file() else self.choice.config,
            self.choice.checkpoint.absolute(),
            per_object=per_object,
            postprocessing=self.postprocessing,
            vos_optimized=self.vos_optimized,
            dtype=self.dtype,
        )


class _Plan(NamedTuple):
    jobs: list[VosJob]
    names: list[str]  # of all videos
    done: int  # that need not be done again


def run(request: Request, model: Model, device: str, at_once: int, cluster: Cluster) -> None:
    """Does the videos that are not done yet.

    Raises:
        UserError: something that was given cannot be used, and nothing was done; or some videos could not be done.
    """
    problems = Problems("videos")
    plan = _plan(request, model.facts(), problems)
    make_folder(request.out)
    with one_line(OSError):
        # Also of videos that are done: a worker may have been lost over one that another did then.
        remove_leftovers(request.out, set(plan.names), bool(cluster))
    begun, totals, seconds = time.monotonic(), Counter[str](), dict[str, float]()
    if plan.jobs:
        if cluster:
            runner = chosen_place(cluster, device, len(plan.jobs), "videos").runner
        else:
            runner = runner_for(device, at_once, len(plan.jobs))
        build = model.builder(request.settings.per_object)
        results = _results(plan.jobs, runner, build, bool(cluster))
        total = sum(job.frames for job in plan.jobs)
        with (
            closing(results),
            tqdm(total=total, unit="frame", smoothing=0, disable=False if request.progress else None) as bar,
        ):
            for job, done in results:
                bar.update(job.frames)
                if done.problem is not None:
                    problems.add(f"video {job.name}", done.problem)
                else:
                    totals.update(videos=1, frames=done.frames, objects=done.objects)
                    add_seconds(seconds, done.seconds)
    _report(request.out, totals, time.monotonic() - begun, seconds, plan.done)
    problems.raise_if_any(len(plan.names))


def runner_for(device: str, at_once: int, count: int) -> Runner:
    """Where so many videos are done: here, or in processes of their own if several are done at a time.

    Raises:
        UserError: a device is none of this machine.
    """
    devices = chosen_devices(device, count, "videos")
    at_once = min(at_once, -(-count // len(devices)))
    if len(devices) == 1 and at_once == 1:
        return in_this_process(devices[0])
    with one_line(ValueError, RuntimeError):
        return on_devices(devices, at_once=at_once)


def _plan(request: Request, model: dict[str, Any], problems: Problems) -> _Plan:
    """The videos that are to be done; those whose inputs cannot be looked at are problems."""
    with one_line(OSError, UnicodeDecodeError, DatasetError):
        names = video_names(request.videos) if request.list_file is None else listed_names(request.list_file)
    if not names:
        if request.list_file is not None:
            raise UserError(f"no names in {request.list_file}; expected one on each line")
        raise UserError(f"no videos in {request.videos}; expected a folder of frames for each, or video files")
    jobs, others, done = [], [], 0
    for name in names:
        try:
            with one_line(ImportError):
                job = _job(request, model, name)
        except (OSError, VideoError) as error:
            problems.add(f"video {name}", told(error))
            continue
        if is_done(job.out / name, job.made_from):
            done += 1
            continue
        if is_other(job.out / name, job.made_from):
            others.append(name)
        jobs.append(job)
    if others and not request.overwrite:
        some = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise UserError(
            f"{request.out} has {len(others)} of these videos ({some}) made with other options, another model or other "
            "inputs, or by something else; give another --out folder, or --overwrite"
        )
    return _Plan(jobs, names, done)


def _job(request: Request, model: dict[str, Any], name: str) -> VosJob:
    # Absolute, for processes elsewhere.
    video, masks = find_video(request.videos.absolute(), name), request.masks.absolute() / name
    inputs = inputs_of(video, masks)
    made_from = {
        "settings": vars(request.settings),
        "model": model,
        "inputs": inputs.digest,
        "version": __version__,
    }
    text = json.dumps(made_from, indent=1) + "\n"
    out = request.out.absolute()
    return VosJob(name, video, masks, out, request.settings, inputs.frames, text, request.overwrite)


def _results(
    jobs: list[VosJob], runner: Runner, build: partial[Any], is_spread: bool
) -> Generator[tuple[VosJob, VosDone], None, None]:
    # Only what builds the model, and processes that are lost, can raise here; a video's failure is a result.
    with one_line(WorkerError, OSError, ValueError, RuntimeError, ImportError):
        yield from run_vos(jobs, runner, build, is_spread=is_spread)


def _report(out: Path, totals: Counter[str], took: float, seconds: dict[str, float], before: int) -> None:
    parts = ", ".join(f"{part} {value:.1f} s" for part, value in seconds.items())
    rate = f", {totals['frames'] / took:.1f} frames/s ({parts})" if totals["frames"] else ""
    skipped = f"; {before} videos were done before" if before else ""
    counts = ", ".join(f"{totals[thing]} {thing}" for thing in ("videos", "frames", "objects"))
    click.echo(f"{counts} in {took:.1f} s{rate}{skipped}")
    click.echo(f"written to {click.format_filename(out)}")

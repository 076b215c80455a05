"""One run of ``sam2fast vos``: plans the videos, tracks them, and reports."""

import os
import time
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click

from sam2fast.cli.command_files import make_folder
from sam2fast.cli.left_out import LeftOut
from sam2fast.cli.model_choice import ModelChoice
from sam2fast.cli.reporting import emit, progress_bar, say
from sam2fast.cli.runner_options import RayOptions, add_seconds, choose_runner
from sam2fast.cli.sources import add_other_files
from sam2fast.cli.user_errors import ErrorReport, UserError, as_user_error, print_note
from sam2fast.datasets.dataset_files import DatasetError, list_entries
from sam2fast.deploy.parallel.runners import Runner
from sam2fast.evaluation.scores import VOID
from sam2fast.evaluation.vos.inference import VosDone, VosJob, VosSettings, build_for_vos, run_vos
from sam2fast.evaluation.vos.listing import inputs_of, is_video_file, listed_names, videos_in
from sam2fast.evaluation.vos.outputs import conflicts, format_error, is_done
from sam2fast.io.atomic import remove_leftovers
from sam2fast.io.images import SUFFIXES
from sam2fast.io.made_from import described_videos
from sam2fast.video_io import VideoError

# Type of item and reason, by the names of `count_left_out`.
REASONS = {
    "late_objects": ("object", "appears after the first frame; --late-objects tracks it"),
    "empty_objects": ("object", "no mask shows it"),
    "unreadable_masks": ("mask", "it cannot be read, and may show objects that appear later"),
    "masks_without_frame": ("mask", "no frame has its name"),
}


class VosRequest(NamedTuple):
    """The options of the data set and the output."""

    videos: Path
    masks: Path
    out: Path
    list_file: Path | None
    settings: VosSettings
    overwrite: bool


class VosModel(NamedTuple):
    """The options of the model."""

    choice: ModelChoice
    dtype: str
    postprocessing: bool
    vos_optimized: bool
    strategy: str = "sam2"

    def made_from(self, settings: VosSettings) -> dict[str, Any]:
        """Returns the part of the results' record that all videos share."""
        options = {"dtype": self.dtype, "postprocessing": self.postprocessing, "strategy": self.strategy}
        return self.choice.made_from(**options, **vars(settings))

    def builder(self, per_object: bool) -> partial[Any]:
        """Returns a picklable function that loads the model on a given device."""
        config = Path(self.choice.config)
        return partial(
            build_for_vos,
            str(config.absolute()) if config.is_file() else self.choice.config,
            self.choice.checkpoint.absolute(),
            per_object=per_object,
            postprocessing=self.postprocessing,
            vos_optimized=self.vos_optimized,
            dtype=self.dtype,
            strategy=self.strategy,
            image_size=self.choice.image_size,
        )


class _LeftOut(NamedTuple):
    """Inputs from which no object was tracked, and videos with 255 tracked beside other objects."""

    items: LeftOut
    with_void: list[str]

    def add(self, done: VosDone) -> list[dict[str, Any]]:
        """Adds a video's counts. Returns them as JSON."""
        of_video = LeftOut()
        for name, count in done.left_out.items():
            of_video.add(*REASONS[name], f"video {done.name}", count)
        self.items.add_all(of_video)
        if done.void_tracked:
            self.with_void.append(done.name)
        return of_video.as_json()

    def report(self) -> None:
        if self.with_void:
            print_note(
                f"{VOID} was tracked as an object beside others in {len(self.with_void)} videos, such as "
                f"{self.with_void[0]}; if it marks void pixels, give --ignore-label {VOID}"
            )
        self.items.report()


class _Plan(NamedTuple):
    jobs: list[VosJob]
    names: list[str]  # names of all videos
    done: int  # finished by earlier runs


def run(request: VosRequest, model: VosModel, device: str, at_once: int, ray_options: RayOptions) -> None:
    """Tracks the videos that are not done yet. Raises UserError if some fail, or at once for invalid input."""
    problems, left_out = ErrorReport("videos"), _LeftOut(LeftOut(), [])
    plan = _plan(request, model.made_from(request.settings), problems, left_out.items)
    make_folder(request.out)
    # Also for finished videos: a lost worker may have left partial files of a video that another worker finished.
    remove_leftovers((request.out / name for name in plan.names), bool(ray_options))
    begun, totals, seconds = time.monotonic(), Counter[str](), dict[str, float]()
    if plan.jobs:
        runner = choose_runner(ray_options, device, len(plan.jobs), "videos", at_once).runner
        build = model.builder(request.settings.per_object)
        results = _results(plan.jobs, runner, build, bool(ray_options))
        total = sum(job.frames for job in plan.jobs)
        with closing(results), progress_bar("frames", total, "frames") as bar:
            for job, done in results:
                bar.update(job.frames)
                if done.problem is not None:
                    problems.add(f"video {job.name}", done.problem)
                else:
                    totals.update(videos=1, frames=done.frames, objects=done.objects)
                    facts = {"video": job.name, "frames": done.frames, "objects": done.objects}
                    facts = {**facts, "out": str(request.out / job.name), "left_out": left_out.add(done)}
                    emit({**facts, "model": model.choice.as_json()})
                    add_seconds(seconds, done.seconds)
    took, parts = time.monotonic() - begun, ", ".join(f"{part} {value:.1f} s" for part, value in seconds.items())
    rate = f", {totals['frames'] / took:.1f} frames/s ({parts})" if totals["frames"] else ""
    skipped = f"; {plan.done} videos were done before" if plan.done else ""
    counts = ", ".join(f"{totals[name]} {name}" for name in ("videos", "frames", "objects"))
    say(f"{counts} in {took:.1f} s{rate}{skipped}")
    say(f"written to {click.format_filename(request.out)}")
    left_out.report()
    problems.raise_if_any(len(plan.names))


def _plan(request: VosRequest, run: dict[str, Any], problems: ErrorReport, left_out: LeftOut) -> _Plan:
    """Returns the videos to track. Adds unreadable inputs to ``problems``."""
    found, ambiguous = videos_in(request.videos.absolute())  # absolute, for worker processes
    names = [*found, *ambiguous] if request.list_file is None else listed_names(request.list_file)
    if request.list_file is None:
        _add_unused(request, names, found, left_out)
    if not names:
        if request.list_file is not None:
            raise UserError(f"no names in {request.list_file}; expected one per line")
        raise UserError(f"no videos in {request.videos}; expected a folder of frames for each, or video files")
    jobs, others, done = [], dict[str, list[str]](), 0
    for name in names:
        if name not in found and is_video_file(name):  # lists may name files
            name = Path(name).stem
        try:
            if name in ambiguous:
                raise DatasetError(ambiguous[name])
            if name not in found:
                raise FileNotFoundError(
                    f"there is no folder {request.videos / name}, and no {name}.mp4 or other video file"
                )
            masks, out = request.masks.absolute() / name, request.out.absolute()
            inputs = inputs_of(found[name], masks)
            made_from = {**run, "video_path": os.path.realpath(found[name]), **inputs.digests}
            facts = request.settings, inputs.frames, made_from, request.overwrite
            job = VosJob(name, found[name], masks, out, *facts)
        except (OSError, VideoError, DatasetError) as error:
            problems.add(f"video {name}", format_error(error))
            continue
        if is_done(job.out / name, job.made_from):
            done += 1
            continue
        if other := conflicts(job.out / name, job.made_from):
            others[name] = other
        jobs.append(job)
    if others and not request.overwrite:
        raise UserError(f"{request.out} {described_videos(others)}; give another --out folder, or --overwrite")
    return _Plan(jobs, names, done)


def _add_unused(request: VosRequest, names: list[str], found: dict[str, Path], left_out: LeftOut) -> None:
    """Adds files that are no videos, hidden frames, files beside frames, and folders of masks without a video."""
    videos = {path.name for path in found.values()}
    for path in sorted(list_entries(request.videos)):
        if path.name not in videos and not (is_video_file(path.name) and path.stem in names):
            left_out.add("file", "it is no video", path)
        elif is_video_file(path.name) and path.stem in found and found[path.stem].name != path.name:
            left_out.add("file", "a folder of its name has the frames", path)
    for video in (path for path in found.values() if path.is_dir()):
        hidden = sorted(path for path in video.glob(".*") if path.suffix.lower() in SUFFIXES)
        if hidden:
            left_out.add("frame", "its file is hidden", hidden[0], len(hidden))
        add_other_files(video, left_out)
    for path in sorted(list_entries(request.masks)):
        if path.is_dir() and path.name not in names:
            left_out.add("mask folder", "no video has its name", path)


def _results(
    jobs: list[VosJob], runner: Runner, build: partial[Any], is_spread: bool
) -> Generator[tuple[VosJob, VosDone], None, None]:
    # Only the model's construction and lost processes raise; the failure of a video is a result.
    with as_user_error(OSError, ValueError, RuntimeError, ImportError):
        yield from run_vos(jobs, runner, build, is_spread=is_spread)

"""``sam2fast vos``: tracks the objects of a data set's videos from their first masks."""

import os
import time
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from sam2fast.cli.command import HomePath, command, option, shared
from sam2fast.cli.command_files import make_folder
from sam2fast.cli.left_out import LeftOut
from sam2fast.cli.model_choice import ModelChoice
from sam2fast.cli.options import ModelOptions, ignore_label_option, model_options, strategy_option
from sam2fast.cli.reporting import emit, output_options, progress_bar, say
from sam2fast.cli.runner_options import RayOptions, add_seconds, choose_runner, runner_options
from sam2fast.cli.sources import add_other_files
from sam2fast.cli.terminal import report_interrupt
from sam2fast.cli.user_errors import ErrorReport, UserError, as_user_error, print_note
from sam2fast.deploy.parallel.runners import Runner
from sam2fast.evaluation.vos.inference import VosDone, VosJob, VosSettings, build_for_vos, run_vos
from sam2fast.io.atomic import remove_leftovers
from sam2fast.io.image_names import name_key, similar_path
from sam2fast.io.images import SUFFIXES, is_video_file
from sam2fast.io.made_from import described_videos

T = TypeVar("T")
INPUT = {"required": True, "type": HomePath(exists=True, file_okay=False, path_type=Path), "metavar": "DIR"}
# Type and reason of left-out items, by key of `count_left_out`.
REASONS = {
    "late_objects": ("object", "appears after the first frame; --late-objects tracks it"),
    "empty_objects": ("object", "no mask shows it"),
    "unreadable_masks": ("mask", "it cannot be read, and may show objects that appear later"),
    "masks_without_frame": ("mask", "no frame has its name"),
}


class VosCommand:
    """Track the objects of a data set's videos from given masks, and write a PNG for every frame.

    Compatible with the official tools/vos_inference.py in options and files: DAVIS, MOSE, LVOS, YouTube-VOS, SA-V.

    \b
    Writes to the output folder
      VIDEO/FRAME.png         an image of object ids, of the video's size
      VIDEO/OBJECT/FRAME.png  with --per-object: 0 and 1, OBJECT as three digits

    A video's folder appears when all of its files are written. The same command continues an interrupted run. Failed
    videos and left-out inputs are listed at the end. Left-out inputs are masks without a frame or a video, objects that
    no mask shows, and without --late-objects the objects that appear after the first frame.
    """

    videos: Path = option(
        *("--videos", "--base_video_dir"),
        **INPUT,
        help="Folder with a folder of JPEG frames for each video, or with video files. Frames of VIDEO.mp4 have the "
        "names 00000, 00001, ...",
    )
    masks: Path = option(
        *("--masks", "--input_mask_dir"),
        **INPUT,
        help="VIDEO/FRAME.png, palette or grey images of object ids; with --per-object VIDEO/OBJECT/FRAME.png.",
    )
    out: Path = option(
        *("--out", "--output_mask_dir"),
        required=True,
        type=HomePath(file_okay=False, path_type=Path),
        metavar="DIR",
        help="Output folder, with the layout of --masks.",
    )
    list_file: Path | None = option(
        *("--list", "--video_list_file"),
        type=HomePath(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Names of videos, one per line.  [default: all in --videos]",
    )
    score_thresh: float = option(
        "--score-thresh", "--score_thresh", default=0.0, help="Pixels with a greater logit belong to the object."
    )
    all_masks: bool = option(
        "--all-masks", "--use_all_masks", help="Use all masks as prompts, not only the masks of the first frame."
    )
    per_object: bool = option(
        "--per-object", "--per_obj_png_file", help="Read and write one image per object, as in SA-V; masks may overlap."
    )
    late_objects: bool = option(
        *("--late-objects", "--track_object_appearing_later_in_video"),
        help="Track each object from the frame of its first mask; for LVOS and YouTube-VOS.",
    )
    ignored_labels: tuple[int, ...] = shared(
        ignore_label_option("Values of masks that are not objects; 255 for the void pixels of DAVIS and VOST.")
    )
    postprocessing: bool = option(
        "--postprocessing", "--apply_postprocessing", help="Postprocess masks (fill holes etc.), as `track` does."
    )
    vos_optimized: bool = option(
        "--use_vos_optimized_video_predictor",
        help="Use the official compiled predictor; not needed for speed.",
    )
    model: ModelOptions = shared(partial(model_options, many_devices=True))
    strategy: str = shared(strategy_option)
    ray_options: RayOptions = shared(runner_options)
    config: str | None = option("--sam2_cfg", metavar="NAME", help="The official name of --model.")
    weights: Path | None = option("--sam2_checkpoint", metavar="FILE", help="The official name of --checkpoint.")
    at_once: int = option(
        type=click.IntRange(1),
        default=1,
        help="Number of videos at a time on each device, each with a copy of the model: one video is tracked while "
        "other videos are decoded and written.",
    )
    overwrite: bool = option(help="Replace videos that were made with other options or by other programs.")

    def run(self) -> None:
        inputs = [Path(os.path.realpath(folder)) for folder in (self.videos, self.masks)]
        real = Path(os.path.realpath(self.out))
        if real in inputs or self.list_file is None and any(folder in real.parents for folder in inputs):
            raise click.UsageError(f"the results would lie among the inputs in {self.out}; choose another --out folder")
        if self.ray_options and self.at_once > 1:
            raise click.UsageError("--at-once is for devices of this machine; with --ray use --workers")
        masks = self.score_thresh, self.all_masks, self.per_object, self.late_objects, self.ignored_labels
        try:
            settings = VosSettings(*masks)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        name = _one_of(self.model.name, self.config, "--model", "--sam2_cfg")
        checkpoint = _one_of(self.model.checkpoint, self.weights, "--checkpoint", "--sam2_checkpoint")
        choice = self.model._replace(name=name, checkpoint=checkpoint).choose()
        with report_interrupt(click.get_current_context()):
            self._track(settings, choice)

    def _track(self, settings: VosSettings, choice: ModelChoice) -> None:
        """Tracks unfinished videos. Raises UserError at the end if some failed, or at once for invalid input."""
        from sam2fast.evaluation.scores import VOID

        problems, left_out, with_void = ErrorReport("videos"), LeftOut(), list[str]()
        notes = [] if self.overwrite else self.out.glob(".*.json")
        of_model: dict[str, Any] = {
            "dtype": self.model.with_dtype(notes, bool(self.ray_options)).dtype,
            "postprocessing": self.postprocessing,
            "strategy": self.strategy,
        }
        of_run = choice.made_from(**of_model, **vars(settings))
        jobs, names, done_before = self._plan(settings, of_run, problems, left_out)
        make_folder(self.out)
        # Includes finished videos: a lost worker may have left partial files of a video that another worker finished.
        remove_leftovers((self.out / name for name in names), bool(self.ray_options))
        begun, totals, seconds = time.monotonic(), Counter[str](), dict[str, float]()
        if jobs:
            device = self.model.device
            runner = choose_runner(self.ray_options, device, len(jobs), "videos", self.at_once, queue=False).runner
            config = Path(choice.config)
            build = partial(
                build_for_vos,
                str(config.absolute()) if config.is_file() else choice.config,
                choice.checkpoint.absolute(),
                per_object=self.per_object,
                vos_optimized=self.vos_optimized,
                image_size=choice.image_size,
                **of_model,
            )
            total = sum(job.frames for job in jobs)
            results = _results(jobs, runner, build, bool(self.ray_options))
            with closing(results), progress_bar("frames", total, "frames") as bar:
                for job, done in results:
                    bar.update(job.frames)
                    if done.problem is not None:
                        problems.add(f"video {job.name}", done.problem)
                        continue
                    totals.update(videos=1, frames=done.frames, objects=done.objects)
                    of_video = LeftOut()
                    for reason, count in done.left_out.items():
                        of_video.add(*REASONS[reason], f"video {job.name}", count)
                    left_out.add_all(of_video)
                    if done.void_tracked:
                        with_void.append(job.name)
                    facts = {"video": job.name, "frames": done.frames, "objects": done.objects}
                    facts = {**facts, "out": str(self.out / job.name), "left_out": of_video.as_json()}
                    emit({**facts, "model": choice.as_json()})
                    add_seconds(seconds, done.seconds)
        took, parts = time.monotonic() - begun, ", ".join(f"{part} {value:.1f} s" for part, value in seconds.items())
        rate = f", {totals['frames'] / took:.1f} frames/s ({parts})" if totals["frames"] else ""
        skipped = f"; {done_before} videos were done before" if done_before else ""
        counts = ", ".join(f"{totals[name]} {name}" for name in ("videos", "frames", "objects"))
        say(f"{counts} in {took:.1f} s{rate}{skipped}")
        say(f"written to {click.format_filename(self.out)}")
        if with_void:
            print_note(
                f"{VOID} was tracked as an object beside others in {len(with_void)} videos, such as {with_void[0]}; "
                f"if it marks void pixels, give --ignore-label {VOID}"
            )
        left_out.report()
        problems.raise_if_any(len(names))

    def _plan(
        self, settings: VosSettings, run: dict[str, Any], problems: ErrorReport, left_out: LeftOut
    ) -> tuple[list[VosJob], list[str], int]:
        """Returns the videos to track, the names of all videos, and the number of finished videos."""
        from sam2fast.datasets.dataset_files import DatasetError
        from sam2fast.evaluation.vos.listing import inputs_of, listed_names, videos_in
        from sam2fast.evaluation.vos.outputs import conflicts, format_error, is_done
        from sam2fast.video_io import VideoError

        paths, ambiguous = videos_in(self.videos.absolute())  # absolute paths, for worker processes
        names = [*paths, *ambiguous] if self.list_file is None else listed_names(self.list_file)
        known = {name_key(name): name for name in (*paths, *ambiguous)}
        names = [known.get(name_key(name), name) for name in names]
        if self.list_file is None:
            self._add_unused(names, paths, left_out)
        if not names:
            if self.list_file is not None:
                raise UserError(f"no names in {self.list_file}; expected one per line")
            raise UserError(f"no videos in {self.videos}; expected a folder of frames for each, or video files")
        jobs, others, done = [], dict[str, list[str]](), 0
        for name in names:
            if name not in paths and is_video_file(name):  # lists may contain names of video files
                name = Path(name).stem
            try:
                if name in ambiguous:
                    raise DatasetError(ambiguous[name])
                if name not in paths:
                    raise FileNotFoundError(
                        f"there is no folder {self.videos / name}, and no {name}.mp4 or other video file"
                    )
                masks, out = similar_path(self.masks.absolute(), name), self.out.absolute()
                inputs = inputs_of(paths[name], masks)
                made_from = {**run, "video_path": os.path.realpath(paths[name]), **inputs.digests}
                facts = settings, inputs.frames, made_from, self.overwrite
                job = VosJob(name, paths[name], masks, out, *facts)
            except (OSError, VideoError, DatasetError) as error:
                problems.add(f"video {name}", format_error(error))
                continue
            if is_done(job.out / name, job.made_from):
                done += 1
                continue
            if other := conflicts(job.out / name, job.made_from):
                others[name] = other
            jobs.append(job)
        if others and not self.overwrite:
            raise UserError(f"{self.out} {described_videos(others)}; give another --out folder, or --overwrite")
        return jobs, names, done

    def _add_unused(self, names: list[str], paths: dict[str, Path], left_out: LeftOut) -> None:
        """Counts files that are not videos, hidden frames, files beside frames, and mask folders without a video."""
        from sam2fast.datasets.dataset_files import list_entries

        videos = {path.name for path in paths.values()}
        for path in sorted(list_entries(self.videos)):
            if path.name not in videos and not (is_video_file(path.name) and path.stem in names):
                left_out.add("file", "it is not a video", path)
            elif is_video_file(path.name) and path.stem in paths and paths[path.stem].name != path.name:
                left_out.add("file", "a folder of its name has the frames", path)
        for video in (path for path in paths.values() if path.is_dir()):
            hidden = sorted(path for path in video.glob(".*") if path.suffix.lower() in SUFFIXES)
            if hidden:
                left_out.add("frame", "its file is hidden", hidden[0], len(hidden))
            add_other_files(video, left_out)
        keys = {name_key(name) for name in names}
        for path in sorted(list_entries(self.masks)):
            if path.is_dir() and name_key(path.name) not in keys:
                left_out.add("mask folder", "no video has its name", path)


vos = command(VosCommand, output_options(has_bar=True))


def _results(
    jobs: list[VosJob], runner: Runner, build: partial[Any], is_spread: bool
) -> Generator[tuple[VosJob, VosDone], None, None]:
    # Raises if the model cannot be built or all workers are lost. The failure of a video is a result.
    with as_user_error(OSError, ValueError, RuntimeError, ImportError):
        yield from run_vos(jobs, runner, build, is_spread=is_spread)


def _one_of(ours: T | None, theirs: T | None, name: str, official: str) -> T | None:
    """Returns the value of an option with two names."""
    if ours is not None and theirs is not None:
        raise click.UsageError(f"{name} and {official} are the same option; give one of them")
    return theirs if ours is None else ours

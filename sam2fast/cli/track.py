"""``sam2fast track``: tracks objects through a video."""

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import click

from sam2fast.cli.boxes import DetectionFile, read_detections
from sam2fast.cli.command import RareOption, argument, command, option, shared
from sam2fast.cli.command_files import EXPORT_FILES, check_results
from sam2fast.cli.left_out import LeftOut
from sam2fast.cli.options import (
    FormatsType,
    ModelOptions,
    check_exports,
    max_megapixels_option,
    model_options,
    out_option,
    strategy_option,
    tolerance_option,
)
from sam2fast.cli.prompt_texts import VIDEO_BOX, VIDEO_MASK, VIDEO_MASKS, VIDEO_POINT, WINDOW, read_prompt_file
from sam2fast.cli.prompts import Prompts, check_masks, merge_prompts, note_fractions
from sam2fast.cli.reporting import output_options
from sam2fast.cli.runner_options import names_several
from sam2fast.cli.sources import list_sources, videos_in
from sam2fast.cli.terminal import report_interrupt
from sam2fast.cli.track_jobs import TrackJob, track_one_by_one
from sam2fast.cli.track_request import TrackRequest, VideoSource
from sam2fast.cli.track_workers import build_loader, track_at_once
from sam2fast.cli.user_errors import UserError, as_user_error
from sam2fast.deploy.parallel.runners import on_devices
from sam2fast.results.formats import VOLUME_FILES, WITH_IMAGES
from sam2fast.tracking.approximations import Approximations

FORMATS = ("json", "png", "overlay", "coco", "mot", *EXPORT_FILES, *VOLUME_FILES)
DEFAULT_FORMATS = ("json", "overlay")
AXES = ("axial", "coronal", "sagittal")  # equal to sam2fast.video_io.volumes.DIRECTIONS


def read_approximations(_ctx: click.Context, _option: click.Parameter, names: Sequence[str]) -> Approximations:
    """Reads ``--approximate``."""
    try:
        return Approximations.of(names)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


class TrackCommand:
    """Track objects through each VIDEO, from clicks, boxes and masks on any of its frames.

    VIDEO is a file, a folder of images or of videos, a pattern such as 'clips/*.mp4', a URL (https://...), - for
    stdin, or with --stream camera:0 or rtsp://host/1. VIDEO may also be a CT or MR volume, a NIfTI file or a DICOM
    series: its slices are the frames. sam2fast is not a medical device. Frames count from 0, coordinates are pixels of
    the video. Tracking begins with the first prompted frame. All prompts apply to every VIDEO.

    \b
    Writes to the output folder, or to a subfolder for each of several videos
      masks.jsonl  a line for each frame: masks, boxes and scores of all objects
      track.json   the request and the progress of the run
      overlay.mp4  the masks in colour on the video
    and the files of --format (docs/formats.md).

    Ctrl-C keeps all results. The same command continues an interrupted run, and writes missing formats (docs/video.md).
    """

    videos: Sequence[str] = argument(nargs=-1, required=True, metavar="VIDEO...")
    points: Sequence[Prompts] = option(
        "--point",
        multiple=True,
        type=VIDEO_POINT,
        help="A click on a frame; OBJ is a number or a name, LABEL 0 marks background. Repeatable.",
    )
    boxes: Sequence[Prompts] = option(
        "--box", multiple=True, type=VIDEO_BOX, help="A box around an object. Repeatable."
    )
    masks: Sequence[Prompts] = option(
        "--mask",
        multiple=True,
        type=VIDEO_MASK,
        help="An object's mask: an image of the video's size, bright or opaque where the object is, or a label of a "
        "palette or grey image. Repeatable.",
    )
    label_images: Sequence[Sequence[Prompts]] = option(
        "--masks",
        multiple=True,
        type=VIDEO_MASKS,
        help="The masks of several objects: a palette or grey image of the video's size. Pixel values are the objects' "
        "numbers; 0 is background. Repeatable.",
    )
    prompt_files: Sequence[Path] = option(
        "--prompts",
        metavar="FILE",
        help='Prompts as JSON: {"prompts": [{"frame": 0, "object": 1, "points": [[X, Y]], "labels": [1], '
        '"box": [X0, Y0, X1, Y1]}, {"frame": 9, "object": "dog", "mask": "dog.png"}]}. Repeatable.',
    )
    boxes_file: Path | None = option(
        "--boxes-from",
        metavar="PATH",
        help="Instead of prompts: a detector's boxes on frames of the video, as COCO's JSON, MOT Challenge's text, or "
        "a folder of YOLO's text files.",
    )
    every: int | None = option(
        cls=RareOption, type=click.IntRange(1), help="Use the boxes of every N-th tracked frame.  [default: 1]"
    )
    max_unseen: int | None = option(
        cls=RareOption, type=click.IntRange(1), help="Remove an object that has had no box for N frames.  [default: 30]"
    )
    start_score: float | None = option(
        cls=RareOption, metavar="SCORE", help="Boxes with lower scores start no object.  [default: 0.5]"
    )
    model: ModelOptions = shared(model_options)
    reverse: bool = option(help="Also track backwards, from the first prompted frame to --start.")
    start: int = option(type=click.IntRange(0), metavar="FRAME", default=0, help="The first frame to track.")
    end: int | None = option(
        type=click.IntRange(0), metavar="FRAME", help="The last frame to track.  [default: the video's]"
    )
    step: int = option(
        type=click.IntRange(1),
        metavar="N",
        default=1,
        help="Track only every N-th frame, counted from the first prompt.",
    )
    stream: bool = option(help="Read the video once, in order, in constant memory; required for cameras and URLs.")
    max_frames: int | None = option(
        cls=RareOption, type=click.IntRange(1), help="With --stream: stop after this many frames."
    )
    axis: str | None = option(
        cls=RareOption, type=click.Choice(AXES), help="For volumes: the direction of the slices.  [default: axial]"
    )
    window: tuple[float, float] | None = option(
        cls=RareOption,
        type=WINDOW,
        help="For volumes: the values that become black and white.  [default: the first that DICOM states, else the "
        "percentiles 0.5 and 99.5]",
    )
    tone_map: bool = option(
        cls=RareOption, help="For HDR videos (PQ or HLG): map colours to standard dynamic range; needs PyAV 16."
    )
    formats: tuple[str, ...] = option(
        "--format",
        type=FormatsType(FORMATS),
        metavar=",".join(FORMATS),
        default=",".join(DEFAULT_FORMATS),
        help="Formats to write, separated by commas (docs/formats.md).",
    )
    tolerance: float = shared(tolerance_option)
    approximations: Approximations = option(
        "--approximate",
        cls=RareOption,
        multiple=True,
        metavar="NAME[=VALUE]",
        callback=read_approximations,
        help="Trade accuracy for speed: memory_slots=N, still_frames=DIFFERENCE, "
        "fp8_attention[=emulated]. docs/approximations.md shows how much masks change. Repeatable.",
    )
    strategy: str = shared(strategy_option)
    show_ids: bool = option(cls=RareOption, help="Write ids beside the objects in the overlay.")
    at_once: int = option(
        type=click.IntRange(1),
        default=1,
        metavar="N",
        help="Track N videos at a time on the device, each in a process with its own copy of the model.",
    )
    overwrite: bool = option(help="Replace the results of another run in the output folder.")
    out: Path = shared(max_megapixels_option, out_option("out/track"))

    def run(self) -> None:
        if names_several(self.model.device):
            raise click.UsageError(
                f"--device {self.model.device}: track takes one device. To spread several videos over devices, use "
                "`sam2fast vos` or sam2fast.deploy.parallel.track_videos"
            )
        files = [*self.label_images, *(read_prompt_file(file, "frame") for file in self.prompt_files)]
        note_fractions((*self.points, *self.boxes), "the points and boxes")
        parts = [*self.points, *self.boxes, *self.masks, *chain.from_iterable(files)]
        settings = {"every": self.every, "max_unseen": self.max_unseen, "start_score": self.start_score}
        box_settings = {name: value for name, value in settings.items() if value is not None}
        if self.boxes_file is None:
            prompts = merge_prompts(parts, not self.stream)
            for name in box_settings:
                raise click.UsageError(f"--{name.replace('_', '-')} needs --boxes-from")
        elif parts:
            raise click.UsageError("--boxes-from replaces prompts; leave out the prompts")
        else:
            prompts = []
        left_out = LeftOut()
        sources, problems = list_sources(self.videos, functools.partial(videos_in, left_out=left_out), "videos")
        total = len(sources) + len(problems.found)
        if not sources:
            problems.raise_if_any(total)
        folders = {source: self.out / source.stem if total > 1 else self.out for source in sources}
        options = {one.name: getattr(self, one.name) for one in fields(TrackRequest) if one.name in vars(self)}
        requests = {}
        for source in sources:
            video = VideoSource.of(source, self.stream)._replace(
                axis=self.axis, window=self.window, tone_map=self.tone_map
            )
            request = TrackRequest(video, prompts, **options)
            if self.boxes_file is not None:
                request = self._with_boxes(request, len(sources), box_settings, left_out)
            requests[source] = request
            _check(request)
            video.check_out(folders[source])
        check_results(sources, lambda source: [folders[source]])
        choice = self.model.choose()
        with report_interrupt(click.get_current_context()):
            from sam2fast.cli.track_folder import MANIFEST
            from sam2fast.cli.track_run import load_predictor

            manifests = [] if self.overwrite else (folder / MANIFEST for folder in folders.values())
            model = self.model.with_dtype(manifests)
            jobs = [TrackJob(source, requests[source], choice, folders[source], self.overwrite) for source in sources]
            processes = min(self.at_once, len(jobs))
            if processes == 1:
                load = functools.partial(load_predictor, choice, model.device, model.dtype)
                code = track_one_by_one(jobs, load if total == 1 else functools.cache(load), problems)
            else:
                build = functools.partial(build_loader, choice, model.dtype)
                with as_user_error(ValueError, RuntimeError):
                    runner = on_devices(model.device, at_once=processes, queue=False, retry=False)
                code = track_at_once(jobs, runner, build, problems)
            if code:
                click.get_current_context().exit(code)
        if self.boxes_file is None:  # with boxes, the note on the video includes these items
            left_out.report()
        problems.raise_if_any(total)

    def _with_boxes(
        self, request: TrackRequest, videos: int, settings: Mapping[str, Any], left_out: LeftOut
    ) -> TrackRequest:
        """Returns the request with the boxes of ``--boxes-from``, tracked as a stream in one pass over the video."""
        if videos > 1:
            raise click.UsageError(f"--boxes-from has the boxes of one video, but there are {videos} videos")
        if request.source.is_live:
            raise click.UsageError(
                f"--boxes-from has boxes of numbered frames, but {request.source.name} is live; call add_detections() "
                "of a stream from Python"
            )
        if find_spec("scipy") is None:
            raise UserError("--boxes-from needs scipy: pip install 'sam2fast[detections]'")
        names = [os.path.join(request.source.text, name) for name in request.frame_names]
        assert self.boxes_file is not None
        boxes = read_detections(self.boxes_file, names, left_out, Path(request.source.text).stem)
        return replace(request, stream=True, detections=DetectionFile(boxes, **settings, left_out=left_out))


track = command(TrackCommand, output_options(has_bar=True))


def _check(request: TrackRequest) -> None:
    """Checks for contradictory options and missing masks."""
    if request.source.is_live and not request.stream:
        raise click.UsageError(f"{request.source.name} can only be read once, in order; give --stream")
    if request.stream and request.reverse:
        once = "--stream" if request.detections is None else "--boxes-from"
        raise click.UsageError(f"--reverse needs the whole video, but {once} reads it once; give one of them")
    if request.reverse and request.strategy == "sam2long":
        raise click.UsageError(
            "--strategy sam2long decides about masks when a pass ends, but --reverse begins in the middle of a pass; "
            "give one of them, or call propagate_in_video twice from Python"
        )
    if request.max_frames is not None and not request.stream:
        raise click.UsageError("--max-frames needs --stream; to stop early without it, give --end")
    for prompt in request.prompts:
        if not request.is_tracked(prompt.frame):
            before = prompt.frame - (prompt.frame - request.offset) % request.step
            raise click.UsageError(
                f"{prompt}: --step {request.step} leaves this frame out, as the first prompt is on frame "
                f"{request.first}; give frame {before} or {before + request.step}, or another --step"
            )
    if request.end is not None and request.start > request.end:
        raise click.UsageError(f"--start {request.start} lies after --end {request.end}")
    images = [name for name in WITH_IMAGES if name in request.formats]
    if request.source.is_live and images:
        raise click.UsageError(
            f"--format {images[0]} reads the video's frames again, but {request.source.name} can only be read once; "
            "leave it out"
        )
    check_exports(request.formats, request.tolerance)
    check_masks(request.prompts)

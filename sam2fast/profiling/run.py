"""Profiles of an image or a video's frames: total time, timed parts, FLOPs and a trace."""

import math
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import sam2fast
from sam2fast import sam2_image_predictor
from sam2fast.io.atomic import atomic_path
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.modeling.standard import ignoring_global_hooks
from sam2fast.profiling.limits import Limits, measure_limits, wait
from sam2fast.profiling.parts import PartOf, PartRecorder, memory_parts, model_parts
from sam2fast.profiling.tree import Part, Profile
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.tracking import eager_runner, tracker
from sam2fast.transforms import ImageLike, to_pixels
from sam2fast.utils.devices import processor_name
from sam2fast.video_io import VideoError, open_frames
from sam2fast.video_io import frames as video_frames


class Work(NamedTuple):
    """What is profiled.

    Attributes:
        unit: the name of the root.
        prepared: opens the input; yields one function for each image or frame, and the parts.
        is_warm: each pass begins with frames that are not measured.
    """

    model: SAM2Base
    unit: str
    subject: dict[str, Any]
    prepared: Callable[[], AbstractContextManager[tuple[list[Callable[[], Any]], list[PartOf]]]]
    is_warm: bool = False


def profile_image(
    predictor: SAM2ImagePredictor,
    image: ImageLike,
    *,
    point_coords: Any = None,
    point_labels: Any = None,
    box: Any = None,
    objects: int = 1,
    runs: int = 3,
    trace: Path | None = None,
    limits: Limits | None = None,
) -> Profile:
    """Profiles setting an image and predicting masks for prompts on it.

    Args:
        predictor: unchanged afterwards, without an image.
        image: what ``set_image`` takes; a path is read and decoded in each run.
        point_coords, point_labels, box: as ``predict`` takes them.
        objects: without prompts, the number of clicks, one per object, that are spread over the image.
        runs: number of timed runs.
        trace: file for Chrome's or Perfetto's trace viewer, written by an additional run.
        limits: of the device; measured if left out.

    Raises:
        ImageError, FileNotFoundError, TypeError: the image cannot be used.
        ValueError: prompts, ``objects`` or ``runs`` are wrong, or the model is neither on a CPU nor on CUDA.
        OSError: the trace cannot be written.
    """
    height, width = to_pixels(image).shape[:2]
    if point_coords is None and box is None:
        if objects < 1:
            raise ValueError(f"objects is {objects}; expected 1 or more")
        point_coords = np.array(scattered_points(objects, height, width))[:, None]
        point_labels = np.ones((objects, 1), dtype=np.int64)
    # A batch has a dimension more than one prompt.
    batches = [np.shape(x)[0] for x, dims in ((point_coords, 3), (box, 2)) if x is not None and np.ndim(x) == dims]
    multimask = box is None and np.shape(point_coords)[-2] == 1
    model, transforms = predictor.model, predictor._transforms
    size = {"width": width, "height": height, "image_size": model.image_size}
    subject = {"kind": "image", **size, "objects": batches[0] if batches else 1}
    parts = [
        *model_parts(model),
        (sam2_image_predictor, "to_pixels", ("decode",)),
        (transforms, "from_pixels", ("preprocess",)),
        (transforms, "postprocess_to_bool", ("masks to image size",)),
        (transforms, "cleaned", ("hole filling",)),
        (sam2_image_predictor, "_to_numpy", ("results to the CPU",)),
    ]

    def segment() -> None:
        predictor.set_image(image)
        predictor.predict(point_coords, point_labels, box, multimask_output=multimask)

    @contextmanager
    def prepared() -> Iterator[tuple[list[Callable[[], Any]], list[PartOf]]]:
        try:
            yield [segment], parts
        finally:
            predictor.reset_predictor()

    return _profile(Work(model, "picture", subject, prepared), runs, trace, limits)


def profile_video(
    predictor: SAM2VideoPredictor,
    video: Any,
    *,
    prompts: Mapping[Any, Mapping[str, Any]] | None = None,
    objects: int = 1,
    frames: int = 5,
    runs: int = 1,
    trace: Path | None = None,
    limits: Limits | None = None,
) -> Profile:
    """Profiles the last of the frames over which objects are tracked from the first frame on.

    Args:
        predictor: unchanged afterwards.
        video: what ``init_state`` takes, and can be opened several times.
        prompts: ``points`` and ``labels``, ``box``, or both, of each object on the first frame, by its id.
        objects: without prompts, the number of clicks, one per object, that are spread over the first frame.
        frames: number of timed frames. As many as the memory holds are tracked before, or as many as there are.
        runs: number of times that the video is tracked.
        trace: file for Chrome's or Perfetto's trace viewer, written by an additional run.
        limits: of the device; measured if left out.

    Raises:
        FileNotFoundError, VideoError, TypeError: the video cannot be used, or has a single frame.
        ValueError: prompts, ``objects``, ``frames`` or ``runs`` are wrong, or the model is neither on a CPU nor on
            CUDA.
        OSError: the trace cannot be written.
    """
    if frames < 1 or objects < 1:
        raise ValueError(f"frames is {frames} and objects is {objects}; expected 1 or more")
    with closing(open_frames(video, predictor.image_size)) as opened:
        height, width, length = opened.height, opened.width, len(opened)
    if length < 2:
        raise VideoError("the video has a single frame, which is prompted and not tracked; expected two or more")
    if not prompts:
        points = scattered_points(objects, height, width)
        prompts = {i + 1: {"points": [point], "labels": [1]} for i, point in enumerate(points)}
    object_prompts, timed = prompts, min(frames, length - 1)
    before = min(length - 1 - timed, predictor.num_maskmem)
    size = {"width": width, "height": height, "image_size": predictor.image_size}
    subject = {"kind": "video", **size, "objects": len(object_prompts), "first_frame": before + 1, "frames": timed}

    @contextmanager
    def prepared() -> Iterator[tuple[list[Callable[[], Any]], list[PartOf]]]:
        state = predictor.init_state(video)
        with closing(state.frames):
            for obj_id, prompt in object_prompts.items():
                predictor.add_new_points_or_box(state, 0, obj_id, **prompt)
            answers = predictor.propagate_in_video(state, 0, before + timed, progress=False)
            for _ in range(1 + before):
                next(answers)
            parts = [
                *model_parts(predictor),
                *memory_parts(predictor),
                (state.frames, "pixels", ("decode",)),
                (video_frames, "resize_and_normalise", ("preprocess",)),
                (eager_runner, "gather_memory", ("memory tables",)),
                (state.bank, "write_memories", ("copies",)),
                (state.bank, "write_pointers", ("copies",)),
                (eager_runner, "encode_masks", ("memory encoding",)),
                (eager_runner, "fill_holes_in_mask_scores", ("hole filling",)),
                (tracker, "format_masks", ("masks to video size",)),
            ]
            yield [partial(next, answers)] * timed, parts

    return _profile(Work(predictor, "frame", subject, prepared, is_warm=before > 0), runs, trace, limits)


def scattered_points(count: int, height: int, width: int) -> list[tuple[float, float]]:
    """``count`` points (x, y) in pixels, on a grid over the image, away from its edges."""
    columns = math.ceil(math.sqrt(count * width / height))
    rows = math.ceil(count / columns)
    cells = ((c, r) for r in range(rows) for c in range(columns))
    points = [((c + 0.5) * width / columns, (r + 0.5) * height / rows) for c, r in cells]
    return points[:count]


def _profile(work: Work, runs: int, trace: Path | None, limits: Limits | None) -> Profile:
    """Runs all passes. Plain and profiled ones alternate, so that a slower machine affects both."""
    device = work.model.device
    if runs < 1:
        raise ValueError(f"runs is {runs}; expected 1 or more")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"parts can be timed on cpu and cuda, and the model is on {device}; build it on one of these")
    dtypes = sorted({p.dtype for p in work.model.parameters()}, key=str)
    root = Part(work.unit, dtype=str(dtypes[0]).removeprefix("torch."))
    plain: list[float] = []
    profiled: list[float] = []
    as_it_is: list[float] | None = None
    if isinstance(work.model, SAM2VideoPredictor):
        work.model.check_recordings()
        as_it_is = None if work.model._tracker.graphs is None else []
    if as_it_is is not None:
        _plain_pass(work, [])
        for _ in range(runs):
            _plain_pass(work, as_it_is)
    with _without_graphs(work.model):
        if not work.is_warm:
            _plain_pass(work, [])
        for _ in range(runs):
            _plain_pass(work, plain)
            _timed_pass(work, root, profiled)
        count = _counting_pass(work, root)
        if trace is not None:
            _trace(work, trace)
    for _, part in root.walk():
        part.calls, part.seconds, part.flops = (
            part.calls / len(profiled),
            part.seconds / len(profiled),
            part.flops / count,
        )
    subject, limits = {**work.subject, "runs": runs}, limits or measure_limits(device, dtypes)
    return Profile(subject, root, limits, profiled, plain, as_it_is, machine(device))


@contextmanager
def _without_graphs(model: SAM2Base) -> Iterator[None]:
    """Disables CUDA graphs, which are replayed without the calls of parts."""
    if not isinstance(model, SAM2VideoPredictor):
        yield
        return
    saved = {name: value for name, value in vars(model).items() if name == "fast"}
    model.fast = False
    try:
        yield
    finally:
        del model.fast
        vars(model).update(saved)


@contextmanager
def _timed(work: Work, seconds: list[float]) -> Iterator[None]:
    """Adds the seconds of the block, until the device has finished."""
    wait(work.model.device)
    start = time.perf_counter()
    yield
    wait(work.model.device)
    seconds.append(time.perf_counter() - start)


def _plain_pass(work: Work, seconds: list[float]) -> None:
    with work.prepared() as (units, _):
        for unit in units:
            with _timed(work, seconds):
                unit()


def _timed_pass(
    work: Work, root: Part, seconds: list[float], within: AbstractContextManager[Any] | None = None
) -> None:
    recorder = PartRecorder(root, work.model.device)
    with work.prepared() as (units, parts), recorder.recording(parts), within or nullcontext():
        for unit in units:
            with _timed(work, seconds), recorder.unit():
                unit()


def _trace(work: Work, file: Path) -> None:
    """Writes torch.profiler's trace of one image, or of the frames."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if work.model.device.type == "cuda" else []
    profiler = torch.profiler.profile(activities=activities)
    _timed_pass(work, Part(work.unit), [], within=profiler)
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, f"trace{''.join(file.suffixes[-2:])}")  # torch compresses files that end in .gz
        profiler.export_chrome_trace(str(written))
        with atomic_path(file) as partly:
            shutil.copyfile(written, partly)


def _counting_pass(work: Work, root: Part) -> int:
    """Adds the FLOPs of all units; returns their number."""
    trainable = [p for p in work.model.parameters() if p.requires_grad]
    for parameter in trainable:  # the counter hooks into autograd, which inference mode does not have
        parameter.requires_grad_(False)
    try:
        with work.prepared() as (units, parts), FlopCounterMode(display=False) as counter:
            recorder = PartRecorder(root, work.model.device, counter)
            with recorder.recording(parts), ignoring_global_hooks():  # the counter's
                for unit in units:
                    with recorder.unit():
                        unit()
            return len(units)
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def machine(device: torch.device) -> dict[str, Any]:
    """Processor, device, and versions."""
    found = {
        "sam2fast": sam2fast.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "device": str(device),
    }
    return found | ({"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {})

"""Profiles an image or frames of a video by three types of runs: plain, with torch.profiler, and counting FLOPs."""

import math
import platform
import shutil
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.autograd import DeviceType
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

import sam2fast.profiling.flops  # registers formulas
from sam2fast.engine import engine_for
from sam2fast.engine.graphs import why_eager
from sam2fast.io.atomic import atomic_path
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.profiling.limits import Limits, measure_limits, wait
from sam2fast.profiling.parts import Ranges, model_parts
from sam2fast.profiling.tree import Part, Profile
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.transforms import ImageLike, to_pixels
from sam2fast.utils.devices import processor_name
from sam2fast.video_io import VideoError, open_frames

# Function that returns a context manager. The context manager opens the input, and yields a function per image or
# frame.
Prepare = Callable[[], AbstractContextManager[list[Callable[[], Any]]]]
Time = tuple[str, bool, float]  # path of a range, True for time on the GPU, and seconds


def profile_image(
    predictor: SAM2ImagePredictor,
    image: ImageLike,
    *,
    objects: int = 1,
    runs: int = 3,
    trace: Path | None = None,
    limits: Limits | None = None,
) -> Profile:
    """Profiles ``set_image``, and ``predict`` for clicks on the image.

    Args:
        predictor: Predictor. After the profile, the predictor has no image, and is otherwise unchanged.
        image: Image for ``set_image``. If ``image`` is a path, each run reads and decodes the file.
        objects: Number of clicks, one per object, spread over the image.
        runs: Number of timed runs.
        trace: File for the trace of the last run, for Perfetto or Chrome, or None.
        limits: Limits of the device. If None, limits are measured.

    Raises:
        ImageError, FileNotFoundError, TypeError: If the image cannot be used.
        ValueError: If ``objects`` or ``runs`` is less than 1, or the model is on a device other than CPU and CUDA.
        OSError: If the trace cannot be written.
    """
    height, width = to_pixels(image).shape[:2]
    _check_counts(objects=objects, runs=runs)
    points, labels = np.array(scattered_points(objects, height, width))[:, None], np.ones((objects, 1), dtype=np.int64)

    def segment() -> None:
        predictor.set_image(image)
        predictor.predict(points, labels)

    @contextmanager
    def prepare() -> Iterator[list[Callable[[], Any]]]:
        try:
            yield [segment]
        finally:
            predictor.reset_predictor()

    subject = {"kind": "image", "width": width, "height": height, "objects": objects}
    return _profile(predictor, subject, prepare, runs, trace, limits)


def profile_video(
    predictor: SAM2VideoPredictor,
    video: Any,
    *,
    objects: int = 1,
    frames: int = 5,
    runs: int = 1,
    trace: Path | None = None,
    limits: Limits | None = None,
) -> Profile:
    """Profiles tracking of objects from the first frame on. Times only the last ``frames`` tracked frames.

    Args:
        predictor: Predictor. The predictor is not changed.
        video: Video for ``init_state``. The video is opened several times.
        objects: Number of clicks, one per object, spread over the first frame.
        frames: Number of timed frames. In long videos, earlier frames fill the memory before the timed frames.
        runs: Number of times that the video is tracked.
        trace: File for the trace of the last run, for Perfetto or Chrome, or None.
        limits: Limits of the device. If None, limits are measured.

    Raises:
        FileNotFoundError, VideoError, TypeError: If the video cannot be used, or has a single frame.
        ValueError: If ``objects``, ``frames`` or ``runs`` is less than 1, or the model is on a device other than CPU
            and CUDA.
        OSError: If the trace cannot be written.
    """
    _check_counts(objects=objects, frames=frames, runs=runs)
    with closing(open_frames(video, predictor.image_size)) as opened:
        height, width, length = opened.height, opened.width, len(opened)
    if length < 2:
        raise VideoError("the video has a single frame, which is prompted and not tracked; expected two or more frames")
    timed = min(frames, length - 1)
    before = min(length - 1 - timed, predictor.num_maskmem)

    @contextmanager
    def prepare() -> Iterator[list[Callable[[], Any]]]:
        state = predictor.init_state(video)
        with closing(state.frames):
            for obj_id, point in enumerate(scattered_points(objects, height, width), 1):
                predictor.add_new_points_or_box(state, 0, obj_id, points=[point], labels=[1])
            answers = predictor.propagate_in_video(state, 0, before + timed, progress=False)
            for _ in range(1 + before):
                next(answers)
            yield [partial(next, answers)] * timed

    subject = {"kind": "video", "width": width, "height": height, "objects": objects}
    return _profile(predictor, subject | {"first_frame": before + 1, "frames": timed}, prepare, runs, trace, limits)


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is {count}; expected 1 or more")


def scattered_points(count: int, height: int, width: int) -> list[tuple[float, float]]:
    """Returns ``count`` points (x, y) in pixels on a grid over the image, away from the image's edges."""
    columns = math.ceil(math.sqrt(count * width / height))
    rows = math.ceil(count / columns)
    cells = ((c, r) for r in range(rows) for c in range(columns))
    points = [((c + 0.5) * width / columns, (r + 0.5) * height / rows) for c, r in cells]
    return points[:count]


def _profile(
    predictor: SAM2ImagePredictor | SAM2VideoPredictor,
    subject: dict[str, Any],
    prepare: Prepare,
    runs: int,
    trace: Path | None,
    limits: Limits | None,
) -> Profile:
    """Runs all passes. Plain and profiled passes alternate, so that a temporarily slow machine affects both types."""
    model = predictor.model if isinstance(predictor, SAM2ImagePredictor) else predictor
    device, unit = model.device, "frame" if subject["kind"] == "video" else "image"
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"parts can be timed only on cpu and cuda, but the model is on {device}; move the model")
    plain: list[float] = []
    as_it_is: list[float] | None = None
    times: list[Time] = []
    with ExitStack() as stack:
        if _is_recorded(predictor):
            _plain_pass(prepare, device)
            as_it_is = [seconds for _ in range(runs) for seconds in _plain_pass(prepare, device)]
        stack.enter_context(patch.object(predictor, "fast", False))
        _plain_pass(prepare, device)  # warm-up
        for _ in range(runs):
            plain += _plain_pass(prepare, device)
            profiler = torch.profiler.profile()
            _pass_in_ranges(model, unit, prepare, profiler, Ranges())
            times += times_of(profiler, unit)
        flops = _count_flops(model, unit, prepare)
    if trace is not None:
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder, f"trace{''.join(trace.suffixes[-2:])}")  # torch compresses files that end in .gz
            profiler.export_chrome_trace(str(written))
            with atomic_path(trace) as partial_file:
                shutil.copyfile(written, partial_file)
    if device.type == "cuda" and not any(is_on_gpu for _, is_on_gpu, _ in times):
        warnings.warn("torch.profiler recorded nothing on the GPU; times of parts are of the CPU", stacklevel=3)
    dtypes = sorted({p.dtype for p in model.parameters()}, key=str)
    limits = limits or measure_limits(device, dtypes)
    root = Part(unit, flops_per_s=limits.flops_per_s[str(dtypes[0]).removeprefix("torch.")])
    add_parts(root, times, {path: runs * count for path, count in flops.items()}, len(plain))
    subject |= {"image_size": model.image_size, "runs": runs}
    return Profile(subject, root, limits, plain, as_it_is, machine(device))


@torch.no_grad()
def _is_recorded(predictor: SAM2ImagePredictor | SAM2VideoPredictor) -> bool:
    """Returns True if CUDA graphs compute images or frames. CUDA graphs have no parts."""
    if isinstance(predictor, SAM2ImagePredictor):
        model = predictor.model
        return why_eager(model.device, predictor.fast) is None and engine_for(model).parts().image
    predictor.check_recordings()
    return predictor._tracker.uses_recordings


def _plain_pass(prepare: Prepare, device: torch.device) -> list[float]:
    """Returns the seconds of each image or frame, including the wait for the device."""
    times = []
    with prepare() as units:
        for unit in units:
            wait(device)
            start = time.perf_counter()
            unit()
            wait(device)
            times.append(time.perf_counter() - start)
    return times


def _pass_in_ranges(
    model: SAM2Base, name: str, prepare: Prepare, within: AbstractContextManager[Any], ranges: Ranges
) -> None:
    """Runs each image or frame in a range named ``name``, inside the context manager ``within``."""
    with prepare() as units, ranges.around(model_parts(model)), within:
        for unit in units:
            with ranges.open(name):
                unit()
                wait(model.device)


def _count_flops(model: SAM2Base, name: str, prepare: Prepare) -> dict[str, int]:
    """Returns the FLOPs of each range, summed over all images or frames."""
    ranges = Ranges(counter := FlopCounterMode(display=False))
    # The counter's hooks on modules are disabled, since counts by module are not needed, and hooks would disable fused
    # code. Compiled functions run uncompiled, since a counter cannot see into a graph. If the compiler is not imported,
    # there are no compiled functions.
    stance = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    with patch.object(ModuleTracker, "__enter__"), patch.object(ModuleTracker, "__exit__"), stance:
        _pass_in_ranges(model, name, prepare, counter, ranges)
    return ranges.flops


def times_of(profiler: torch.profiler.profile, unit: str) -> list[Time]:
    """Returns the recorded ranges of a unit, outer ranges first. Frees events, which slow down garbage collection."""
    events = (event for event in profiler.events() or () if event.name.split("/")[0] == unit)
    return [(e.name, e.device_type != DeviceType.CPU, e.time_range.elapsed_us() / 1e6) for e in events]


def add_parts(root: Part, times: Sequence[Time], flops: Mapping[str, float], count: int) -> None:
    """Fills a tree with the ranges of ``count`` images or frames.

    On CUDA, seconds are times on the GPU, except that parts without kernels and the root have times on the CPU.
    """
    on_device: dict[str, float] = defaultdict(float)
    parts: dict[str, Part] = {root.name: root}
    for path, is_on_gpu, seconds in times:
        if is_on_gpu:
            on_device[path] += seconds
            continue
        if path not in parts:
            parent, _, name = path.rpartition("/")
            parts[path] = parts[parent].children[name] = Part(name, flops_per_s=root.flops_per_s)
        parts[path].calls += 1
        parts[path].seconds += seconds
    for path, part in parts.items():
        seconds = part.seconds if part is root else on_device.get(path, part.seconds)
        part.calls, part.seconds, part.flops = part.calls / count, seconds / count, flops.get(path, 0) / count


def machine(device: torch.device) -> dict[str, Any]:
    """Returns a description of processor, device, and versions."""
    facts = {
        "sam2fast": sam2fast.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "device": str(device),
    }
    return facts | ({"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {})

"""Times videos of a data set, from masks to PNGs, beside the original's way through them.

    python bench/vos.py --model nano --out bench/results
    python bench/vos.py --model t --image-size 512 --clips 2 --frames 12

Clips of the synthetic factory, as folders of JPEGs and palette PNGs; with ``late`` objects appear one after the other.
The ways are timed in turn, on the same weights, and their files compared before: pixels may differ at one place of a
thousand. ``official`` goes by the rules of ``tools/vos_inference.py`` with the official predictor; ``object by object``
goes by them with ours, so that it shows what one pass for all objects saves. ``--at-once`` times whole runs of
``sam2fast vos`` with so many videos at a time, without the start of the processes.
"""

import argparse
import contextlib
import functools
import io
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from file_contents import files_of
from reports import write_rows
from side_by_side import machine
from suite.subjects import Setting, video_predictor
from vos_sets import TheOriginal, save_picture

from sam2fast.datasets.davis import DavisFolder
from sam2fast.deploy.parallel.runners import in_this_process, on_devices
from sam2fast.evaluation.vos import VosJob, VosSettings, run_vos, track_job
from sam2fast.training.data.synthetic import SyntheticClips

SEED = 9_300
MARGIN = 1e-3  # share of pixels that may differ
MODES = ("first masks", "late")
Way = Callable[[VosJob], None]  # writes job.out / job.name


def data_set(root: Path, clips: int, frames: int, size: int, objects: int, late: bool) -> list[VosJob]:
    """Clips with exactly so many objects; if they are late, the n-th has masks from the n-th part of the clip on."""
    made = SyntheticClips(size, frames, objects, length=100 * clips, seed=SEED)
    jobs: list[VosJob] = []
    folder = DavisFolder(root / ("late" if late else "first"))
    for i in range(len(made)):
        clip = made.sample(i, np.random.default_rng([SEED, i]))
        if clip.masks.shape[1] != objects or len(jobs) == clips:
            continue
        masks = clip.masks.copy()
        for o in range(objects if late else 0):
            masks[: o * frames // objects, o] = False
        if not all(masks[:, o].any() for o in range(objects)):
            continue
        name = f"{len(jobs):03d}"
        folder.write(name, clip.frames, masks)
        video, given = folder.root / "JPEGImages" / name, folder.root / "Annotations" / name
        settings = VosSettings(late_objects=late)
        jobs.append(VosJob(name, video, given, root / "out", settings, frames))
    return jobs


def by_the_rules(predictor: Any, job: VosJob) -> None:
    """As the original does it, whoever's predictor it is."""
    original = TheOriginal(predictor, job.video, job.masks, 0.0, all_masks=False, per_object=False)
    with contextlib.redirect_stderr(io.StringIO()):  # bars
        for path, labels, colours in original.pictures(job.settings.late_objects):
            save_picture(job.out / job.name / path, labels, colours)


def by_track_job(predictor: Any, job: VosJob) -> None:
    done = track_job(predictor, job)
    if done.problem is not None:
        raise SystemExit(f"{job.name}: {done.problem}")


@contextlib.contextmanager
def ways(setting: Setting, late: bool) -> Iterator[dict[str, Way]]:
    pair = [video_predictor(name, setting) for name in ("official", "sam2fast")]
    for built in pair:
        built.predictor.non_overlap_masks, built.predictor.fill_hole_area = True, 0
    official, ours = (built.predictor for built in pair)
    found = {"official": functools.partial(by_the_rules, official)}
    if late:
        found["object by object"] = functools.partial(by_the_rules, ours)
    with pair[0].closing:
        yield found | {"sam2fast": functools.partial(by_track_job, ours)}


def compare(calls: dict[str, Way], job: VosJob) -> float:
    """The largest share of pixels of a picture in which a way differs from the first one; also the warm-up."""
    expected: dict[str, np.ndarray] | None = None
    worst = 0.0
    for name, call in calls.items():
        found = {path: np.array(Image.open(job.out / job.name / path)) for path in written(call, job)}
        if expected is None:
            expected = found
        elif found.keys() != expected.keys():
            raise SystemExit(f"{name} writes other files; not timed")
        worst = max(worst, *(float((found[path] != expected[path]).mean()) for path in found))
    if worst > MARGIN:
        raise SystemExit(f"pictures differ in {worst:.2%} of their pixels; not timed")
    return worst


def written(call: Way, job: VosJob) -> list[str]:
    shutil.rmtree(job.out, ignore_errors=True)
    call(job)
    return list(files_of(job.out / job.name))


def measure(setting: Setting, jobs: list[VosJob], runs: int) -> dict[str, Any]:
    with ways(setting, jobs[0].settings.late_objects) as calls:
        apart = max(compare(calls, job) for job in jobs)
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(runs):
            for name, call in calls.items():
                shutil.rmtree(jobs[0].out, ignore_errors=True)
                start = time.perf_counter()
                for job in jobs:
                    call(job)
                seconds[name].append(time.perf_counter() - start)
    frames = sum(job.frames for job in jobs)
    rates = {name: frames / statistics.median(values) for name, values in seconds.items()}
    return {"seconds": seconds, "frames_per_s": rates, "difference": apart}


def build(setting: Setting, device: str) -> Any:
    made = video_predictor("sam2fast", setting).predictor
    made.non_overlap_masks = True
    return made.to(device)


def measure_at_once(setting: Setting, jobs: list[VosJob], counts: list[int], runs: int) -> dict[str, Any]:
    """Frames per second of whole runs, from when each process has done its first video."""
    rates: dict[str, list[float]] = {str(count): [] for count in counts}
    for _ in range(runs):
        for count in counts:
            shutil.rmtree(jobs[0].out, ignore_errors=True)
            device = setting.device
            runner = in_this_process(device) if count == 1 else on_devices(device, at_once=count)
            arrived = list(arrivals(runner, jobs, functools.partial(build, setting)))
            (begun, _), (ended, _) = arrived[count - 1], arrived[-1]
            rates[str(count)].append(sum(frames for _, frames in arrived[count:]) / (ended - begun))
    return {"samples": rates, "frames_per_s": {name: statistics.median(values) for name, values in rates.items()}}


def arrivals(runner: Any, jobs: list[VosJob], builder: Any) -> Iterator[tuple[float, int]]:
    for job, done in run_vos(jobs, runner, builder):
        if done.problem is not None:
            raise SystemExit(f"{job.name}: {done.problem}")
        yield time.perf_counter(), done.frames


def report(row: dict[str, Any]) -> str:
    rates = ", ".join(f"{name} {rate:.2f}" for name, rate in row["frames_per_s"].items())
    return f"{row['model']} at {row['image_size']}, {row['objects']} objects, {row['mode']}: frames/s: {rates}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("nano", "t", "s", "b+", "l"), default="nano")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--video-size", type=int, default=480, help="side of the clips")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--objects", type=int, default=3)
    parser.add_argument("--at-once", type=int, action="append", help="also so many videos at a time; repeatable")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("fp32",), default="fp32", help="in which files can be compared")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    setting = Setting(arguments.model, arguments.dtype, arguments.image_size, arguments.device)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for row in measured(arguments, setting, Path(scratch)):
            print(report(row), flush=True)
            rows.append(row)
    if arguments.out:
        write(arguments.out, arguments.device, rows)


def measured(arguments: argparse.Namespace, setting: Setting, scratch: Path) -> Iterator[dict[str, Any]]:
    shape = (arguments.clips, arguments.frames, arguments.video_size, arguments.objects)
    names = ("clips", "frames", "video_size", "objects")
    about = {"model": arguments.model, "image_size": arguments.image_size, **dict(zip(names, shape, strict=True))}
    for mode in MODES:
        jobs = data_set(scratch, *shape, late=mode == "late")
        yield {**about, "mode": mode, **measure(setting, jobs, arguments.runs)}
    if arguments.at_once:
        counts = [1, *arguments.at_once]
        if arguments.clips <= max(counts):
            raise SystemExit(f"--at-once {max(counts)} needs more than {max(counts)} --clips")
        yield {**about, "mode": "at once", **measure_at_once(setting, jobs, counts, arguments.runs)}


def write(folder: Path, device: str, rows: list[dict[str, Any]]) -> None:
    """Rows of other models that the day's file has stay in it."""
    name = f"vos-{device.partition(':')[0]}"
    print(f"written to {write_rows(folder, name, rows, itemgetter('model'), machine=machine(device))}")


if __name__ == "__main__":
    main()

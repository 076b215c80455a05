"""How tracking many clips scales with the number of workers, as processes of this machine and on Ray.

    python examples/scaling.py --workers 1,2

The embedded model tracks synthetic clips, each worker with one thread; the masks of all runs are compared, and a run
whose masks differ gets no figure. Frames per second are counted from when all workers have begun to when the last clip
is done: at the start every worker waits in its first job until all are there. How long that takes is a figure of its
own. Then empty jobs are handed out, to see how many a second a driver can do.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sam2fast.deploy.parallel.runners import Runner, on_devices
from sam2fast.deploy.parallel.videos import TrackedVideo, VideoJob, VideoPrompt, track_video

SIZE = 256  # nano's own
OBJECTS = 2
PATIENCE = 120.0  # seconds until all workers have begun
EMPTY_JOBS = 2000


class Clip(NamedTuple):
    """A job, and where its worker waits for the others."""

    job: VideoJob
    begun: Path
    workers: int


class Tracked(NamedTuple):
    """A clip that is done, by the clock that all processes share."""

    masks: TrackedVideo
    begun: float
    ended: float


def track(predictor: Any, clip: Clip) -> Tracked:
    """Tracks a clip once all workers are there."""
    (clip.begun / str(os.getpid())).touch()
    deadline = time.monotonic() + PATIENCE
    while len(os.listdir(clip.begun)) < clip.workers:
        if time.monotonic() > deadline:
            raise TimeoutError(f"not all of {clip.workers} workers have begun after {PATIENCE:.0f} s")
        time.sleep(0.01)
    begun = time.time()
    return Tracked(track_video(predictor, clip.job), begun, time.time())


def nothing(predictor: Any, number: int) -> int:
    return number


def build_nothing(device: str) -> None:
    return None


def build(device: str) -> Any:
    from sam2fast.sam2_video_predictor import SAM2VideoPredictor

    return SAM2VideoPredictor.from_pretrained("sam2fast/nano", device=device)


def make_clips(folder: Path, count: int, frames: int) -> list[VideoJob]:
    """Clips as folders of images, with a mask of each object on the first frame."""
    from sam2fast.datasets.davis import DavisWriter
    from sam2fast.training.data.synthetic.clips import SyntheticClips

    made = SyntheticClips(SIZE, frames, OBJECTS)
    jobs = []
    for index in range(count):
        clip = made.sample(index, np.random.default_rng(index))
        DavisWriter(folder).write(str(index), clip.frames, clip.masks)
        prompts = [VideoPrompt(0, i + 1, mask=mask) for i, mask in enumerate(clip.masks[0])]
        jobs.append(VideoJob(str(folder / "JPEGImages" / str(index)), prompts))
    return jobs


def runners(workers: int) -> dict[str, Callable[[], Runner]]:
    """Each with one thread for each worker."""
    from sam2fast.deploy.ray import on_ray

    return {
        "processes": lambda: on_devices(["cpu"] * workers, threads=1),
        "ray": lambda: on_ray("local", workers=workers, gpus=0, cpus=1, threads=1),
    }


def run_clips(runner: Runner, jobs: list[VideoJob], workers: int) -> tuple[dict[str, float], list[TrackedVideo]]:
    """Seconds until all workers were there, seconds of work and frames per second; and the masks."""
    with tempfile.TemporaryDirectory() as folder:
        clips = [Clip(job, Path(folder), workers) for job in jobs]
        start = time.time()
        done: list[Tracked] = [result.unwrap() for result in runner(track, clips, build, ordered=True)]
        whole = time.time() - start
    begun, ended = min(clip.begun for clip in done), max(clip.ended for clip in done)
    frames = sum(len(clip.masks.frames) for clip in done)
    figures = {
        "seconds_to_begin": begun - start,
        "seconds": ended - begun,
        "seconds_whole": whole,
        "frames_per_second": frames / (ended - begun),
    }
    return figures, [clip.masks for clip in done]


def run_empty(runner: Runner, count: int) -> float:
    """Empty jobs per second, from the first result to the last."""
    results = runner(nothing, range(count), build_nothing)
    next(results)
    start = time.perf_counter()
    rest = sum(1 for _ in results)
    return rest / (time.perf_counter() - start)


def measure(arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    jobs = make_clips(folder, arguments.clips, arguments.frames)
    expected: list[TrackedVideo] | None = None
    samples: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(arguments.runs):
        for workers in arguments.workers:  # in turn, so that what else the machine does falls on all
            for name, make in runners(workers).items():
                figures, masks = run_clips(make(), jobs, workers)
                expected = expected or masks
                if masks != expected:
                    raise SystemExit(f"{name} with {workers} workers: other masks; no figures")
                samples.setdefault((name, workers), []).append(figures)
                print(f"{name}, {workers} workers: {figures['frames_per_second']:.2f} frames/s", flush=True)
    rows = []
    for (name, workers), taken in samples.items():
        rate = statistics.median(sample["frames_per_second"] for sample in taken)
        one = samples.get((name, 1))
        single = statistics.median(sample["frames_per_second"] for sample in one) if one else None
        row = {"op": "clips", "runner": name, "workers": workers, "frames_per_second": rate, "samples": taken}
        rows.append(row | {"efficiency": rate / (workers * single) if single else None})
        row_of_empty = {"op": "empty jobs", "runner": name, "workers": workers}
        rows.append(row_of_empty | {"jobs_per_second": run_empty(runners(workers)[name](), arguments.empty)})
    return rows


def report(row: dict[str, Any]) -> str:
    head = f"{row['runner']}, {row['workers']} workers: "
    if row["op"] == "empty jobs":
        return head + f"{row['jobs_per_second']:.0f} empty jobs/s"
    begin = statistics.median(sample["seconds_to_begin"] for sample in row["samples"])
    share = "" if row["efficiency"] is None else f", {row['efficiency']:.0%} of as many single ones"
    return head + f"{row['frames_per_second']:.2f} frames/s{share}; begun after {begin:.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="1,2", help="numbers of workers, separated by commas")
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--frames", type=int, default=16, help="of a clip")
    parser.add_argument("--runs", type=int, default=3, help="of each number of workers, in turn")
    parser.add_argument("--empty", type=int, default=EMPTY_JOBS, help="empty jobs for the driver's rate")
    parser.add_argument("--out", type=Path, help="a JSON file for the rows")
    arguments = parser.parse_args()
    arguments.workers = [int(number) for number in arguments.workers.split(",")]
    # Workers import this file by its name.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(arguments, Path(folder))
    for row in rows:
        print(report(row))
    if arguments.out:
        shape = {"model": "nano", "size": SIZE, "clips": arguments.clips, "frames": arguments.frames}
        arguments.out.write_text(json.dumps({"clip": shape, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    # Functions of __main__ cannot be sent to other processes by name.
    import scaling

    scaling.main()

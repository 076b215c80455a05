"""Times how video frames become the model's squares, beside the original's reader, decord, and beside torchcodec.

    python bench/video_loading.py FILM.mp4 ... --folder JPEGS --cores 1 --cores 2 --out bench/results

Every subject decodes all frames of a film in turn and resizes them to S x S; frames are compared with decord's before
anything is timed, and ours must be the same bits. ``--cores`` bounds the processors of a process of its own, and with
them FFmpeg's threads. Packages that are not installed are left out with a line that says so.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from reports import write_report
from side_by_side import machine
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import oracle  # noqa: F401  (makes the official package and torchvision, which torchcodec wants, importable)
from sam2.utils import misc as official

from sam2fast.compat import misc
from sam2fast.video_io import open_frames, read_frames

OPTIONAL = ("decord", "torchcodec")
YARDSTICK = "decord"
# The original's loader holds a film as floats three times over; where that is more than this, it is left out.
LOADER_LIMIT = 4 * 2**30

Reader = Callable[[Path, int], Iterator[Tensor]]  # squares (S, S, 3) uint8 of a film


def by_decord(film: Path, size: int) -> Iterator[Tensor]:
    """As the original reads a film."""
    import decord

    decord.bridge.set_bridge("torch")
    yield from decord.VideoReader(str(film), width=size, height=size)


def by_torchcodec(film: Path, size: int) -> Iterator[Tensor]:
    """Resized by the decoder itself."""
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    threads = len(os.sched_getaffinity(0))
    yield from VideoDecoder(
        str(film), dimension_order="NHWC", num_ffmpeg_threads=threads, transforms=[Resize((size, size))]
    )


def forwards(film: Path, size: int) -> Iterator[Tensor]:
    with read_frames(film, size) as reader:
        for frame in reader:
            yield frame.square


def at_random(film: Path, size: int) -> Iterator[Tensor]:
    frames = open_frames(film, size)
    yield from (frames.pixels(index) for index in range(len(frames)))
    frames.close()


def readers() -> dict[str, Reader]:
    """What is installed, the yardstick first."""
    others: dict[str, Reader] = {"decord": by_decord, "torchcodec": by_torchcodec}
    ours: dict[str, Reader] = {"read_frames": forwards, "open_frames": at_random}
    return {name: others[name] for name in OPTIONAL if importlib.util.find_spec(name)} | ours


def compare(subjects: dict[str, Reader], film: Path, size: int) -> dict[str, dict[str, float]]:
    """Largest and mean difference of each subject's frames from the yardstick's; ours must not differ."""
    if YARDSTICK not in subjects:
        return {}
    differences = {}
    for name, reader in subjects.items():
        if name == YARDSTICK:
            continue
        pairs = zip(reader(film, size), subjects[YARDSTICK](film, size), strict=True)
        largest, mean = zip(*(_difference(a, b) for a, b in pairs), strict=True)
        differences[name] = {"max": max(largest), "mean": statistics.mean(mean)}
    if any(differences[name]["max"] for name in ("read_frames", "open_frames")):
        raise SystemExit(f"{film.name} at {size}: our frames are not decord's; not timed: {differences}")
    return differences


def _difference(a: Tensor, b: Tensor) -> tuple[float, float]:
    apart = (a.int() - b.int()).abs()
    return float(apart.max()), float(apart.float().mean())


def time_in_turn(calls: dict[str, Callable[[], Any]], runs: int) -> dict[str, list[float]]:
    """Seconds of each call, the calls taking turns, after one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for run in range(runs + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if run:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def measure_film(film: Path, size: int, runs: int) -> Iterator[dict[str, Any]]:
    subjects = readers()
    differences = compare(subjects, film, size)
    frames = sum(1 for _ in forwards(film, size))
    calls = {name: lambda reader=reader: _exhaust(reader(film, size)) for name, reader in subjects.items()}
    facts = {"source": film.name, "frames": frames, "size": size}
    yield {**facts, "op": "squares", "difference": differences, **_medians(time_in_turn(calls, runs), frames)}
    if 3 * 12 * frames * size * size > LOADER_LIMIT or YARDSTICK not in subjects:
        print(f"{film.name} at {size}: the original's loader is left out", file=sys.stderr)
        return
    yield {**facts, **measure_loaders(str(film), size, frames, runs)}


def measure_folder(folder: Path, size: int, runs: int) -> dict[str, Any]:
    frames = len(open_frames(folder, size))
    return {
        "source": folder.name,
        "frames": frames,
        "size": size,
        **measure_loaders(str(folder), size, frames, runs),
    }


def measure_loaders(source: str, size: int, frames: int, runs: int) -> dict[str, Any]:
    """The whole call that gives a normalised tensor, the original's and ours."""
    calls = {
        "original": lambda: official.load_video_frames(source, size, offload_video_to_cpu=True),
        "sam2fast": lambda: misc.load_video_frames(source, size, offload_video_to_cpu=True),
    }
    apart = float((calls["original"]()[0] - calls["sam2fast"]()[0]).abs().max())
    if apart > 1e-5:
        raise SystemExit(f"{source} at {size}: the loaders differ by {apart:.1e}; not timed")
    return {"op": "load_video_frames", "difference": apart, **_medians(time_in_turn(calls, runs), frames)}


def _exhaust(frames: Iterable[Tensor]) -> None:
    for _ in frames:
        pass


def _medians(seconds: dict[str, list[float]], frames: int) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "ms_per_frame": {name: statistics.median(values) / frames * 1e3 for name, values in seconds.items()},
    }


def measure(arguments: argparse.Namespace, cores: int) -> Iterator[dict[str, Any]]:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    torch.set_num_threads(cores)
    for size in arguments.size:
        for film in arguments.films:
            yield from ({"cores": cores, **row} for row in measure_film(film, size, arguments.runs))
        for folder in arguments.folder:
            yield {"cores": cores, **measure_folder(folder, size, arguments.runs)}


def report(row: dict[str, Any]) -> str:
    times = ", ".join(f"{name} {ms:.2f}" for name, ms in row["ms_per_frame"].items())
    line = f"{row['source']} {row['op']} at {row['size']}, {row['cores']} cores: ms per frame: {times}"
    if isinstance(row["difference"], dict):
        apart = ", ".join(f"{name} {gap['max']:g}" for name, gap in row["difference"].items())
        line += f"; largest difference from decord: {apart}" if apart else ""
    return line


def versions() -> dict[str, str]:
    installed = [name for name in OPTIONAL if importlib.util.find_spec(name)]
    return {name: version(name) for name in ("av", "pillow", *installed)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("films", type=Path, nargs="*")
    parser.add_argument("--folder", type=Path, action="append", default=[], help="of JPEG files named by integers")
    parser.add_argument("--size", type=int, action="append", help="S; default 1024 and 256")
    parser.add_argument("--cores", type=int, action="append", help="default 1")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--note", default="", help="what else ran meanwhile, for the report")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.size = arguments.size or [1024, 256]
    if arguments.child:
        for row in measure(arguments, arguments.cores[0]):
            print(json.dumps(row), flush=True)
        return
    for name in OPTIONAL:
        if not importlib.util.find_spec(name):
            print(f"{name} is not installed and left out")
    rows = [row for cores in arguments.cores or [1] for row in in_own_process(cores)]
    if arguments.out:
        about = {"machine": machine() | versions(), "note": arguments.note}
        path = write_report(arguments.out, "video-loading-cpu", **about, rows=rows)
        print(f"written to {path}")


def in_own_process(cores: int) -> Iterator[dict[str, Any]]:
    """Rows measured in a process that keeps to so many processors."""
    passed = [word for word in sys.argv[1:]]
    while "--cores" in passed:
        del passed[passed.index("--cores") : passed.index("--cores") + 2]
    command = [sys.executable, __file__, *passed, "--child", "--cores", str(cores)]
    # The original's loader shows its progress.
    quiet = os.environ | {"TQDM_DISABLE": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=quiet) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                row = json.loads(line)
                print(report(row), flush=True)
                yield row
    if process.returncode:
        raise SystemExit(process.returncode)


if __name__ == "__main__":
    main()

"""Times the video predictor beside the official one, frame by frame in turn, in one process.

    python bench/video_side_by_side.py --out bench/results

Steady frames: seven memories are full, every object is tracked on every frame. Both run as their authors intend: fp32,
and bfloat16 under autocast (official) or with weights cast once (ours). fp32 logits are compared on every frame, and a
frame that differs stops the run. Then the peak memory of a long video, in processes of their own.
"""

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from parity import config_name
from side_by_side import machine
from video import build_video_pair, clip, float32_memory, jpeg_folder

from sam2fast.build_sam import build_sam2_video_predictor, cast_weights
from sam2fast.testing import relative_error

ALLOWED = 1e-4
WARM_UP = 8  # frames until seven memories are full
LONG_VIDEO, LONG_OBJECTS, LONG_SIZE = 300, 4, 256


def write_video(frames: int, folder: str) -> Path:
    return jpeg_folder(Path(folder), clip(frames, 540, 960))


def prompt(predictor: Any, state: Any, objects: int) -> None:
    for i in range(objects):
        predictor.add_new_points_or_box(state, 0, i, [[120 + 200 * i, 100 + 90 * i]], [1])


def frames_of(predictor: Any, video: Path, objects: int, autocast: bool) -> Iterator[tuple[float, torch.Tensor]]:
    """Seconds and logits of each tracked frame."""
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        state = predictor.init_state(str(video))
        prompt(predictor, state, objects)
        tracking = predictor.propagate_in_video(state)
        next(tracking)
    while True:
        # Entered for each frame: between them the other predictor computes.
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            answer = next(tracking, None)
        if answer is None:
            return
        yield time.perf_counter() - start, answer[2]


def steady(size: str, dtype: str, objects: int, runs: int, image_size: int) -> dict[str, Any]:
    """Seconds per steady frame of both predictors on the same video."""
    official, ours = build_video_pair(f"sam2.1_{size}", image_size=image_size)
    if dtype == "bf16":
        cast_weights(ours, torch.bfloat16)
    seconds: dict[str, list[float]] = {"official": [], "sam2fast": []}
    error = 0.0
    with tempfile.TemporaryDirectory() as folder, float32_memory():
        video = write_video(1 + WARM_UP + runs, folder)
        in_turn = zip(
            frames_of(official, video, objects, autocast=dtype == "bf16"),
            frames_of(ours, video, objects, autocast=False),
            strict=True,
        )
        for frame, ((official_s, expected), (ours_s, actual)) in enumerate(in_turn):
            error = max(error, relative_error(expected, actual))
            if dtype == "fp32" and not error <= ALLOWED:
                raise SystemExit(f"{size} {dtype}: logits differ by {error:.1e} on frame {frame + 1}; not timed")
            if frame >= WARM_UP:
                seconds["official"].append(official_s)
                seconds["sam2fast"].append(ours_s)
    ratios = [a / b for a, b in zip(seconds["official"], seconds["sam2fast"], strict=True)]
    return {
        "op": f"steady frame {image_size}x{image_size}",
        "size": size,
        "dtype": dtype,
        "objects": objects,
        "error": error,
        "seconds": seconds,
        "median_s": {name: statistics.median(values) for name, values in seconds.items()},
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
    }


def peaks(video: Path) -> dict[str, Any]:
    """Peak resident memory of tracking a long video, each predictor in a process of its own."""
    peak_mib = {}
    for name in ("official", "sam2fast"):
        command = [sys.executable, __file__, "--peak-of", name, "--video", str(video)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        peak_mib[name] = json.loads(done.stdout)
    return {
        "op": f"{LONG_VIDEO} frames {LONG_SIZE}x{LONG_SIZE}",
        "size": "t",
        "dtype": "fp32",
        "objects": LONG_OBJECTS,
        "mib": peak_mib,
    }


def print_peak(name: str, video: Path) -> None:
    """Resident memory before opening the video, and its peak while tracking; as JSON."""
    overrides = [f"++model.image_size={LONG_SIZE}"]
    if name == "official":
        from sam2.build_sam import build_sam2_video_predictor as build
    else:
        build = build_sam2_video_predictor
    predictor = build(config_name("sam2.1_t"), None, device="cpu", hydra_overrides_extra=overrides)
    before = memory_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of building
    state = predictor.init_state(str(video))
    prompt(predictor, state, LONG_OBJECTS)
    start = time.perf_counter()
    for _ in predictor.propagate_in_video(state):
        pass
    seconds = time.perf_counter() - start
    print(json.dumps({"before": before, "peak": memory_mib("VmHWM"), "seconds": seconds}))


def memory_mib(field: str) -> float:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field)) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="t", choices=["t", "s", "b+", "l"])
    parser.add_argument("--dtype", action="append", choices=["fp32", "bf16"])
    parser.add_argument("--objects", action="append", type=int)
    parser.add_argument("--runs", type=int, default=5, help="steady frames to time")
    parser.add_argument("--image-size", type=int, default=1024)
    parser.add_argument("--only", choices=["steady", "peak"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peak-of", choices=["official", "sam2fast"], help=argparse.SUPPRESS)
    parser.add_argument("--video", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak_of:
        print_peak(arguments.peak_of, arguments.video)
        return
    rows = []
    if arguments.only != "peak":
        for dtype in arguments.dtype or ["fp32", "bf16"]:
            for objects in arguments.objects or [1, 4]:
                row = steady(arguments.size, dtype, objects, arguments.runs, arguments.image_size)
                rows.append(row)
                medians, ratio = row["median_s"], row["ratio"]
                print(
                    f"{arguments.size} {dtype}, {objects} objects: official {medians['official']:.2f} s, "
                    f"sam2fast {medians['sam2fast']:.2f} s, "
                    f"{ratio['median']:.2f}x ({ratio['min']:.2f}-{ratio['max']:.2f})",
                    flush=True,
                )
    if arguments.only != "steady":
        with tempfile.TemporaryDirectory() as folder:
            rows.append(peaks(write_video(LONG_VIDEO, folder)))
        print(json.dumps(rows[-1]["mib"]))
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        today = datetime.date.today().isoformat()
        path = arguments.out / f"video-cpu-{today}.json"
        path.write_text(json.dumps({"date": today, "machine": machine(), "rows": rows}, indent=1) + "\n")
        print(f"written to {path}")


if __name__ == "__main__":
    main()

"""Times the image predictor beside the official one, in turn, in one process; peak memory in processes of their own.

    python bench/side_by_side.py --size t --size l --out bench/results

Writes one JSON file with every sample and one row of medians per case. Both run as their authors intend: fp32, and
bfloat16 under autocast (official) or with weights cast once (ours). Features are compared before anything is timed.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from parity import build_pair, config_name, picture

import sam2fast
from sam2fast import SAM2ImagePredictor, build_sam2
from sam2fast.testing import relative_error

DTYPES = ("fp32", "bf16")
# How far the features of the two may differ for a timing to count.
ALLOWED = {"fp32": 1e-4, "bf16": 1.0}


def predictors(size: str, dtype: str) -> dict[str, tuple[Any, Any]]:
    """Both predictors on the same tame weights, each with the context it computes in."""
    from sam2.sam2_image_predictor import SAM2ImagePredictor as OfficialPredictor

    official, ours = build_pair(f"sam2.1_{size}")
    if dtype == "bf16":
        ours = build_sam2(config_name(f"sam2.1_{size}"), None, device="cpu", dtype=torch.bfloat16)
        ours.load_state_dict(official.state_dict())
    return {
        "official": (OfficialPredictor(official), dtype == "bf16"),
        "sam2fast": (SAM2ImagePredictor(ours), False),
    }


def set_image(predictor: Any, autocast: bool) -> float:
    image = picture(1200, 1800)
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        predictor.set_image(image)
    return time.perf_counter() - start


def measure(size: str, dtype: str, runs: int) -> dict[str, Any]:
    pair = predictors(size, dtype)
    for predictor, autocast in pair.values():
        set_image(predictor, autocast)  # warm-up
    error = relative_error(*(predictor.get_image_embedding() for predictor, _ in pair.values()))
    if not error <= ALLOWED[dtype]:
        raise SystemExit(f"{size} {dtype}: embeddings differ by {error:.1e}; not timed")
    seconds: dict[str, list[float]] = {name: [] for name in pair}
    for _ in range(runs):
        for name, (predictor, autocast) in pair.items():
            seconds[name].append(set_image(predictor, autocast))
    ratios = [a / b for a, b in zip(seconds["official"], seconds["sam2fast"], strict=True)]
    return {
        "op": "set_image 1024x1024",
        "size": size,
        "dtype": dtype,
        "error": error,
        "seconds": seconds,
        "median_s": {name: statistics.median(values) for name, values in seconds.items()},
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "peak_mib": {name: peak_in_own_process(size, dtype, name) for name in pair},
    }


def peak_in_own_process(size: str, dtype: str, name: str) -> float:
    """Peak resident memory of a process that builds one model and sets one image, in MiB."""
    done = subprocess.run(
        [sys.executable, __file__, "--peak-of", name, "--size", size, "--dtype", dtype], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(done.stdout)


def print_peak(size: str, dtype: str, name: str) -> None:
    if name == "official":
        from sam2.build_sam import build_sam2 as official_build_sam2
        from sam2.sam2_image_predictor import SAM2ImagePredictor as OfficialPredictor

        predictor = OfficialPredictor(official_build_sam2(config_name(f"sam2.1_{size}"), None, device="cpu"))
    else:
        cast = torch.bfloat16 if dtype == "bf16" else None
        predictor = SAM2ImagePredictor(build_sam2(config_name(f"sam2.1_{size}"), None, device="cpu", dtype=cast))
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of building
    set_image(predictor, autocast=name == "official" and dtype == "bf16")
    status = Path("/proc/self/status").read_text()
    print(next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", action="append", choices=["t", "s", "b+", "l"])
    parser.add_argument("--dtype", action="append", choices=DTYPES)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peak-of", choices=["official", "sam2fast"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes, dtypes = arguments.size or ["t", "l"], arguments.dtype or list(DTYPES)
    if arguments.peak_of:
        print_peak(sizes[0], dtypes[0], arguments.peak_of)
        return
    rows = []
    for size in sizes:
        for dtype in dtypes:
            row = measure(size, dtype, arguments.runs)
            rows.append(row)
            medians, peaks = row["median_s"], row["peak_mib"]
            print(
                f"{size:>2} {dtype}: official {medians['official']:.2f} s {peaks['official']:.0f} MiB, "
                f"sam2fast {medians['sam2fast']:.2f} s {peaks['sam2fast']:.0f} MiB, "
                f"{row['ratio']['median']:.2f}x ({row['ratio']['min']:.2f}-{row['ratio']['max']:.2f})"
            )
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        today = datetime.date.today().isoformat()
        path = arguments.out / f"set-image-cpu-{today}.json"
        report = {"date": today, "machine": machine(), "rows": rows}
        path.write_text(json.dumps(report, indent=1) + "\n")
        print(f"written to {path}")


def machine() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu)
    return {
        "cpu": cpu,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "sam2fast": sam2fast.__version__,
    }


if __name__ == "__main__":
    main()

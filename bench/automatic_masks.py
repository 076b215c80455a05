"""Times automatic masks beside the official generator, in turn, in one process; peak memory in processes of their own.

    python bench/automatic_masks.py --images DIR --weights FILE --out bench/results

Each photograph is searched with the default grid. fp32 masks are compared, and a pair that differs stops the run,
unless rounding can have carried a mask across a threshold. bfloat16, under autocast (official) and with weights cast
once (ours), is set against the official fp32 masks: how many have a counterpart, and how well those agree. Beside the
times stands the decoder's floor: its FLOPs at the rate of a large matrix product, measured in the same run.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import measure_limits
from PIL import Image
from reports import write_report
from suite.machine import forget_peak, machine, peak_resident_mib
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import oracle  # noqa: F401  (makes the official package importable)
from mask_records import assert_same_mask, match, near_threshold

from sam2fast import build_sam2
from sam2fast.amg.decoder_batch_size import prompts_per_call
from sam2fast.automatic_mask_generator import SAM2AutomaticMaskGenerator

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
NAMES = ("official", "sam2fast")


def build(name: str, dtype: str, arguments: argparse.Namespace) -> Any:
    """One of the two generators with the given weights."""
    if name == "official":
        from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator as OfficialGenerator
        from sam2.build_sam import build_sam2 as official_build_sam2

        model = official_build_sam2(arguments.config, None, device="cpu")
        model.load_state_dict(torch.load(arguments.weights, weights_only=True)["model"], strict=False)
        return OfficialGenerator(model, points_per_side=arguments.points_per_side)
    cast = None if dtype == "fp32" else DTYPES[dtype]
    model = build_sam2(arguments.config, arguments.weights, device="cpu", dtype=cast)
    return SAM2AutomaticMaskGenerator(model, points_per_side=arguments.points_per_side)


def in_its_dtype(name: str, dtype: str, call: Callable[[], Any]) -> Any:
    with torch.autocast("cpu", torch.bfloat16, enabled=name == "official" and dtype == "bf16"):
        return call()


def read(path: Path) -> np.ndarray:
    return np.array(Image.open(path).convert("RGB"))


def timed(name: str, dtype: str, generator: Any, image: np.ndarray) -> tuple[float, float, list[dict[str, Any]]]:
    """Seconds of generating and of encoding alone, and the records."""
    start = time.perf_counter()
    in_its_dtype(name, dtype, lambda: generator.predictor.set_image(image))
    encoding = time.perf_counter() - start
    generator.predictor.reset_predictor()
    start = time.perf_counter()
    records = in_its_dtype(name, dtype, lambda: generator.generate(image))
    return time.perf_counter() - start, encoding, records


def measure(path: Path, dtype: str, arguments: argparse.Namespace, exact: dict[Path, Any]) -> dict[str, Any]:
    """One row: a photograph in one dtype. ``exact`` collects the official masks in fp32."""
    image = read(path)
    generators = {name: build(name, dtype, arguments) for name in NAMES}
    seconds: dict[str, list[float]] = {name: [] for name in NAMES}
    encoding: dict[str, list[float]] = {name: [] for name in NAMES}
    records = {}
    for name, generator in generators.items():
        in_its_dtype(name, dtype, lambda g=generator: g.predictor.set_image(image))  # a warm-up
    for _ in range(arguments.runs):
        for name, generator in generators.items():
            total, encoded, records[name] = timed(name, dtype, generator, image)
            seconds[name].append(total)
            encoding[name].append(encoded)
    if dtype == "fp32":
        exact[path] = records["official"]
    ratios = [a / b for a, b in zip(seconds["official"], seconds["sam2fast"], strict=True)]
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "op": f"generate, {arguments.points_per_side}x{arguments.points_per_side} points",
        "image": path.name,
        "pixels": list(image.shape[:2]),
        "dtype": dtype,
        "masks": {name: len(records[name]) for name in NAMES},
        "agreement": agreement(records, dtype, generators["official"], exact.get(path)),
        "seconds": seconds,
        "median_s": median,
        "encoding_s": {name: statistics.median(values) for name, values in encoding.items()},
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "decoder": floors(generators, dtype, image, arguments.points_per_side**2),
    }


def agreement(records: dict[str, Any], dtype: str, official: Any, exact: Any) -> dict[str, Any]:
    """Of fp32, that the masks are the same; of bfloat16, how far both are from the official fp32 masks."""
    if dtype != "fp32":
        return {} if exact is None else {name: against(exact, records[name]) for name in NAMES}
    matching = match(records["official"], records["sam2fast"])
    for i, j, _ in matching.pairs:
        assert_same_mask(records["official"][i], records["sam2fast"][j])
    thresholds = {
        name: getattr(official, name) for name in ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh")
    }
    crossed = []
    for unmatched, mine, other in ((matching.left, *NAMES), (matching.right, *NAMES[::-1])):
        for i in unmatched:
            threshold = near_threshold(records[mine][i], records[other], thresholds)
            if threshold is None:
                raise SystemExit(f"only {mine} has the mask at {records[mine][i]['point_coords']}; not timed")
            crossed.append([mine, threshold])
    return against(records["official"], records["sam2fast"]) | {"across a threshold": crossed}


def against(expected: list[dict[str, Any]], actual: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean IoU of masks that have a counterpart, and the share of all masks that have none."""
    matching = match(expected, actual)
    missing = len(matching.left) + len(matching.right)
    ious = [iou for _, _, iou in matching.pairs]
    return {
        "mean IoU": statistics.mean(ious) if ious else None,
        "least IoU": min(ious, default=None),
        "mismatched": missing / max(1, missing + 2 * len(ious)),
    }


def floors(generators: dict[str, Any], dtype: str, image: np.ndarray, points: int) -> dict[str, Any]:
    """GFLOP that each decoder spends on a point, and the seconds that all points take at the rate of a product."""
    rate = measure_limits(torch.device("cpu")).flops_per_s[str(DTYPES[dtype]).removeprefix("torch.")]
    gflop = {}
    for name, generator in generators.items():
        count = prompts_per_call(64, generators["sam2fast"].predictor.model)
        predictor = generator.predictor
        predictor.model.requires_grad_(False)  # the counter cannot tell that no gradients are wanted
        predictor.set_image(image)
        coords, labels = torch.rand(count, 1, 2) * 1024, torch.ones(count, 1, dtype=torch.int32)
        with FlopCounterMode(display=False) as counter:
            predictor._predict(coords, labels)
        predictor.reset_predictor()
        gflop[name] = counter.get_total_flops() / count / 1e9
    return {
        "GFLOP per point": gflop,
        "GFLOP/s": rate / 1e9,
        "floor_s": {name: points * value * 1e9 / rate for name, value in gflop.items()},
    }


def peaks(path: Path, dtype: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Peak resident memory of encoding and of generating, each generator in a process of its own, in MiB."""
    peak = {}
    for name in NAMES:
        command = [sys.executable, __file__, "--peak-of", name, "--images", str(path), "--weights", arguments.weights]
        command += ["--config", arguments.config, "--dtype", dtype]
        command += ["--points-per-side", str(arguments.points_per_side)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        peak[name] = json.loads(done.stdout.splitlines()[-1])
    return peak


def print_peak(name: str, dtype: str, path: Path, arguments: argparse.Namespace) -> None:
    generator, image = build(name, dtype, arguments), read(path)
    peak = {}
    for part, call in (("set_image", generator.predictor.set_image), ("generate", generator.generate)):
        in_its_dtype(name, dtype, lambda: generator.predictor.set_image(image))  # a warm-up
        generator.predictor.reset_predictor()
        forget_peak()
        in_its_dtype(name, dtype, lambda call=call: call(image))
        peak[part] = peak_resident_mib()
        generator.predictor.reset_predictor()
    print(json.dumps(peak | {"growth": peak["generate"] - peak["set_image"]}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="a folder of photographs, or one of them")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--config", default="configs/sam2/sam2_hiera_t.yaml")
    parser.add_argument("--points-per-side", type=int, default=32)
    parser.add_argument("--dtype", action="append", choices=sorted(DTYPES))
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--no-peaks", action="store_true", help="leave out the processes that measure memory")
    parser.add_argument("--peak-of", choices=NAMES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    dtypes = sorted(arguments.dtype or DTYPES, reverse=True)  # fp32 first: bfloat16 is set against it
    if arguments.peak_of:
        print_peak(arguments.peak_of, dtypes[0], arguments.images, arguments)
        return
    paths = sorted(arguments.images.glob("*.jpg")) if arguments.images.is_dir() else [arguments.images]
    exact: dict[Path, Any] = {}
    rows = []
    for path in paths:
        for dtype in dtypes:
            row = measure(path, dtype, arguments, exact)
            row["peak_mib"] = {} if arguments.no_peaks else peaks(path, dtype, arguments)
            rows.append(row)
            print_row(row)
            if arguments.out:
                write_report(arguments.out, "automatic-masks-cpu", machine=machine(), rows=rows)


def print_row(row: dict[str, Any]) -> None:
    described = (
        f"{name} {row['median_s'][name]:.1f} s, {row['masks'][name]} masks, "
        + (f"+{row['peak_mib'][name]['growth']:.0f} MiB, " if row["peak_mib"] else "")
        + f"floor {row['decoder']['floor_s'][name]:.1f} s"
        for name in NAMES
    )
    ratio = row["ratio"]
    print(f"{row['image']} {row['dtype']}: {'; '.join(described)}; {ratio['median']:.2f}x")
    print(f"    {json.dumps(row['agreement'])}", flush=True)


if __name__ == "__main__":
    main()

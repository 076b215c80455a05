"""Times the image encoder beside the official one, both as they are and through torch.compile, in turn in one process.

    python bench/encoder_side_by_side.py --size t --size "b+" --size l --out bench/results
    python bench/encoder_side_by_side.py --device cuda --batch 1 --batch 8 --out bench/results

Both run as their authors intend: fp32, and bfloat16 under autocast (official) or with weights cast once (ours). The
compiled ones are ``fullgraph=True, dynamic=False`` in the compiler's default mode. Features are compared before any
timing. The official package has to be importable.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from reports import write_report
from side_by_side import ALLOWED, DTYPES, machine, predictors
from torch import Tensor

from sam2fast.utils.testing import relative_error

SIDE = 1024


def encoders(size: str, dtype: str, batch: int, device: torch.device) -> dict[str, Callable[[], Tensor]]:
    """The coarsest map of the same pictures, by subject."""
    models = {name: predictor.model.to(device) for name, (predictor, _) in predictors(size, dtype).items()}
    x = torch.randn(batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(device)
    functions = {name: model.image_encoder.forward for name, model in models.items()}
    functions |= {f"{name} compiled": torch.compile(f, fullgraph=True, dynamic=False) for name, f in functions.items()}

    def call(name: str) -> Callable[[], Tensor]:
        cast = dtype == "bf16" and name.startswith("official")

        def run() -> Tensor:
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=cast):
                return functions[name](x)["vision_features"]

        return run

    return {name: call(name) for name in functions}


def timed(call: Callable[[], Tensor], device: torch.device) -> float:
    """Seconds of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measure(size: str, dtype: str, batch: int, device: torch.device, runs: int) -> dict[str, Any]:
    """Rounds of all subjects in turn. A ratio is the official time over ours, of the same way.

    Raises:
        SystemExit: their features differ.
    """
    torch.compiler.reset()
    calls = encoders(size, dtype, batch, device)
    first, features = {}, {}
    for name, call in calls.items():
        first[name] = timed(call, device)
        features[name] = call().float().cpu()
    errors = {name: relative_error(features["official"], found) for name, found in features.items()}
    if not all(error <= ALLOWED[dtype] for error in errors.values()):
        raise SystemExit(f"{size} {dtype}: features differ: {errors}; not timed")
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            seconds[name].append(timed(call, device))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {
        "eager": _ratio(seconds["official"], seconds["sam2fast"]),
        "compiled": _ratio(seconds["official compiled"], seconds["sam2fast compiled"]),
        "best of each": min(medians["official"], medians["official compiled"])
        / min(medians["sam2fast"], medians["sam2fast compiled"]),
    }
    return {"size": size, "dtype": dtype, "batch": batch, "errors": errors, "first_call_s": first,
            "seconds": seconds, "median_s": medians, "ratio": ratios}  # fmt: skip


def _ratio(official: list[float], ours: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(official, ours, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", action="append", choices=["t", "s", "b+", "l"])
    parser.add_argument("--dtype", action="append", choices=DTYPES)
    parser.add_argument("--batch", action="append", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device, rows = torch.device(arguments.device), []
    for size in arguments.size or ["t", "s", "b+", "l"]:
        for dtype in arguments.dtype or DTYPES:
            for batch in arguments.batch or [1]:
                rows.append(measure(size, dtype, batch, device, arguments.runs))
                shown = {key: {k: round(v, 4) for k, v in rows[-1][key].items()} for key in ("median_s", "ratio")}
                print(size, dtype, batch, json.dumps(shown), flush=True)
                if arguments.out:
                    write_report(arguments.out, f"encoder-{device.type}", machine=machine(str(device)), rows=rows)


if __name__ == "__main__":
    main()

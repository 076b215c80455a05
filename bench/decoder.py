"""Times the mask decoder beside the official one, in turn, in one process: prompts of one point on one image.

    python bench/decoder.py --batch 1 --batch 8 --batch 64 --out bench/results

The floor is the multiplications of our decoder, as torch counts them, at the rate of a large matrix product measured in
the same run. Results are compared before anything is timed.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import measure_limits
from reports import write_report
from side_by_side import ALLOWED, DTYPES, machine
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from parity import build_pair, random_map

from sam2fast.testing import relative_error

SIDE = 64  # of the image embedding


def decoder_inputs(model: Any, prompts: int, points: int) -> dict[str, Any]:
    """Prompts on one image, for three masks each; maps lie in memory as the encoder leaves them, channels last."""
    coords = random_map(prompts, points, 2, seed=3).abs() * 300
    sparse, dense = model.sam_prompt_encoder((coords, torch.ones(prompts, points, dtype=torch.int32)), None, None)
    embedding, stride_4, stride_8 = (
        random_map(1, scale * SIDE, scale * SIDE, channels, seed=scale).permute(0, 3, 1, 2)
        for scale, channels in ((1, 256), (4, 32), (2, 64))
    )
    return {
        "image_embeddings": embedding,
        "image_pe": model.sam_prompt_encoder.get_dense_pe(),
        "sparse_prompt_embeddings": sparse,
        "dense_prompt_embeddings": dense,
        "multimask_output": True,
        "repeat_image": prompts > 1,
        "high_res_features": [stride_4, stride_8],
    }


def decoders(dtype: str) -> dict[str, tuple[Any, bool]]:
    """Both models, and whether they run under autocast: in bf16 ours has its weights cast instead."""
    official, ours = build_pair("sam2.1_t")
    if dtype == "bf16":
        decoder = ours.sam_mask_decoder.to(torch.bfloat16)
        for name in decoder.keep_fp32:
            getattr(decoder, name).float()
    return {"official": (official, dtype == "bf16"), "sam2fast": (ours, False)}


def measure(dtype: str, prompts: int, points: int, runs: int, flops_per_s: float) -> dict[str, Any]:
    pair = decoders(dtype)
    inputs = decoder_inputs(pair["official"][0], prompts, points)

    def call(name: str) -> Any:
        model, autocast = pair[name]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return model.sam_mask_decoder(**inputs)

    results, flops = {}, {}
    for name in pair:
        with FlopCounterMode(display=False) as counter:
            results[name] = call(name)  # a warm-up, too
        flops[name] = counter.get_total_flops() / prompts
    error = max(relative_error(a, b) for a, b in zip(*results.values(), strict=True))
    if not error <= ALLOWED[dtype]:
        raise SystemExit(f"{prompts} prompts {dtype}: results differ by {error:.1e}; not timed")
    seconds: dict[str, list[float]] = {name: [] for name in pair}
    for _ in range(runs):
        for name in pair:
            seconds[name].append(timed(lambda name=name: call(name)) / prompts)  # type: ignore[misc]
    ratios = [a / b for a, b in zip(seconds["official"], seconds["sam2fast"], strict=True)]
    return {
        "op": "mask decoder",
        "dtype": dtype,
        "prompts": prompts,
        "points": points,
        "error": error,
        "ms_per_prompt": {name: [s * 1e3 for s in values] for name, values in seconds.items()},
        "median_ms": {name: statistics.median(values) * 1e3 for name, values in seconds.items()},
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "GFLOP": {name: value / 1e9 for name, value in flops.items()},
        "floor_ms": flops["sam2fast"] / flops_per_s * 1e3,
    }


def timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", action="append", type=int, help="prompts in a call")
    parser.add_argument("--points", type=int, default=1, help="of each prompt")
    parser.add_argument("--dtype", action="append", choices=DTYPES)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    limits = measure_limits(torch.device("cpu")).flops_per_s
    rows = []
    with torch.no_grad():
        for dtype in arguments.dtype or DTYPES:
            rate = limits[{"fp32": "float32", "bf16": "bfloat16"}[dtype]]
            for prompts in arguments.batch or [1, 8, 64]:
                row = measure(dtype, prompts, arguments.points, arguments.runs, rate)
                rows.append(row)
                median, flops = row["median_ms"], row["GFLOP"]
                print(
                    f"{dtype} {prompts:>3} prompts: official "
                    f"{median['official']:.1f} ms {flops['official']:.2f} GFLOP, "
                    f"sam2fast {median['sam2fast']:.1f} ms {flops['sam2fast']:.2f} GFLOP per prompt, "
                    f"{row['ratio']['median']:.2f}x ({row['ratio']['min']:.2f}-{row['ratio']['max']:.2f}), "
                    f"floor {row['floor_ms']:.1f} ms, error {row['error']:.1e}",
                    flush=True,
                )
    if arguments.out:
        speeds = {k: v / 1e9 for k, v in limits.items()}
        path = write_report(arguments.out, "decoder-cpu", machine=machine(), GFLOP_per_s=speeds, rows=rows)
        print(f"written to {path}")


if __name__ == "__main__":
    main()

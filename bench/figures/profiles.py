"""Generates the table of docs/benchmarks.md that shows the time of a frame on a GPU by part."""

import re
from collections.abc import Callable
from typing import Any

from figures.results import MODELS, Report, Results, mark, table

ALL = "all"
# Parts of a frame, by the names of their kernels. The first pattern that fits decides.
PARTS = {
    "attention to memory": "_attend|_encode_kernel|_rotate|_combine",
    "windows": "_window_attention",
    "attention by cuDNN": "sdpa|flash|fmha",
    "linear_gelu": "_linear_gelu|^_mlp",
    "decoder's tokens": "_norm_linear|_grouped_mlp|_token_attention",
    "convolutions and their layouts": "conv|nchw|nhwc|cudnn|_embed_patches|_downsample|_depthwise",
    "matrix multiplications": "nvjet|gemm|cutlass|splitK",
    "LayerNorm": "layer_norm",
    "resizing of frames": "_resize_and_normalise",
    "pooling": "reduce_kernel",
    "uploads": "HtoD",
    "copies to the host": "DtoH",
    "other kernels": "",
}


def part_of(kernel: str) -> str:
    """Returns the part of a frame that a kernel computes."""
    return next(part for part, pattern in PARTS.items() if re.search(pattern, kernel, re.IGNORECASE))


def by_part(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Returns microseconds of a frame by part: on the encoder's streams, and on other streams."""
    # The encoder's streams resize or upload frames.
    encoder = {row["stream"] for row in rows if re.search("_resize_and_normalise|_embed_patches|HtoD", row["kernel"])}
    step = {row["stream"] for row in rows if "_attend" in row["kernel"]}
    found = {part: [0.0, 0.0] for part in PARTS}
    for row in rows:
        # Older files have the time of a frame as ``us a frame``, and of a call as ``us``.
        found[part_of(row["kernel"])][row["stream"] in step or row["stream"] not in encoder] += row.get(
            "us a frame", row["us"]
        )
    return {part: times for part, times in found.items() if sum(times) >= 0.5}


def gpu_profile(results: Results) -> str:
    """Returns a table of the newest profile of each model on each GPU, with the file of each."""
    newest: dict[tuple[str, str], Report] = {}
    for report in results.reports(".+"):
        for model in {row["model"] for row in report.data.get("parts", {}).get("profile", [])}:
            newest.setdefault((model, report.data["machine"]["device"]), report)
    if not newest:
        return "Not profiled yet; `make gpu PART=profile` does."
    header, columns = ["part"], []
    for (model, device), report in newest.items():
        rows = [row for row in report.data["parts"]["profile"] if row["model"] == model]
        columns.append(by_part([row for row in rows if row["kernel"] != ALL]))
        header.append(f"{MODELS[model]}, {device}{mark({}, report)}")
    lines = [
        [part, *(" + ".join(f"{us:,.0f}" for us in column.get(part, [0, 0])) for column in columns)] for part in PARTS
    ]
    sums = [[sum(times) for times in zip(*column.values(), strict=True)] for column in columns]
    lines.append(["**sum**", *(f"**{encoder:,.0f} + {step:,.0f}**" for encoder, step in sums)])
    files = ", ".join(dict.fromkeys(results.link(report) for report in newest.values()))
    return "\n\n".join(
        [table(header, lines), f"Cells are microseconds of a frame: encoder + step. Every kernel is in {files}."]
    )


SECTIONS: dict[str, Callable[[Results], str]] = {"gpu-profile": gpu_profile}

"""Proof and figures from a CUDA machine, in parts of a few minutes each; saved as they come.

    make gpu PART=parity     every kernel against its twin, on thousands of random inputs (GPU=--quick: on fewer;
                             GPU="--only window_attention": one of OPS)
    make gpu PART=micro      every op of the registry, beside what else computes it
    make gpu PART=sanitize   the parity part, small, under compute-sanitizer's memory and race checkers
    make gpu PART=video-t    whole calls beside the official package, where that can be imported: video-s, video-b,
                             video-l, image, amg and cold, too (python -m suite --list says what is in them)

Needs this repository, torch, triton and numpy, and no network. Results are merged into
``bench/results/<device>-<date>.json`` and a table of the same name, those of whole calls into ``suite-<device>-...``.
"""

import argparse
import datetime
import functools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from attention_parity import QUICK, attention_parity
from encoder_ops import QUICK as QUICK_ENCODER
from encoder_ops import encoder_parity
from mask_list_parity import QUICK as QUICK_LISTS
from mask_list_parity import mask_list_parity
from mask_parity import QUICK as QUICK_MASKS
from mask_parity import mask_parity
from measure import Limits, measure, measure_limits
from registry import Case, WrongResultError, cases, check
from suite.machine import commit, cpu_name, driver
from tracking_parity import QUICK as QUICK_TRACKING
from tracking_parity import tracking_parity
from window_parity import QUICK as QUICK_WINDOWS
from window_parity import window_parity

from sam2fast.kernels._dispatch import backend, launches
from sam2fast.kernels.connected_components import connected_components, connected_components_reference

RESULTS = Path(__file__).parent / "results"
# Where it is set, torch gives every tensor memory of its own, in which no CUDA graph can be recorded.
NO_CACHING = "PYTORCH_NO_CUDA_MEMORY_CACHING"
RANDOM_MASKS = 10_000
# Of the parity part: op -> name in the report, the check, and its plan for a quick run.
PARITY: dict[str, tuple[str, Callable[..., bool], Any]] = {
    "mask_ops": ("masks", mask_parity, QUICK_MASKS),
    "run_lengths, nms": ("lists of masks", mask_list_parity, QUICK_LISTS),
    "memory_attention": ("attention", attention_parity, QUICK),
    "window_attention": ("windows", window_parity, QUICK_WINDOWS),
    "layer_norm, linear_gelu, preprocess": ("the encoder", encoder_parity, QUICK_ENCODER),
    "tracking": ("recorded steps", tracking_parity, QUICK_TRACKING),
}
OPS = ("connected_components", *PARITY)
SUITE = ("video-t", "video-s", "video-b", "video-l", "image", "amg", "cold")
PARTS = ("parity", "micro", "sanitize", *SUITE)
# Of whole calls no more are begun then: the longest that are may take minutes, where something is compiled.
LIMIT_S = 360.0


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were taken on."""
    info: dict[str, Any] = {
        "device": f"CPU {cpu_name()} {os.cpu_count()} cores",
        "torch": torch.__version__,
        "commit": commit(),
    }
    try:
        import triton

        info["triton"] = triton.__version__
    except ImportError:
        info["triton"] = None
    if device.type == "cuda":
        info["device"] = torch.cuda.get_device_name(device)
        info["driver"] = driver()
    return info


class Report:
    """Rows of one device and day; written after every change, so that a killed run keeps what it had."""

    def __init__(self, device: torch.device, folder: Path) -> None:
        info = machine(device)
        date = datetime.date.today().isoformat()
        slug = re.sub(r"[^a-z0-9]+", "-", info["device"].lower()).strip("-")
        self.path = folder / f"{slug}-{date}.json"
        self.content: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {"parts": {}}
        self.content |= {"date": date, "machine": info}
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, part: str, rows: list[dict[str, Any]]) -> None:
        """Replaces one part and writes JSON and table, each whole."""
        self.content["parts"][part] = rows
        _write(self.path, json.dumps(self.content, indent=1) + "\n")
        _write(self.path.with_suffix(".md"), table(self.content))


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(path.suffix + ".part")
    partial.write_text(text)
    os.replace(partial, path)


def table(content: dict[str, Any]) -> str:
    """A Markdown table per part."""
    lines = [f"# {content['machine']['device']}, {content['date']}", "", f"`{json.dumps(content['machine'])}`"]
    for part, rows in content["parts"].items():
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines += ["", f"## {part}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(_shown(row.get(column, "")) for column in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def parity(device: torch.device, report: Report, masks: int, side: int = 300, batch_limit: int = 64) -> bool:
    """Random masks of random sizes and densities: labels and areas equal the twin's, in two runs of each."""
    generator = torch.Generator().manual_seed(int(time.time()))
    seed, wrong, done = generator.initial_seed(), 0, 0
    while done < masks:
        batch = int(torch.randint(1, batch_limit + 1, (), generator=generator))
        height, width = (int(torch.randint(1, side + 1, (), generator=generator)) for _ in range(2))
        density = float(torch.rand((), generator=generator))
        mask = torch.rand(batch, 1, height, width, generator=generator) < density
        expected = connected_components_reference(mask)
        before = launches["connected_components"]
        with backend("triton"):
            runs = [connected_components(mask.to(device)) for _ in range(2)]
        if launches["connected_components"] != before + 2:
            raise RuntimeError("the kernel was not launched")
        equal = all(torch.equal(e, a.cpu()) for run in runs for e, a in zip(expected, run, strict=True))
        wrong += 0 if equal else batch
        done += batch
        if done // 1000 != (done - batch) // 1000 or done >= masks:
            row = {"op": "connected_components", "random masks": done, "wrong": wrong, "seed": seed}
            report.save("parity", [row])
            print(row, flush=True)
    return wrong == 0


def all_parity(device: torch.device, report: Report, arguments: argparse.Namespace) -> bool:
    """The parity of every op that is asked for; of ``memory_attention`` with ``rope_attention``.

    Raises:
        SystemExit: none is.
    """
    results = []
    if arguments.only in "connected_components":
        results.append(parity(device, report, arguments.masks, arguments.side, arguments.batch))
    for op, (name, check_op, quick) in PARITY.items():
        if op == "tracking" and device.type == "cuda" and NO_CACHING in os.environ:
            print(f"{name} are not checked: {NO_CACHING} is set, and graphs need torch's allocator")
        elif arguments.only in op:
            save = functools.partial(report.save, f"parity of {name}")
            results.append(check_op(device, save, quick if arguments.quick else None))
    if not results:
        raise SystemExit(f"nothing is checked: {arguments.only!r} is in none of {', '.join(OPS)}")
    return all(results)


def sanitize(report: Report) -> bool:
    """Runs a small parity part under each checker; says so where compute-sanitizer is not installed.

    Every tensor gets memory of its own, since nobody would notice steps from one into another within torch's blocks.
    Recorded steps, which need such blocks, are left out; their kernels are checked one by one.
    """
    checker = shutil.which("compute-sanitizer")
    if checker is None:
        report.save("sanitize", [{"tool": "compute-sanitizer", "errors": "not installed"}])
        print("compute-sanitizer is not installed: nothing was checked")
        return False
    rows = []
    for tool in ("memcheck", "racecheck", "synccheck", "initcheck"):
        with tempfile.TemporaryDirectory() as scratch:
            small = ["--part", "parity", "--quick", "--masks", "40", "--side", "70", "--batch", "3", "--out", scratch]
            command = [checker, "--tool", tool, "--error-exitcode", "9", sys.executable, __file__, *small]
            own = {**os.environ, NO_CACHING: "1"}
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=own)
        summary = [line for line in done.stdout.splitlines() if "SUMMARY" in line]
        rows.append({"tool": tool, "exit": done.returncode, "errors": " ".join(summary) or done.stderr[-200:]})
        report.save("sanitize", rows)
        print(rows[-1], flush=True)
    return all(row["exit"] == 0 for row in rows)


def micro(device: torch.device, report: Report, only: str) -> bool:
    """One row per case and subject; a wrong subject fails the part and prints no time."""
    limits, rows, right = measure_limits(device), [], True
    print(f"limits: {limits}", flush=True)
    for case in cases():
        if any(text in case.name for text in only.split(",")) and case.runs_on(device):
            try:
                rows += case_rows(case, device, limits)
            except WrongResultError as error:
                right = False
                rows.append({"op": case.op, "shape": case.shape, "dtype": case.dtype, "subject": f"WRONG: {error}"})
            report.save("micro", rows)
    return right


def case_rows(case: Case, device: torch.device, limits: Limits) -> list[dict[str, Any]]:
    rows = []
    with torch.no_grad():
        for subject, call in check(case, case.prepare(device), device).items():
            t = measure(call, device)
            row = {"op": case.op, "shape": case.shape, "dtype": case.dtype, "subject": subject}
            row |= {"p20 ms": t.p20, "p50 ms": t.p50, "p80 ms": t.p80, "wall ms": t.wall}
            row |= {"peak MiB": "" if math.isnan(t.peak_mib) else t.peak_mib, "FLOP": case.flops, "bytes": case.bytes}
            row["of limit"] = limits.fraction(case.dtype, case.flops, case.bytes, t.p50)
            rows.append(row)
            print({k: _shown(v) for k, v in row.items()}, flush=True)
    return rows


def whole_calls(arguments: argparse.Namespace) -> None:
    """Runs a part of the suite.

    Raises:
        SystemExit: always, with its status.
    """
    from suite.__main__ import main as run_suite

    limit = ["--limit-s", str(LIMIT_S), "--out", str(arguments.out)]
    only = ["--only", arguments.only] if arguments.only else []
    run_suite(["--part", arguments.part, "--device", arguments.device, *limit, *only])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--masks", type=int, default=RANDOM_MASKS, help="of the parity part")
    parser.add_argument("--side", type=int, default=300, help="largest side of a mask of the parity part")
    parser.add_argument("--batch", type=int, default=64, help="most masks at once in the parity part")
    parser.add_argument("--quick", action="store_true", help="few and small inputs of attention in the parity part")
    parser.add_argument(
        "--only",
        default="",
        help=f"cases of the micro part with this text, or one of several with commas between; or of {', '.join(OPS)} "
        "in the parity part",
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA here; --device cpu runs the micro part on the CPU")
    if arguments.part in SUITE:
        whole_calls(arguments)
    report = Report(device, arguments.out)
    if arguments.part == "parity":
        right = all_parity(device, report, arguments)
    elif arguments.part == "sanitize":
        right = sanitize(report)
    else:
        right = micro(device, report, arguments.only)
    print(f"written to {report.path}")
    raise SystemExit(0 if right else 1)


if __name__ == "__main__":
    main()

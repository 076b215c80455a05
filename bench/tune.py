"""Measures candidate launch configurations on this GPU and writes the best of each op into the launch table.

    make tune [OP=connected_components]

Every candidate's result is checked before it is timed. The rows of other GPUs stay as they are.
"""

import argparse
import contextlib
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from measure import measure
from registry import WrongResultError, cases, check

from sam2fast.kernels import _launch
from sam2fast.kernels._launch import ANY, LaunchConfig, architecture

TABLE = Path(__file__).parents[1] / "kernels" / _launch.TABLE
CANDIDATES = {
    "connected_components": [
        ({"BLOCK": block}, {"num_warps": warps})
        for block, warps in itertools.product((256, 512, 1024, 2048), (4, 8, 16))
        if 1 <= block // (32 * warps) <= 8
    ],
}


@contextlib.contextmanager
def launched_as(op: str, config: LaunchConfig) -> Iterator[None]:
    """Inside, the op is launched with this configuration whatever the table says."""
    table, original = {**_launch.launch_table(), op: [config]}, _launch.launch_table
    _launch.launch_table = lambda: table  # type: ignore[assignment]
    try:
        yield
    finally:
        _launch.launch_table = original


def time_of(op: str, config: LaunchConfig, device: torch.device) -> float:
    """Sum over the op's cases of the median time, in ms, each relative to the yardstick's; infinite if it fails."""
    total = 0.0
    with launched_as(op, config), torch.no_grad():
        for case in (case for case in cases() if case.op == op):
            calls = dict(case.prepare(device))
            try:
                check(case, calls)
                total += measure(calls["triton"], device).p50 / measure(calls["torch"], device).p50
            except (WrongResultError, RuntimeError) as error:
                print(f"{config}: {error}", flush=True)
                return float("inf")
    return total


def with_row(table: dict[str, Any], op: str, row: LaunchConfig) -> dict[str, Any]:
    """The table with this row in place of the one for the same GPU, dtype and shape class; the input is not changed."""
    same = {"arch": row.arch, "dtype": row.dtype, "shape": row.shape}
    others = [r for r in table[op] if {key: r[key] for key in same} != same]
    return {**table, op: [*others, {**same, "meta": dict(row.meta), "options": dict(row.options)}]}


def text_of(table: dict[str, Any]) -> str:
    """JSON with a line per row."""
    ops = []
    for op, rows in table.items():
        lines = ",\n".join("    " + json.dumps(row) for row in rows)
        ops.append(f'  "{op}": [\n{lines}\n  ]')
    return "{\n" + ",\n".join(ops) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", choices=sorted(CANDIDATES), action="append")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("there is no CUDA here: tuning measures on the GPU it is for")
    device = torch.device("cuda")
    for op in arguments.op or sorted(CANDIDATES):
        configs = [LaunchConfig(architecture(device), ANY, ANY, *candidate) for candidate in CANDIDATES[op]]
        times = {i: time_of(op, config, device) for i, config in enumerate(configs)}
        for i, value in sorted(times.items(), key=lambda item: item[1]):
            print(f"{op} {configs[i].meta} {configs[i].options}: {value:.4f} of the twin's time", flush=True)
        best = min(times, key=times.__getitem__)
        if times[best] == float("inf"):
            raise SystemExit(f"no candidate of {op} gives the right result; the table is unchanged")
        partial = TABLE.with_suffix(".part")
        partial.write_text(text_of(with_row(json.loads(TABLE.read_text()), op, configs[best])))
        os.replace(partial, TABLE)


if __name__ == "__main__":
    main()

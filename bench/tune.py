"""Measures candidate launch configurations on this GPU and writes the best of each op into the launch table.

    make tune [OP=connected_components]
    python bench/tune.py --op memory_attention --shape 256x64 --dtype bfloat16
    python bench/tune.py --op window_attention --shape "*" --shape global

Every candidate's result is checked before it is timed. A row is written as soon as its candidates are through; the rows
of other GPUs stay as they are. All of it takes longer than many a machine is lent for: ``--op``, ``--shape`` and
``--dtype`` choose rows, each may be given several times, and what is left out means all. Rows of window_attention are
"*", for which all windowed cases decide together, and "global", the whole map, which is also compared with torch's own
attention: the row says by ``SDPA`` which is faster. They take a few minutes altogether, mostly of compiling.
"""

import argparse
import contextlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from measure import measure
from registry import Case, Expected, cases, compare, expectation

from sam2fast.kernels import _launch
from sam2fast.kernels._dispatch import launches
from sam2fast.kernels._launch import ANY, LaunchConfig, architecture

TABLE = Path(__file__).parents[1] / "kernels" / _launch.TABLE
Candidate = tuple[dict[str, int], dict[str, int]]  # meta and options of a row


class Search(NamedTuple):
    """What is tried for one row of the table."""

    op: str
    dtype: str
    shape: str
    candidates: list[Candidate]
    cases: tuple[str, ...]  # ops of the registry whose cases decide: those of this dtype and shape class
    against: str = ""  # if given, the row says under this name whether the yardstick, torch's own way, is faster


def attention_search(dtype: str, shape: str, tiles: Iterable[tuple[int, ...]]) -> Search:
    """``tiles``: BLOCK_M, BLOCK_N, CHUNK, warps and stages."""
    d, width = map(int, shape.split("x"))
    candidates = [
        ({"BLOCK_M": m, "BLOCK_N": n, "CHUNK": chunk}, {"num_warps": warps, "num_stages": stages})
        for m, n, chunk, warps, stages in tiles
        if could_fit(dtype, d, width, m, n, chunk, warps, stages)
    ]
    return Search("memory_attention", dtype, shape, candidates, ("memory_attention", "rope_attention"))


def window_search(dtype: str, shape: str, tiles: Iterable[tuple[int, ...]]) -> Search:
    """``tiles``: BLOCK_M, BLOCK_N, warps and stages."""
    candidates = [
        ({"BLOCK_M": m, "BLOCK_N": n}, {"num_warps": warps, "num_stages": stages}) for m, n, warps, stages in tiles
    ]
    return Search(
        "window_attention", dtype, shape, candidates, ("window_attention",), against="SDPA" if shape == "global" else ""
    )


def gelu_search(dtype: str, tiles: Iterable[tuple[int, ...]]) -> Search:
    """``tiles``: BLOCK_M, BLOCK_N, BLOCK_K, warps and stages."""
    candidates = [
        ({"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, "GROUP": 8}, {"num_warps": warps, "num_stages": stages})
        for m, n, k, warps, stages in tiles
        if m * n <= 4096 * warps
    ]
    return Search("linear_gelu", dtype, ANY, candidates, ("linear_gelu",), against="TORCH")


def mask_search(shape: str, ops: tuple[str, ...], tiles: Iterable[tuple[int, ...]]) -> Search:
    """``tiles``: BLOCK_Y, BLOCK_X and warps."""
    candidates = [
        ({"BLOCK_Y": y, "BLOCK_X": x}, {"num_warps": warps, "num_stages": 1})
        for y, x, warps in tiles
        if 1 <= y * x // (32 * warps) <= 16
    ]
    return Search("mask_ops", ANY, shape, candidates, ops)


def could_fit(dtype: str, d: int, width: int, m: int, n: int, chunk: int, warps: int, stages: int) -> bool:
    """Whether blocks fit into 227 KiB of shared memory, and scores and sums into registers beside what else is there.

    fp32 products are made of three and keep their parts in registers too. Of what has fewer bits, tensor cores take 64
    rows with four warps.
    """
    size, most, rows = (4, 80, 16) if dtype == "float32" else (2, 160, 16 * warps)
    shared = size * (m * min(d, chunk) + stages * n * (min(d, chunk) + width))
    registers = m * (n + width) / (32 * warps)
    return shared <= 232448 and registers <= most and m >= rows


SEARCHES = [
    Search(
        "connected_components",
        ANY,
        ANY,
        [
            ({"BLOCK": block}, {"num_warps": warps})
            for block, warps in itertools.product((256, 512, 1024, 2048), (4, 8, 16))
            if 1 <= block // (32 * warps) <= 8
        ],
        ("connected_components",),
    ),
    *(
        mask_search(shape, ops, itertools.product((4, 8, 16), across, (2, 4, 8)))
        for shape, ops, across in (
            (ANY, ("mask_statistics", "upsample_and_threshold"), (64, 128, 256)),
            ("pack", ("upsample_and_pack",), (16, 32, 64)),
            ("bits", ("pack_masks", "unpack_masks"), (32, 64, 128)),
        )
    ),
    Search(
        "mask_ops",
        ANY,
        "overlaps",
        [
            ({"BLOCK": block}, {"num_warps": warps, "num_stages": 1})
            for block, warps in itertools.product((256, 512, 1024), (4, 8))
        ],
        ("suppress_overlaps",),
    ),
    *(
        Search(
            "run_lengths",
            ANY,
            shape,
            [
                ({"BLOCK_Y": y, "BLOCK_X": x}, {"num_warps": warps})
                for y, x, warps in itertools.product((8, 16, 32, 64), (32, 64, 128), (2, 4, 8))
                if 2 <= y * x // (32 * warps) <= most
            ],
            (op,),
        )
        for shape, op, most in ((ANY, "encode_masks", 32), ("upsampled", "encode_upsampled", 16))
    ),
    Search(
        "run_lengths",
        ANY,
        "decode",
        [({"BLOCK": block}, {"num_warps": warps}) for block, warps in itertools.product((256, 512, 1024), (4, 8))],
        ("decode_masks",),
    ),
    Search(
        "nms",
        ANY,
        ANY,
        [
            ({"KEEP_WARPS": keep}, {"num_warps": warps})
            for keep, warps in itertools.product((1, 2, 4, 8), (4, 8))
        ],
        ("box_nms",),
    ),
    Search(
        "nms",
        ANY,
        "masks",
        [
            ({"BLOCK_K": k, "KEEP_WARPS": 4}, {"num_warps": warps, "num_stages": stages})
            for k, warps, stages in itertools.product((64, 128, 256), (4, 8), (2, 3, 4))
        ],
        ("mask_nms",),
    ),
    *(
        attention_search("bfloat16", shape, itertools.product((64, 128, 256), (32, 64, 128), (256,), (4, 8), (2, 3, 4)))
        for shape in ("256x64", "256x256", "128x64")
    ),
    *(
        attention_search("float32", shape, itertools.product((32, 64, 128), (32, 64), (32, 64), (4, 8), (2, 3)))
        for shape in ("256x64", "256x256", "128x64")
    ),
    gelu_search("bfloat16", itertools.product((64, 128), (128, 256), (32, 64), (4, 8), (3, 4))),
    gelu_search("float32", itertools.product((64, 128), (64, 128), (32,), (4, 8), (2, 3))),
    Search(
        "layer_norm",
        ANY,
        ANY,
        [
            ({"ELEMENTS": elements}, {"num_warps": warps, "num_stages": 1})
            for elements, warps in itertools.product((1024, 2048, 4096), (2, 4, 8))
            if 4 <= elements // (32 * warps) <= 16
        ],
        ("layer_norm",),
    ),
    Search(
        "preprocess",
        ANY,
        ANY,
        [({"BLOCK": block}, {"num_warps": block // 64, "num_stages": 1}) for block in (128, 256, 512)],
        ("preprocess",),
    ),
    # Most windows are one or two blocks of keys, which leaves little to overlap; a whole map is many. What spills on
    # sm_90 is left out: in bfloat16 all of it, since ahead-of-time compilation refuses it, in fp32 the worst.
    window_search(
        "bfloat16",
        ANY,
        [(64, 32, 4, 1), (64, 32, 4, 2), (64, 64, 4, 1), (64, 64, 4, 2), (64, 64, 8, 1), (64, 32, 8, 1),
         (128, 32, 8, 1), (128, 32, 8, 2), (128, 64, 8, 1), (128, 64, 8, 2)],
    ),
    window_search(
        "bfloat16",
        "global",
        [(64, 64, 4, 1), (64, 64, 4, 2), (64, 64, 4, 3), (64, 128, 4, 2), (64, 128, 4, 3), (128, 32, 8, 3),
         (128, 64, 4, 2), (128, 64, 4, 3), (128, 64, 8, 1), (128, 64, 8, 2), (128, 64, 8, 3), (128, 128, 8, 2),
         (128, 128, 8, 3)],
    ),
    window_search(
        "float32",
        ANY,
        [(64, 32, 4, 1), (64, 32, 4, 2), (64, 32, 8, 1), (64, 32, 8, 2), (64, 64, 4, 1),
         (128, 32, 8, 1), (128, 32, 8, 2), (128, 64, 8, 1)],
    ),
    window_search(
        "float32",
        "global",
        [(64, 32, 4, 1), (64, 32, 4, 2), (64, 32, 8, 1), (64, 32, 8, 2), (64, 32, 8, 3), (64, 64, 4, 2),
         (128, 32, 8, 1), (128, 32, 8, 2), (128, 32, 8, 3), (128, 64, 8, 1)],
    ),
]  # fmt: skip


@contextlib.contextmanager
def launched_as(op: str, config: LaunchConfig) -> Iterator[None]:
    """Inside, the op is launched with this configuration whatever the table says."""
    table, original = {**_launch.launch_table(), op: [config]}, _launch.launch_table
    _launch.launch_table = lambda: table  # type: ignore[assignment]
    try:
        yield
    finally:
        _launch.launch_table = original


class Trial(NamedTuple):
    """A case, prepared once for all candidates."""

    case: Case
    expected: Expected
    ours: Callable[[], Any]
    ms: float  # of the yardstick


def trials(search: Search, device: torch.device) -> list[Trial]:
    """The cases that decide, smallest last."""
    found = []
    for case in cases():
        fits = search.dtype in (ANY, case.dtype) and search.shape == case.launch
        if case.op in search.cases and fits and case.runs_on(device):
            calls = case.prepare(device)
            ours = calls["triton"] if "triton" in calls else calls["sam2fast"]
            yardstick = next(iter(calls.values()))
            expected = expectation(case, calls, device)
            found.append(Trial(case, expected, ours, measure(yardstick, device, budget_s=0.2).p50))
    return found


def time_of(op: str, config: LaunchConfig, prepared: list[Trial], device: torch.device) -> float:
    """Sum over the cases of the median time, in ms, each relative to the yardstick's; infinite if it fails.

    Raises:
        RuntimeError: what was timed is not the kernel.
    """
    total, before = 0.0, sum(launches.values())
    with launched_as(op, config):
        for case, expected, ours, ms in prepared:
            try:
                compare(case, "the candidate", ours, expected)
                total += measure(ours, device, budget_s=0.1).p50 / ms
            except Exception as error:  # a wrong result, or whatever the compiler raises
                print(f"{config}: {type(error).__name__}: {' '.join(str(error).split())[:200]}", flush=True)
                return float("inf")
    if sum(launches.values()) == before:
        raise RuntimeError(f"the kernel of {op} was not launched")
    return total


def decided(search: Search, best: LaunchConfig, time: float, trials: int) -> LaunchConfig:
    """The row to be stored: the best candidate, and where asked whether the yardstick took less time on average."""
    return best._replace(meta={**best.meta, search.against: int(time > trials)}) if search.against else best


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


def run(search: Search, device: torch.device) -> None:
    """Times the candidates and stores the best.

    Raises:
        SystemExit: none gives the right result.
    """
    start, name = time.perf_counter(), f"{search.op} {search.dtype} {search.shape}"
    configs = [LaunchConfig(architecture(device), search.dtype, search.shape, *c) for c in search.candidates]
    with torch.no_grad():
        prepared = trials(search, device)
        times = {i: time_of(search.op, config, prepared, device) for i, config in enumerate(configs)}
    for i, value in sorted(times.items(), key=lambda item: item[1]):
        print(f"{name} {configs[i].meta} {configs[i].options}: {value:.4f} of the yardstick's time", flush=True)
    best = min(times, key=times.__getitem__)
    if times[best] == float("inf"):
        raise SystemExit(f"no candidate of {name} gives the right result; the table is unchanged")
    row, partial = decided(search, configs[best], times[best], len(prepared)), TABLE.with_suffix(".part")
    partial.write_text(text_of(with_row(json.loads(TABLE.read_text()), search.op, row)))
    os.replace(partial, TABLE)
    print(f"{name}: {len(configs)} candidates in {time.perf_counter() - start:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", choices=sorted({search.op for search in SEARCHES}), action="append")
    parser.add_argument("--shape", choices=sorted({search.shape for search in SEARCHES}), action="append")
    parser.add_argument("--dtype", choices=sorted({search.dtype for search in SEARCHES}), action="append")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("there is no CUDA here: tuning measures on the GPU it is for")
    wanted = {"op": arguments.op, "shape": arguments.shape, "dtype": arguments.dtype}
    for search in SEARCHES:
        if all(chosen is None or getattr(search, field) in chosen for field, chosen in wanted.items()):
            run(search, torch.device("cuda"))


if __name__ == "__main__":
    main()

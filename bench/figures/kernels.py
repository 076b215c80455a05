"""Tables of the pages on kernels: work and limits by formula, stored launches, and what was measured."""

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from figures import kernel_work as work
from figures.kernel_work import GPUS, Work, floor
from figures.results import MODELS, Report, Results, table

LAUNCH_TABLE = Path(__file__).resolve().parents[2] / "kernels" / "launch_table.json"
# Programs that share the keys of a tile of queries on 132 multiprocessors, of memory and of a map itself.
SPLITS = {("bf16", 1): (4, 4), ("bf16", 16): (1, 1), ("fp32", 1): (2, 1), ("fp32", 16): (1, 3)}
FULL_HD, RUNS = (1080, 1920), 1000
# What is shown of a file, and under which name; the rest, as torch's other backends, is in the file alone.
SHOWN = {
    "SDPA": "windows cut out, SDPA",
    "projected values, SDPA": "as published, SDPA",
    "rotated before, SDPA": "as published, SDPA",
    "scipy on the host": "scipy",
    "torch loop": "plain torch loop",
    "full-size logits": "full-size logits",
    "one by one": "one by one",
    "full-size logits, one by one": "one by one",
    "torchvision": "torchvision",
    "torch": "torch",
    "torch twin": "torch",  # codespell:ignore
    "reference": "torch",
    "sam2fast": "sam2fast",
    "triton": "kernel",
}
# Whose time is compared with the limit, the first that was measured.
OURS = ("triton", "sam2fast", "torch")
# The ops of each page.
MEASURED: dict[str, tuple[str, ...]] = {
    **{op.replace("_", "-"): (op,) for op in ("window_attention", "layer_norm", "linear_gelu", "preprocess")},
    "memory-attention": ("memory_attention", "rope_attention"),
    "connected-components": ("connected_components",),
    "fill-holes": ("fill_holes_and_remove_sprinkles",),
    "mask-ops": ("mask_statistics", "upsample_and_threshold", "upsample_and_pack", "pack_masks", "unpack_masks")
    + ("suppress_overlaps",),
    "run-lengths": ("encode_masks", "encode_upsampled", "decode_masks"),
    "nms": ("box_nms", "mask_nms"),
}
Line = tuple[str, str, Work]  # what, the dtype of its products, the work


def number(value: float) -> str:
    """Three digits, without a power of ten."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.3g}")
    digits = max(0, 2 - math.floor(math.log10(abs(rounded))))
    return f"{value if digits == 0 else rounded:,.{digits}f}"


def _time(seconds: float) -> str:
    return f"{number(seconds * 1e3)} ms" if seconds >= 1e-3 else f"{number(seconds * 1e6)} µs"


def work_table(lines: Iterable[Line]) -> str:
    """GFLOP, MB, FLOPs for each byte, and the least time on each GPU with what takes it."""
    rows = []
    for what, dtype, done in lines:
        floors = (floor(done, gpu, dtype) for gpu in GPUS)
        cells = [number(done.flops / 1e9), number(done.bytes / 1e6), number(done.flops / done.bytes)]
        rows.append([what, *cells, *(f"{_time(seconds)}, {limit}" for seconds, limit in floors)])
    return table(["", "GFLOP", "MB", "FLOP per byte", *(f"{gpu.name} at least" for gpu in GPUS)], rows)


def limits(results: Results) -> str:
    """What the least times are computed from."""
    rows = [
        [gpu.name, f"{gpu.memory / 1e12:g} TB/s"]
        + [f"{gpu.products[dtype] / 1e12:.0f}" for dtype in ("bf16", "fp32", "int8")]
        + [f"{gpu.vector / 1e12:g}", number(gpu.exponentials / 1e12)]
        + [number(gpu.products["bf16"] / gpu.memory), number(gpu.vector / gpu.memory)]
        for gpu in GPUS
    ]
    header = ["", "memory", "products in bf16", "in fp32, by three in TF32", "in int8", "other arithmetic in fp32"]
    header += ["exponentials", "FLOP per byte where products take over", "where other arithmetic does"]
    return table(header, rows)


def window_attention() -> Iterable[Line]:
    for block, calls in Counter(work.hiera_blocks("b+")).items():
        name = f"base+, {block.name}, {block.heads} × {block.width}, {calls} call{'s' * (calls > 1)}"
        yield name, "bf16", work.window_attention(block, 2)


def memory_attention() -> Iterable[Line]:
    for objects, dtype in itertools.product((1, 16), ("bf16", "fp32")):
        of_memory, of_itself = SPLITS[dtype, objects]
        size, said = work.SIZES[dtype], f"{objects} object{'s' * (objects > 1)}, {dtype}"
        memory = work.memory_attention(objects, size, of_memory)
        yield f"memory, {work.N:,} × {work.memory_tokens():,}, {said}", dtype, memory
        yield f"itself, {work.N:,} × {work.N:,}, {said}", dtype, work.self_attention(objects, size, of_itself)


def of_stages(of_stage: Callable[[int, int, int], tuple[str, Work]]) -> Iterable[Line]:
    """The four stages of the smallest and the largest model; a session's stream is fp32 up to the first pooling."""
    for size in ("t", "l"):
        for stage, (positions, channels) in enumerate(work.stages(size)):
            said, done = of_stage(positions, channels, 2 if stage else 4)
            yield f"{MODELS[size]}, {positions:,} × {channels}{said}", "bf16", done


def mask_ops() -> Iterable[Line]:
    for masks, (height, width) in ((1, FULL_HD), (64, FULL_HD), (64, (1024, 1024))):
        pixels, shape = height * width, f"{masks} of 256×256 to {height}×{width}"
        yield f"`mask_statistics`, {shape}", "bf16", work.mask_statistics(masks, pixels)
        yield f"`upsample_and_threshold`, {shape}", "bf16", work.upsample_and_threshold(masks, pixels)
        yield f"`upsample_and_pack`, {shape}", "bf16", work.upsample_and_pack(masks, height, width)
    for objects in (4, 16):
        done = work.suppress_overlaps(objects, 1024 * 1024)
        yield f"`suppress_overlaps`, {objects} objects, 1024×1024, fp32", "bf16", done


def run_lengths() -> Iterable[Line]:
    for masks in (1, 64, 256):
        shape, runs = f"{masks} × {FULL_HD[0]} × {FULL_HD[1]}, {RUNS:,} runs each", RUNS * masks
        yield f"`encode_masks`, {shape}", "bf16", work.encode_masks(masks, *FULL_HD, runs)
        yield f"`encode_upsampled`, {shape}", "bf16", work.encode_upsampled(masks, *FULL_HD, runs)


def nms() -> Iterable[Line]:
    for boxes in (300, 3000, 10_000):
        yield f"`box_nms`, {boxes:,} boxes", "int8", work.box_nms(boxes)
    for masks, (height, width) in ((64, (256, 256)), (512, (256, 256)), (512, FULL_HD)):
        yield f"`mask_nms`, {masks} masks of {height}×{width}", "int8", work.mask_nms(masks, height * width)


WORK: dict[str, Callable[[], Iterable[Line]]] = {
    "window-attention": window_attention,
    "memory-attention": memory_attention,
    "layer-norm": lambda: of_stages(
        lambda n, c, x: (", fp32" if x == 4 else ", bf16", work.layer_norm(n, c, x, 2)),
    ),
    "linear-gelu": lambda: of_stages(lambda n, c, x: (f" to {4 * c:,}, bf16", work.linear_gelu(n, c, 4 * c, 2))),
    "preprocess": lambda: (
        (f"{batch} × {height} × {width}", "bf16", work.preprocess(batch, height, width))
        for batch, height, width in ((1, *FULL_HD), (1, 1024, 1024), (8, 480, 854))
    ),
    "connected-components": lambda: (
        (f"{masks}×{height}×{width}", "bf16", work.connected_components(masks, height * width))
        for masks, height, width in ((1, 256, 256), (64, 256, 256), (1, *FULL_HD))
    ),
    "mask-ops": mask_ops,
    "run-lengths": run_lengths,
    "nms": nms,
}


def memory_folding(results: Results) -> str:
    """A piece of a sentence: FLOPs of a layer for one object, as published and ours."""
    published, ours = work.published_memory_attention(1), work.memory_attention(1, 2, 1).products
    return f"{number(published / 1e9)} GFLOP for one object become {number(ours / 1e9)}"


def launches(rows: Sequence[dict[str, Any]]) -> str:
    """The rows of one op in the launch table; those that differ in the dtype alone are one."""
    merged: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for row in rows:
        key = json.dumps([row["arch"], row["shape"], row["meta"], row["options"]])
        merged.setdefault(key, (row, []))[1].append(row["dtype"])
    names = list(dict.fromkeys(name for row in rows for name in row["meta"]))
    lines = [
        [row["arch"], ", ".join(dtypes), row["shape"], *(str(row["meta"].get(name, "")) for name in names)]
        + [str(row["options"]["num_warps"]), str(row["options"].get("num_stages", "Triton's"))]
        for row, dtypes in merged.values()
    ]
    lines = [["any" if cell == "*" else cell for cell in line] for line in lines]
    return table(["GPU", "dtype", "shape", *(f"`{name}`" for name in names), "warps", "stages"], lines)


def measured(results: Results, ops: Sequence[str]) -> str:
    """Medians of ops, with a table for each device; the newest file of each that has one of the ops."""
    newest: dict[str, Report] = {}
    for report in results.reports(".+"):
        if any(row["op"] in ops for row in report.data.get("parts", {}).get("micro", [])):
            newest.setdefault(report.data["machine"]["device"], report)
    parts = [_on_device(results, report, ops) for _, report in sorted(newest.items())]
    if all(device.startswith("CPU") for device in newest):
        parts.append("Not measured on a GPU; `make gpu PART=micro` does.")
    return "\n\n".join(parts)


def _on_device(results: Results, report: Report, ops: Sequence[str]) -> str:
    cases: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for row in report.data["parts"]["micro"]:
        if row["op"] in ops and row["subject"] in SHOWN and "p50 ms" in row:
            cases.setdefault((row["op"], row["shape"], row["dtype"]), {})[row["subject"]] = row
    columns = dict.fromkeys(SHOWN[name] for name in SHOWN if any(name in case for case in cases.values()))
    lines = []
    for (op, shape, dtype), case in cases.items():
        times = {SHOWN[name]: f"{number(row['p50 ms'])} ms" for name, row in case.items()}
        ours = next((case[name] for name in OURS if name in case), None)
        share = "–" if ours is None else f"{number(100 * ours['of limit'])} %"
        what = [f"`{op}`", re.sub(r"(?<=\d)x(?=\d)", "×", shape), dtype]
        lines.append([*what, *(times.get(name, "–") for name in columns), share])
    about = report.data["machine"]
    said = (
        f"Medians on {about['device'].replace('CPU ', 'a CPU: ')}, torch {about['torch'].split('+')[0]} "
        f"({results.link(report, 'every figure')})."
    )
    return table(["op", "shape", "dtype", *columns, "of the limit"], lines) + "\n\n" + said


SECTIONS: dict[str, Callable[[Results], str]] = {
    "kernel-limits": limits,
    "memory-folding": memory_folding,
    **{f"work-{page}": lambda results, lines=lines: work_table(lines()) for page, lines in WORK.items()},
    **{
        f"launch-{op.replace('_', '-')}": lambda results, rows=rows: launches(rows)
        for op, rows in json.loads(LAUNCH_TABLE.read_text(encoding="utf-8")).items()
    },
    **{f"measured-{page}": lambda results, ops=ops: measured(results, ops) for page, ops in MEASURED.items()},
}

"""Tables of what kernels compute and move, with the least time that GPUs need for it, and of how they are launched."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence

from figures import kernel_work as work
from figures.kernel_limits import GPUS, Work, floor
from figures.results import Results
from figures.text import model, table

FLOORS = [f"{gpu.name} at least" for gpu in GPUS]
# Programs that share the keys of a tile of queries on 132 multiprocessors, of memory and of a map itself.
SPLITS = {("bf16", 1): (4, 4), ("bf16", 16): (1, 1), ("fp32", 1): (2, 1), ("fp32", 16): (1, 3)}
SQUARE, FULL_HD = (1024, 1024), (1080, 1920)


def number(value: float) -> str:
    """Three digits, without a power of ten."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.3g}")
    digits = max(0, 2 - math.floor(math.log10(abs(rounded))))
    return f"{value if digits == 0 else rounded:,.{digits}f}"


def floors(done: Work, dtype: str) -> list[str]:
    """Microseconds on each GPU, and what takes them."""
    found = (floor(done, gpu, dtype) for gpu in GPUS)
    return [f"{_time(seconds)}, {what}" for seconds, what in found]


def _time(seconds: float) -> str:
    return f"{number(seconds * 1e3)} ms" if seconds >= 1e-3 else f"{number(seconds * 1e6)} µs"


def _row(done: Work, dtype: str) -> list[str]:
    """GFLOP, MB, FLOPs for each byte, and the floors."""
    gflop = (done.products + done.vector) / 1e9
    return [number(gflop), number(done.bytes / 1e6), number(done.intensity), *floors(done, dtype)]


def _work_table(header: Sequence[str], rows: Sequence[Sequence[str]], unit: str = "GFLOP") -> str:
    return table([*header, unit, "MB", f"{unit.removeprefix('G')} per byte", *FLOORS], rows)


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


def window_attention(results: Results) -> str:
    header, rows = ["model", "map", "heads × channels", "calls"], []
    for size in ("t", "b+", "l"):
        for block, calls in Counter(work.hiera_blocks(size)).items():
            done = work.window_attention(block, work.SIZES["bf16"])
            name = [model(size), block.name, f"{block.heads} × {block.width}", str(calls)]
            rows.append([*name, *_row(done, "bf16")])
    for size in ("t", "s", "b+", "l"):
        blocks = work.hiera_blocks(size)
        done = sum((work.window_attention(block, work.SIZES["bf16"]) for block in blocks), Work())
        rows.append([model(size), "all blocks", "", str(len(blocks)), *_sum_row(blocks, done)])
    return _work_table(header, rows)


def _sum_row(blocks: Sequence[work.Windowed], done: Work) -> list[str]:
    """As :func:`_row`, of calls one after the other: each has its own floor."""
    each = [work.window_attention(block, work.SIZES["bf16"]) for block in blocks]
    summed = [_time(sum(floor(one, gpu, "bf16")[0] for one in each)) for gpu in GPUS]
    return [number(done.products / 1e9), number(done.bytes / 1e6), number(done.intensity), *summed]


def memory_attention(results: Results) -> str:
    rows = []
    for objects, dtype in itertools.product((1, 16), ("bf16", "fp32")):
        of_memory, of_itself = SPLITS[dtype, objects]
        size = work.SIZES[dtype]
        to_memory = work.memory_attention(objects, size, of_memory)
        keys = f"{work.N:,} × {work.memory_tokens():,}"
        rows.append([f"memory, {objects} object{'s' * (objects > 1)}", keys, dtype, *_row(to_memory, dtype)])
        to_itself = work.self_attention(objects, size, of_itself)
        keys = f"{work.N:,} × {work.N:,}"
        rows.append([f"itself, {objects} object{'s' * (objects > 1)}", keys, dtype, *_row(to_itself, dtype)])
    return _work_table(["attention to", "queries × keys", "dtype"], rows)


def memory_folding(results: Results) -> str:
    """A piece of a sentence: FLOPs of a layer for one object, as published and ours."""
    published, ours = work.published_memory_attention(1), work.memory_attention(1, 2, 1).products
    return f"{number(published / 1e9)} GFLOP for one object become {number(ours / 1e9)}"


def memory_share(results: Results) -> str:
    """A piece of a sentence: both attentions of all layers beside the image encoders."""
    each = work.LAYERS * (work.memory_attention(1, 2, 1).products + work.self_attention(1, 2, 1).products)
    counted = results.newest("encoder-parts").data["rows"]
    gflop = {(row["size"], row["part"]): row["GFLOP"] for row in counted if row["dtype"] == "fp32"}
    # The file has the neck as published.
    sizes = ("t", "b+", "l")
    encoders = {size: gflop[size, "all"] - gflop[size, "neck and heads"] + work.neck(size) / 1e9 for size in sizes}
    beside = ", ".join(f"{number(encoders[size])} ({model(size)})" for size in sizes)
    return f"{number(each / 1e9)} GFLOP for each object, beside {beside} that the image encoder takes for the frame"


def _stages_of_both() -> list[tuple[str, int, int, int]]:
    """Model, stage, positions and channels, of the smallest and the largest model."""
    return [(size, stage, *sides) for size in ("t", "l") for stage, sides in enumerate(work.stages(size))]


def layer_norm(results: Results) -> str:
    rows = []
    for size, stage, positions, channels in _stages_of_both():
        # A session's stream is fp32 up to the first pooling, whatever its dtype.
        dtype, x = ("fp32", 4) if stage == 0 else ("bf16", 2)
        shape = f"{model(size)}, {positions:,} × {channels}, {dtype}"
        rows.append(["`add_layer_norm`", shape, *_row(work.layer_norm(positions, channels, x, 2), "bf16")])
    return _work_table(["op", "shape"], rows)


def linear_gelu(results: Results) -> str:
    rows = []
    for size, _, positions, channels in _stages_of_both():
        shape = f"{model(size)}, {positions:,} × {channels} to {4 * channels:,}, bf16"
        rows.append(["`linear_gelu`", shape, *_row(work.linear_gelu(positions, channels, 4 * channels, 2), "bf16")])
    return _work_table(["op", "shape"], rows)


def preprocess(results: Results) -> str:
    rows = []
    for batch, height, width in ((1, *FULL_HD), (1, *SQUARE), (8, 480, 854)):
        done = work.preprocess(batch, height, width)
        rows.append(["`resize_and_normalise`", f"{batch} × {height} × {width}", *_row(done, "bf16")])
    return _work_table(["op", "shape"], rows)


def connected_components(results: Results) -> str:
    rows = []
    for masks, (height, width) in ((1, (256, 256)), (64, (256, 256)), (1, FULL_HD)):
        pixels = height * width
        done = work.connected_components(masks, pixels)
        streamed = work.components_streamed(masks, pixels)
        memory = [_time(done.bytes / gpu.memory) for gpu in GPUS]
        rows.append([f"{masks}×{height}×{width}", number(done.bytes / 1e6), number(streamed / 1e6), *memory])
    header = ["masks", "MB, least", "MB, four launches", *FLOORS]
    return table(header, rows)


def mask_ops(results: Results) -> str:
    rows = []
    for masks, (height, width) in ((1, FULL_HD), (64, FULL_HD), (64, SQUARE)):
        pixels, shape = height * width, f"{masks} of 256×256 to {height}×{width}"
        for op, done in (
            ("mask_statistics", work.mask_statistics(masks, pixels)),
            ("upsample_and_threshold", work.upsample_and_threshold(masks, pixels)),
            ("upsample_and_pack", work.upsample_and_pack(masks, height, width)),
        ):
            rows.append([f"`{op}`", shape, *_row(done, "bf16")])
    for objects in (4, 16):
        done = work.suppress_overlaps(objects, SQUARE[0] * SQUARE[1])
        rows.append(["`suppress_overlaps`", f"{objects} objects, 1024×1024, fp32", *_row(done, "bf16")])
    return _work_table(["op", "shape"], rows)


# What the table of run lengths supposes.
RUNS = 1000


def run_lengths(results: Results) -> str:
    rows = []
    for masks in (1, 64, 256):
        shape = f"{masks} × {FULL_HD[0]} × {FULL_HD[1]}"
        for op, count in (("encode_masks", work.encode_masks), ("encode_upsampled", work.encode_upsampled)):
            rows.append([f"`{op}`", shape, *_row(count(masks, *FULL_HD, RUNS * masks), "bf16")])
    return _work_table(["op", f"masks, of {RUNS:,} runs"], rows)


def nms(results: Results) -> str:
    rows = []
    for boxes in (300, 3000, 10_000):
        rows.append(["`box_nms`", f"{boxes:,} boxes", *_row(work.box_nms(boxes), "int8")])
    for masks, (height, width) in ((64, (256, 256)), (512, (256, 256)), (512, FULL_HD)):
        done = work.mask_nms(masks, height * width)
        rows.append(["`mask_nms`", f"{masks} masks of {height}×{width}", *_row(done, "int8")])
    return _work_table(["op", "shape"], rows, unit="Gop")

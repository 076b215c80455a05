"""What each kernel computes and moves, by formula from shapes, and how long GPUs need for it at the least.

Counted are inputs read once and results written once. A multiplication with its addition is two FLOPs. The rates are
those of data sheets.
"""

import functools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple


class Work(NamedTuple):
    """What is computed and moved."""

    bytes: float = 0.0
    products: float = 0.0  # FLOPs (for masks: operations on int8) of matrix products
    vector: float = 0.0  # FLOPs outside of products
    exponentials: float = 0.0

    @property
    def flops(self) -> float:
        return self.products + self.vector


class Gpu(NamedTuple):
    """Peaks per second: dense products, without sparsity."""

    name: str
    memory: float  # bytes
    products: dict[str, float]  # FLOPs on tensor cores by dtype; fp32 as three products in TF32
    vector: float  # FLOPs in fp32 outside of tensor cores
    exponentials: float  # 16 a clock and multiprocessor


_HOPPER = {"bf16": 989e12, "fp32": 494e12 / 3, "int8": 1979e12}
GPUS = (
    # 64 fp32 lanes a multiprocessor: an eighth as many exponentials as FLOPs; of 128, a sixteenth.
    Gpu("A100", 2.04e12, {"bf16": 312e12, "fp32": 156e12 / 3, "int8": 624e12}, 19.5e12, 19.5e12 / 8),
    Gpu("H100", 3.35e12, _HOPPER, 67e12, 67e12 / 16),
    Gpu("H200", 4.8e12, _HOPPER, 67e12, 67e12 / 16),
)


def floor(work: Work, gpu: Gpu, dtype: str) -> tuple[float, str]:
    """Seconds at the least, and what takes them: memory, products, arithmetic or exponentials."""
    rates = (gpu.memory, gpu.products[dtype], gpu.vector, gpu.exponentials)
    limits = ("memory", "products", "arithmetic", "exponentials")
    return max((amount / rate, what) for amount, rate, what in zip(work, rates, limits, strict=True))


# Of the published models at 1024 x 1024 pixels: positions of a frame's map, channels of its queries and of memory
# tokens, memories that an object has at most, and tokens of its pointers (16, of four tokens each).
N, D, M_CHANNELS, PAGES, POINTERS = 4096, 256, 64, 7, 64
SIZES = {"bf16": 2, "fp32": 4}


class Windowed(NamedTuple):
    """Attention of one block of Hiera."""

    side: int  # of the map
    window: int  # 0: the map is one window
    heads: int
    width: int  # channels of a head
    stride: int  # of pooling: 2, or 1

    @property
    def name(self) -> str:
        pooled = ", pooled" if self.stride > 1 else ""
        where = f"windows of {self.window}" if self.window else "one window"
        return f"{self.side}×{self.side}, {where}{pooled}"


@functools.cache
def hiera_blocks(size: str) -> tuple[Windowed, ...]:
    """Every block of a published model, in order."""
    import torch

    from sam2fast.config import load_config
    from sam2fast.modeling.hiera import Hiera

    trunk = dict(load_config(f"configs/sam2.1/sam2.1_hiera_{size}.yaml").model.image_encoder.trunk)
    del trunk["_target_"]
    with torch.device("meta"):
        blocks: Iterable[Any] = Hiera(**trunk).blocks
    side, found = 256, []
    for block in blocks:
        stride, heads = (2 if block.q_stride else 1), block.attn.num_heads
        found.append(Windowed(side, block.window_size, heads, block.dim_out // heads, stride))
        side //= stride
    return tuple(found)


def window_attention(block: Windowed, size: int) -> Work:
    """Both products of each query with the keys of its window; the projected map read, the result written."""
    window = block.window or block.side
    pairs = math.ceil(block.side / window) ** 2 * window**4 / block.stride**2  # padding included
    channels = block.heads * block.width
    moved = size * channels * (3 * block.side**2 + (block.side // block.stride) ** 2)
    return Work(moved, products=4 * pairs * channels, exponentials=pairs * block.heads)


def stages(size: str) -> list[tuple[int, int]]:
    """Positions and channels of a model's four stages."""
    found = {}
    for block in hiera_blocks(size):
        found[block.side // block.stride] = block.heads * block.width
    return [(side**2, channels) for side, channels in found.items()]


def memory_tokens(pages: int = PAGES, pointers: int = POINTERS) -> int:
    return pages * N + pointers


def memory_attention(objects: int, size: int, splits: int, tokens: int = memory_tokens()) -> Work:
    """One layer; with what its four launches hand to one another, each written once and read once.

    ``size`` is bytes of a number; ``splits`` programs share the keys of a tile of queries.
    """
    pairs = N * tokens
    products = 2 * pairs * (D + M_CHANNELS) + 2 * tokens * M_CHANNELS * D + 2 * N * M_CHANNELS * D
    bank = size * tokens * M_CHANNELS
    between = size * (N * D + tokens * (D + M_CHANNELS)) + 4 * splits * N * (M_CHANNELS + 1)
    # The bank read; queries read and the result written; both ways what is handed on.
    moved = bank + 2 * size * N * D + 2 * between
    shared = size * 2 * D * M_CHANNELS + 4 * N * (M_CHANNELS + D)  # weights, encoding and rotation: one for all
    return Work(moved * objects + shared, products * objects, exponentials=pairs * objects)


def published_memory_attention(objects: int, tokens: int = memory_tokens()) -> float:
    """FLOPs of one layer as published: every token projected to a value as wide as the keys."""
    return float(objects * (4 * N * tokens * D + 4 * tokens * M_CHANNELS * D))


def self_attention(objects: int, size: int, splits: int) -> Work:
    """A frame's map to itself; rotated queries and keys are written and read, and so are the parts of split keys."""
    parts = 4 * splits * N * (D + 1) if splits > 1 else 0
    moved = size * N * D * 4 + 2 * (2 * size * N * D + parts)
    return Work(moved * objects + 4 * N * D, 4 * N * N * D * objects, exponentials=N * N * objects)


def layer_norm(rows: int, channels: int, x: int, delta: int) -> Work:
    """Sum and norm of a stream of ``x`` bytes a number, to which ``delta`` bytes a number are added.

    The sum has the stream's dtype, the norm that of what is added. Eight FLOPs a number: the sum, that for the mean,
    centring, the square and its sum, two factors and the bias.
    """
    return Work(rows * channels * (2 * x + 2 * delta), vector=8 * rows * channels)


def linear_gelu(rows: int, inner: int, outer: int, size: int) -> Work:
    moved = size * (rows * inner + inner * outer + outer + rows * outer)
    return Work(moved, products=2 * rows * inner * outer)


def taps(length: int, wanted: int) -> int:
    """Input pixels that the loop over one axis takes."""
    return 2 * math.ceil(length / wanted) + 1


def preprocess(batch: int, height: int, width: int, side: int = 1024) -> Work:
    """Bytes read, fp32 written; 12 FLOPs a tap: the column's weight, the product of both, three sums, their total."""
    moved = batch * 3 * (height * width + 4 * side**2)
    return Work(moved, vector=12 * batch * side**2 * taps(height, side) * taps(width, side))


LOW = 256 * 256  # logits of a mask
BLEND = 9  # FLOPs of a pixel between four logits: two fused products and one more for each of three sums


def connected_components(masks: int, pixels: int) -> Work:
    return Work(9.0 * masks * pixels)


def mask_statistics(masks: int, pixels: int) -> Work:
    return Work(masks * (4.0 * LOW + 28), vector=(BLEND + 3) * masks * pixels)


def upsample_and_threshold(masks: int, pixels: int) -> Work:
    return Work(masks * (4.0 * LOW + pixels), vector=(BLEND + 1) * masks * pixels)


def upsample_and_pack(masks: int, height: int, width: int) -> Work:
    return Work(masks * (4.0 * LOW + height * math.ceil(width / 8)), vector=(BLEND + 1) * masks * height * width)


def suppress_overlaps(objects: int, pixels: int) -> Work:
    """Logits in fp32, read twice: once for who is largest, once to write."""
    return Work(12.0 * objects * pixels, vector=2 * objects * pixels)


def encode_masks(masks: int, height: int, width: int, runs: int) -> Work:
    """Pixels read in both passes; of columns and runs what :func:`_of_lists` says."""
    return Work(2.0 * masks * height * width + _of_lists(masks * width, runs))


def encode_upsampled(masks: int, height: int, width: int, runs: int) -> Work:
    """Each pixel interpolated in both passes, and there twice: also as the one before its neighbour."""
    moved = 2 * 4.0 * masks * LOW + _of_lists(masks * width, runs)
    return Work(moved, vector=4 * (BLEND + 1) * masks * height * width)


def _of_lists(columns: int, runs: int) -> float:
    """Bytes: a column's changes written, summed up (read 4, written 8) and both read again; where a run begins written,
    moved by one (8), and taken from the next (12)."""
    return 28.0 * columns + 24.0 * runs


def box_nms(boxes: int) -> Work:
    """Pairs at and right of the diagonal, 64 by 64: 13 operations each; half of the words written, and read at most."""
    words = _words(boxes)
    return Work(16.0 * boxes + 2 * 8 * words + boxes, vector=13 * 64 * words)


def mask_nms(masks: int, pixels: int) -> Work:
    """The pixels of each pair multiplied as int8, at and right of the diagonal; pixels read for the areas, too."""
    words = _words(masks)
    return Work(2.0 * masks * pixels + 2 * 8 * words + masks, products=2 * 64 * words * pixels)


def _words(count: int) -> float:
    """Of 64 pairs each, at and right of the diagonal of blocks."""
    blocks = math.ceil(count / 64)
    return 64 * blocks * (blocks + 1) / 2

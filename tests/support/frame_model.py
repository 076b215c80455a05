"""Estimates the time of a kernel on an H100 from its bytes and FLOPs. Only PEAK was measured on a GPU.

Kernels run one after the other. Each takes at least FLOOR, and at least GAP plus the longer of two times: its bytes at
BANDWIDTH, without cache hits, and its FLOPs:

- A matrix multiplication is divided into tiles, one at a time on each multiprocessor, with the fastest of TILES. A wave
  of tiles takes FILL plus its FLOPs at PRODUCTS, shared equally by all multiprocessors. FILL is the time to load the
  first operands and to write the results. A partial last wave takes as long as a full one.
- Attention over many keys runs in waves of programs, at the rate of its part of a frame. Other attention runs at the
  rate of its part without waves.
- A convolution counts as the equivalent matrix multiplication.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor

GAP = 1e-6  # seconds from the end of a kernel in a graph to the beginning of the next
FLOOR = 3.2e-6  # seconds of the smallest kernels, including the gap
FILL = 1.2e-6
PROCESSORS = 132
TILES = ((256, 128), (128, 256), (128, 128), (128, 64))  # rows and columns
BANDWIDTH = 0.8 * 3.0e12  # bytes per second of copies on an H100, less a fifth
PEAK = 790e12  # FLOP per second of large bf16 products on an H100
PRODUCTS = 0.8 * PEAK
ATTENTION = 0.5 * PEAK
# Parts of a frame with attention, and the other parts in the table.
MEMORY, ITSELF, WHOLE, WINDOWS = "attention to memory", "its self-attention", "attention over whole maps", "windows"
MULTIPLICATIONS, NORMS, GELU = "matrix multiplications", "LayerNorm", "separate GELU"
OTHERS, SMALLEST = "other kernels", "kernels at the floor"
PARTS = (MEMORY, ITSELF, WHOLE, WINDOWS, MULTIPLICATIONS, NORMS, GELU, OTHERS, SMALLEST)
RATES = dict.fromkeys((MEMORY, ITSELF, WHOLE, WINDOWS), ATTENTION)

ROWS_OF_A_PROGRAM = 128  # queries, in attention by torch
MULTIPLYING = ("mm", "addmm", "addmm_", "_addmm_activation", "bmm", "baddbmm", "_linear_gelu_kernel",
               "_embed_patches_kernel")  # fmt: skip
CONVOLVING = ("convolution", "_downsample_map_kernel")


class Shape(NamedTuple):
    """Stores the shape of ``batch`` simultaneous matrix multiplications, (M, K) by (K, N)."""

    batch: int
    M: int
    N: int
    K: int

    @property
    def seconds(self) -> float:
        """Returns the time with the best tile, without the gap."""
        return min(self._in_tiles(*tile) for tile in TILES)

    def _in_tiles(self, rows: int, columns: int) -> float:
        tiles = self.batch * math.ceil(self.M / rows) * math.ceil(self.N / columns)
        return math.ceil(tiles / PROCESSORS) * (FILL + 2 * rows * columns * self.K / (PRODUCTS / PROCESSORS))


class Cost(NamedTuple):
    """Stores the cost of one launch."""

    name: str
    bytes: int
    flops: int
    kind: str = OTHERS  # one of PARTS
    shape: Shape | None = None  # shape of a matrix multiplication
    programs: int = 0  # programs of attention over many keys; a multiprocessor runs one at a time

    @property
    def part(self) -> str:
        return SMALLEST if self.seconds == FLOOR else self.kind

    @property
    def seconds(self) -> float:
        computing = self.shape.seconds if self.shape else self.flops / RATES.get(self.kind, PRODUCTS)
        if self.programs:
            computing *= math.ceil(self.programs / PROCESSORS) * PROCESSORS / self.programs
        return max(FLOOR, GAP + max(self.bytes / BANDWIDTH, computing))


def cost_of(name: str, moved: int, flops: int, args: Any, kwargs: Any) -> Cost:
    """Returns the cost of a launch with these arguments, including its kind, shape and programs."""
    if name == "_attend_kernel":
        (B, H, _, _), N, splits = args[2].shape, args[0].shape[2], 1 if kwargs["DIRECT"] else args[7].shape[0]
        programs = B * H * splits * math.ceil(N / kwargs["BLOCK_M"])
        return Cost(name, moved, flops, MEMORY if kwargs["RAGGED"] else ITSELF, programs=programs)
    if "scaled_dot_product" in name:
        B, H, N, _ = args[0].shape
        return Cost(name, moved, flops, WHOLE, programs=B * H * math.ceil(N / ROWS_OF_A_PROGRAM))
    if name in MULTIPLYING or name in CONVOLVING:
        return Cost(name, moved, flops, MULTIPLICATIONS, _shape(name, flops, args))
    kinds = {"_window_attention_kernel": WINDOWS, "_add_layer_norm_kernel": NORMS, "gelu": GELU, "gelu_": GELU}
    kinds |= {"_token_attention_kernel": WHOLE}
    kinds |= dict.fromkeys(("_norm_linear_kernel", "_grouped_mlp_kernel", "_mlp_kernel"), MULTIPLICATIONS)
    return Cost(name, moved, flops, kinds.get(name, OTHERS))


def _shape(name: str, flops: int, args: Any) -> Shape:
    if name in CONVOLVING:
        N, K = args[1].shape[0], args[1][0].numel()
        return Shape(1, flops // (2 * N * K), N, K)
    if name == "_embed_patches_kernel":
        weight, out = args[1], args[4]
        return Shape(1, out[..., 0].numel(), out.shape[-1], weight[..., 0].numel())
    if name == "_linear_gelu_kernel":
        x, weight = args[:2]
        return Shape(1, x.numel() // x.shape[-1], *weight.shape)
    left, right = [x for x in args if isinstance(x, Tensor)][-2:]
    return Shape(len(left) if left.ndim == 3 else 1, left.shape[-2], right.shape[-1], left.shape[-1])


def by_part(costs: Iterable[Cost], frames: int = 1) -> dict[str, dict[str, float]]:
    """Returns launches and seconds of each part per frame, in the order of PARTS."""
    every = list(costs)
    return {
        part: {
            "launches": sum(cost.part == part for cost in every) / frames,
            "seconds": sum(cost.seconds for cost in every if cost.part == part) / frames,
        }
        for part in PARTS
    }

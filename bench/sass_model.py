"""What a program's instructions take at the least: a bound on the fraction of a GPU's peak that a kernel can reach.

Everything that is assumed is in this file. Clocks are those of one multiprocessor, and resources are:

- tensor: matrix products, by what each instruction multiplies, padding included;
- shared: bytes from and to shared memory, operands of wgmma and tcgen05 included, without bank conflicts;
- other: everything else that warps execute. It is the longest of: issue of instructions, MUFU, FP32, and integers with
  comparisons and conversions;
- L2: bytes from and to global memory, as if all came from the L2 cache.

A program waits for its scores before the softmax, and for the weights before their product: what its own warps do in
turn adds up to max(tensor, shared) + other + ``LATENCY`` for each block of keys. Where loads are not issued an
iteration ahead, L2 and ``LOAD`` come on top. Programs that run at once on a multiprocessor, and specialised groups of
warps, fill each other's gaps, up to the resource that is used most. Measured times are longer: kernels of this kind
are assumed to reach ``REALITY`` of such a bound. No figure here has been measured on a GPU, except that an H100 reaches
80 % of its peak in large products.
"""

import re
from collections import Counter
from typing import NamedTuple

from sass_code import Instruction, by_kind

LATENCY = 150  # clocks per block of keys of waits that nothing in the program overlaps
LOAD = 500  # clocks per block of keys until the first bytes come, where nothing overlaps that
REALITY = 0.8
SHARED_BYTES = 128  # per clock
ISSUE = 4  # instructions of a warp per clock
MUFU = 16  # lanes per clock
INTEGER = 64  # lanes per clock for integers, comparisons and conversions
# FP32 instructions that compare, select or convert, which the integer lanes execute.
AS_INTEGER = re.compile(r"F(MNMX|SEL|SETP|CHK|2F)")
RESERVED = 1024  # bytes of shared memory that each program takes besides its own


class Chip(NamedTuple):
    """One multiprocessor."""

    tensor: float  # FLOPs per clock of 16-bit products; twice that in fp8, half of it in TF32
    mma: float  # the same by mma.sync, which newer GPUs execute more slowly than their own instructions
    fp32: int  # lanes per clock
    l2: float  # bytes per clock, when all multiprocessors read
    shared: int  # bytes of shared memory
    registers: int = 65536
    warps: int = 64


CHIPS = {
    "sm_80": Chip(2048, 2048, 64, 30, 167936),
    "sm_90": Chip(4096, 2560, 128, 24, 233472),
    "sm_100": Chip(8192, 2560, 128, 24, 233472),
    # GeForce GPUs have half the rate if sums are in fp32.
    "sm_86": Chip(512, 512, 128, 24, 102400, warps=48),
    "sm_89": Chip(512, 512, 128, 24, 102400, warps=48),
    "sm_120": Chip(512, 512, 128, 24, 102400, warps=48),
}


class Product(NamedTuple):
    """One ``tl.dot``: (rows, depth) times (depth, columns)."""

    rows: int
    columns: int
    depth: int
    size: int = 2  # bytes of a number

    @property
    def flops(self) -> float:
        """In FLOPs of 16-bit products that take as long."""
        return self.passes * self.rows * self.columns * self.depth * self.size

    @property
    def passes(self) -> int:
        """fp32 is made of three products in TF32."""
        return 3 if self.size == 4 else 1


class Tile(NamedTuple):
    """What one program computes."""

    products: tuple[Product, ...]  # for one block of keys
    blocks: float  # of keys
    useful: float  # FLOPs without padding, as ``Product.flops`` counts them
    inner: int = 1  # iterations of the loop over a head's channels, where there is one


class Clocks(NamedTuple):
    """Of one program, by resource."""

    tensor: float
    shared: float
    other: float
    l2: float
    latency: float  # of waits, and of loads that nothing overlaps

    def with_programs(self, programs: int, groups: int = 1) -> float:
        """Clocks for one more program where so many run at once, of so many specialised groups of warps."""
        alone = (max(self.tensor, self.shared) + self.other) / groups + self.latency
        return max(alone / programs, self.tensor, self.shared, self.other, self.l2)


def programs_at_once(chip: Chip, registers: int, shared: int, warps: int) -> int:
    """How many programs a multiprocessor runs at once."""
    by_registers = chip.registers // (max(1, -(-registers // 8)) * 8 * 32 * warps)
    return min(by_registers, chip.shared // (shared + RESERVED), chip.warps // warps)


def clocks(chip: Chip, tile: Tile, counts: Counter[Instruction], warps: int, is_prefetched: bool) -> Clocks:
    """Of a program that executes so many of each instruction in each of its warps."""
    kinds = by_kind(counts)
    as_integer = sum(n for x, n in counts.items() if AS_INTEGER.match(x.root))
    lanes = 32 * warps
    other = max(
        warps * (sum(kinds.values()) - kinds["wgmma"] - kinds["mma"] - kinds["tcgen05"]) / ISSUE,
        lanes * kinds["mufu"] / MUFU,
        lanes * (kinds["fp32"] - as_integer) / chip.fp32,
        lanes * (kinds["int"] + as_integer) / INTEGER,
    )
    moved = warps * sum(n * x.bytes for x, n in counts.items() if x.kind == "global")
    staged = warps * sum(n * x.bytes for x, n in counts.items() if x.kind == "shared" or x.root == "LDGSTS")
    if any(x.root == "UTMALDG" for x in counts):  # one instruction copies a tile: queries, keys, or values
        queries = tile.products[0].size * tile.products[0].rows * tile.products[0].depth
        tiles = queries + tile.blocks * sum(p.size * p.columns * p.depth for p in tile.products)
        moved, staged = moved + tiles, staged + tiles
    tensor, operands = products(chip, tile, counts, warps)
    l2 = moved / chip.l2
    latency = LATENCY * tile.blocks + (0 if is_prefetched else LOAD * tile.blocks + l2)
    return Clocks(tensor, (staged + operands) / SHARED_BYTES, other, l2, latency)


def products(chip: Chip, tile: Tile, counts: Counter[Instruction], warps: int) -> tuple[float, float]:
    """Clocks of the tensor cores, and bytes of operands that they read from shared memory themselves."""
    taken = operands = 0.0
    for instruction, times in counts.items():
        if instruction.kind == "wgmma" and (sides := re.search(r"(\d+)x(\d+)x(\d+)", instruction.name)):
            m, n, k = map(int, sides.groups())  # k numbers of any kind are 32 bytes
            own = re.match(r"R\d+, gdesc", instruction.operands) is not None  # the left side, too, is in shared memory
            taken += times * warps / 4 * 2 * m * n * 16 / chip.tensor
            operands += times * warps / 4 * 32 * (n + (m if own else 0))
        elif instruction.kind == "mma" and (depth := re.search(r"\.168(\d+)", instruction.name)):
            size = (
                4
                if "TF32" in instruction.name
                else 2
                if "16816" in instruction.name or "1688" in instruction.name
                else 1
            )
            taken += times * warps * 2 * 16 * 8 * int(depth[1]) * (size / 2) / chip.mma
    if any(x.kind == "tcgen05" for x in counts):
        from_tensor_memory = any(x.kind == "tcgen05" and x.operands.startswith("tmem") for x in counts)
        for i, p in enumerate(tile.products):
            # Fewer than 128 rows take as long as 128.
            taken += tile.blocks * p._replace(rows=max(128, p.rows)).flops / chip.tensor
            left = 0 if i >= len(tile.products) // 2 and from_tensor_memory else p.rows
            operands += tile.blocks * p.passes * p.size * p.depth * (left + p.columns)
    return taken, operands


def bound(chip: Chip, tile: Tile, found: Clocks, programs: int, groups: int = 1) -> float:
    """The fraction of the peak that this can reach."""
    return tile.useful / chip.tensor / found.with_programs(max(1, programs), groups)

"""Kernels as ``sass.py`` reads them: what their programs compute, and what is wrong."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from recorded import PRODUCTS, Launch
from sass_code import Instruction, exchanged, wgmma_groups
from sass_model import Clocks, Product, Tile

from sam2fast.kernels._launch import ANY
from sam2fast.kernels.linear_gelu import NARROW

TOLERANCE = 0.01  # of a bound, for another assembler's order of instructions
# Programs at once on a multiprocessor that hide each other's loads where a loop does not.
HIDING = 3
MAP = 64 * 64  # positions of a map
TOKENS = 7 * MAP + 64  # of an object's memory
SPLITS = 4  # programs that share the keys of a tile of queries
PIXELS = 256 * 256  # of a mask whose overlaps are computed


class Report(NamedTuple):
    """One kernel and target."""

    name: str  # of the kernel, by which its bound is stored
    config: str
    warps: int
    registers: int
    shared: int  # bytes
    programs: int  # of a multiprocessor at once, as it is launched
    tensor: str  # tensor-core instructions of an iteration and their kind
    tile: Tile | None  # None for a kernel without products, which has no bound
    counts: dict[str, int]  # of the others, by kind
    waits: int  # of those: barriers, and waits for loads or products
    ahead: float | None  # see iterations_ahead
    clocks: Clocks | None
    bound: float
    left: int  # wgmma whose left side is in registers
    hazards: list[str]  # see sass_hazards.py
    problem: str


def problems(
    report: Report,
    launch: Launch,
    body: Sequence[Instruction],
    fitting: int,
    stored: Mapping[str, float] | None,
) -> Iterator[str]:
    """What is wrong with a kernel.

    Args:
        body: the instructions of the main loop; without one, those from the first product to the last.
        fitting: how many of its programs fit on a multiprocessor.
        stored: bounds by name; None if they do not matter.
    """
    yield from report.hazards
    if report.tile is None:
        return
    # Means of keys, which are rare, share the configuration, whatever they need.
    if report.programs > fitting and not launch.constants.get("OFFSETS"):
        yield f"{report.programs} programs of a multiprocessor are wanted at once, and {fitting} fit"
    if launch.dtype != "float32":
        if report.ahead == 0 and fitting < HIDING and launch.shape != ANY:
            yield f"loads are not prefetched, and {fitting} programs at once do not hide them"
        if (groups := wgmma_groups(body)) > len(report.tile.products):
            yield f"wgmma is serialised: {len(report.tile.products)} products are waited for in {groups} groups"
        if found := changed_threads(report, launch, report.tile, body):
            yield f"{found} bytes of a warp go through shared memory to other threads in the loop"
    if stored is not None:
        if report.name not in stored:
            yield "no bound is stored; --store stores it"
        elif report.bound < stored[report.name] - TOLERANCE:
            yield f"the bound is {report.bound:.1%}, and {stored[report.name]:.1%} is stored"


def changed_threads(report: Report, launch: Launch, tile: Tile, body: Sequence[Instruction]) -> int:
    """``exchanged``, or 0 where a configuration cannot avoid it.

    Triton spreads warps over columns in a product by ``mma`` that has more of them than rows: the weights change
    threads. Accumulators in tensor memory are laid out in their own way: the scale of each row changes threads. Pixels
    are computed with between their load and their product, and change threads between.
    """
    if launch.op == "embed_patches":
        return 0
    found, products = exchanged(body), tile.products
    if any(x.kind == "mma" for x in body) and any(p.columns > p.rows for p in products[len(products) // 2 :]):
        return 0
    scales = 8 * products[0].rows * len(products) // 2 if any(x.kind == "tcgen05" for x in body) else 0
    return found if found * report.warps > scales else 0


def tile_of(launch: Launch) -> Tile | None:
    """What a program of this kernel multiplies, if anything."""
    if launch.name not in PRODUCTS:
        return None
    if launch.op == "linear_gelu":
        return linear_tile(launch)
    if launch.op == "norm_linear":
        return norm_tile(launch)
    if launch.op == "token_attention":
        return token_tile(launch)
    if launch.op == "embed_patches":
        return patch_tile(launch)
    if launch.op == "mask_downsampler":
        return downsampled_tile(launch)
    if launch.op == "mlp":
        return mlp_tile(launch)
    if launch.op == "nms":
        product = Product(64, 32, launch.constants["BLOCK_K"], 1)
        return Tile((product,), PIXELS / product.depth, PIXELS / product.depth * product.flops)
    return memory_tile(launch) if launch.op == "memory_attention" else window_tile(launch)


def variant(launch: Launch) -> str:
    """What tells the kernels of a configuration apart."""
    c = launch.constants
    if launch.op == "memory_attention" and launch.name in PRODUCTS:
        flags = [name for name in ("FP8", "OFFSETS", "DIRECT") if c.get(name)]
        return " ".join([f"{c['D']}/{c['WIDTH']}", *map(str.lower, flags)])
    if launch.op == "window_attention":
        flags = [name for name in ("POOL", "RESIDUAL", "PAD") if c[name]]
        return " ".join([f"{c['D']} in {c['WINDOW'] or 'one window'}", *map(str.lower, flags)])
    if launch.op == "token_attention":
        keys = "shared keys" if c["SPLIT"] else f"{c['BLOCK_N']} keys"
        return f"{c['D']} by {keys}" + " in full blocks" * c["EVEN"]
    if launch.op == "embed_patches":
        return f"{c['WIDTH'] + c['REST']} of {launch.types['pixels'].strip('*:16')}"
    return " ".join([launch.name, *(f"{k}={v}" for k, v in c.items() if k not in launch.meta)])


def linear_tile(launch: Launch) -> Tile:
    """Of the widest input, or of large's first stage, whose 144 channels fill no whole block."""
    c, size = launch.constants, 4 if launch.dtype == "float32" else 2
    K = (NARROW if launch.shape == "narrow" else 1152) if c["EVEN"] else 144
    share = 4 * K / c["BLOCK_N"] / math.ceil(4 * K / c["BLOCK_N"])
    product = Product(c["BLOCK_M"], c["BLOCK_N"], c["BLOCK_K"], size)
    return Tile((product,), math.ceil(K / c["BLOCK_K"]), share * product._replace(depth=K).flops)


def norm_tile(launch: Launch) -> Tile:
    """Of an inner layer of half as many channels as the norm has; half the rows of one object's tile are used."""
    c, size = launch.constants, 4 if launch.dtype == "float32" else 2
    product, K = Product(c["BLOCK_M"], c["WIDTH"], c["BLOCK_K"], size), c["WIDTH"] // 2
    useful = product._replace(rows=8 if launch.shape == "few" else c["BLOCK_M"], depth=K).flops
    return Tile((product,), math.ceil(K / c["BLOCK_K"]), useful)


def token_tile(launch: Launch) -> Tile:
    """Eight tokens' tile with the keys of a map, or a tile of a map with eight tokens' keys."""
    c, size = launch.constants, 4 if launch.dtype == "float32" else 2
    rows, keys = c["WARPS"] * c["BLOCK_M"], c["WARPS"] * c["BLOCK_N"] if c["SPLIT"] else c["BLOCK_N"]
    products = Product(rows, c["BLOCK_N"], c["D"], size), Product(rows, c["D"], c["BLOCK_N"], size)
    useful = 8 * MAP if c["SPLIT"] else rows * min(8, c["BLOCK_N"])
    return Tile(products, MAP / keys if c["SPLIT"] else 1, 2 * useful * Product(1, 1, c["D"], size).flops)


def patch_tile(launch: Launch) -> Tile:
    """Returns the tile of 96, 112 or 144 channels."""
    c, size = launch.constants, 4 if launch.dtype == "float32" else 2
    products = [Product(c["BLOCK"], c[part], 32, size) for part in ("WIDTH", "REST") if c[part]]
    channels = {(64, 32): 96, (128, 0): 112, (128, 16): 144}[c["WIDTH"], c["REST"]]
    return Tile(tuple(products), 7, products[0]._replace(columns=channels, depth=147).flops)


def downsampled_tile(launch: Launch) -> Tile:
    """Of shifted tiles; the input channels of all taps may not fill the last block."""
    c, size = launch.constants, 4 if launch.dtype == "float32" else 2
    product, K = Product(c["BLOCK_M"], c["WIDTH"], c["BLOCK_K"], size), c["KERNEL"] ** 2 * c["C"]
    return Tile((product,), math.ceil(K / c["BLOCK_K"]), product._replace(depth=K).flops)


def mlp_tile(launch: Launch) -> Tile:
    """Of both layers, by blocks of four times as many hidden columns as there are channels."""
    c, size = launch.constants, 4 if launch.dtype == "float32" else 2
    pieces = [piece for piece in (c["D1"], c["D2"]) if piece]
    first = [Product(c["BLOCK_M"], c["BLOCK_N"], piece, size) for piece in pieces]
    second = [Product(c["BLOCK_M"], piece, c["BLOCK_N"], size) for piece in pieces]
    useful = 2 * Product(c["BLOCK_M"], 4 * c["C"], c["C"], size).flops
    return Tile((*first, *second), math.ceil(4 * c["C"] / c["BLOCK_N"]), useful)


def memory_tile(launch: Launch) -> Tile:
    """One object's share of the keys of its memory, or of its own map."""
    c, size = launch.constants, 4 if launch.dtype == "float32" else 2
    products = (
        Product(c["BLOCK_M"], c["BLOCK_N"], c["D"], 1 if c.get("FP8") else size),
        Product(c["BLOCK_M"], c["WIDTH"], c["BLOCK_N"], size),
    )
    blocks = (TOKENS if c.get("RAGGED", True) else MAP) / SPLITS / c["BLOCK_N"]
    return Tile(products, blocks, blocks * sum(p.flops for p in products), c["D"] // c.get("CHUNK", c["D"]))


def window_tile(launch: Launch) -> Tile:
    """An average tile of the queries of some windows; padding that is a real key counts as one."""
    c, size = launch.constants, 4 if launch.dtype == "float32" else 2
    keys = c["WINDOW"] ** 2 or MAP
    queries = c["GROUP"] * keys / (4 if c["POOL"] else 1)
    rows = queries / math.ceil(queries / c["BLOCK_M"])
    pieces = [piece for piece in (c["D1"], c["D2"]) if piece]
    scores = [Product(c["BLOCK_M"], c["BLOCK_N"], piece, size) for piece in pieces]
    sums = [Product(c["BLOCK_M"], piece, c["BLOCK_N"], size) for piece in pieces]
    useful = 2 * Product(1, 1, c["D"], size).flops * rows * keys
    return Tile((*scores, *sums), math.ceil(c["GROUP"] * keys / c["BLOCK_N"]), useful)

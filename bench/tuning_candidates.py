"""What ``tune.py`` tries: the candidates of each row of the launch table, most important rows first.

Candidates that cannot be launched cost minutes on a rented GPU, so that lists leave out what does not fit: by the
formulas here, and by ``python bench/aot.py --candidates``, which compiles the rest for sm_90 and says what spills or
takes more registers or shared memory than there are.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sam2fast.kernels._launch import ANY, CTAS_PER_SM
from sam2fast.kernels.window_attention.sdpa import CUDNN, DEFAULT, FLASH

Candidate = tuple[dict[str, int], dict[str, int]]  # meta and options of a row
# Of a multiprocessor of sm_90: registers, and shared memory in bytes, of which every program takes some for itself.
REGISTERS, SHARED, SHARED_PER_PROGRAM = 65536, 233472, 1024
# The most shared memory of one program.
MOST_SHARED = 232448


class Search(NamedTuple):
    """What is tried for one row of the table."""

    op: str
    dtype: str
    shape: str
    candidates: list[Candidate]
    cases: tuple[str, ...]  # ops of the registry whose cases decide: those of this dtype and shape class
    # If given, the row says under this name which of torch's own ways is taken instead of the kernel; 0 is the kernel.
    choice: str = ""
    choices: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.op} {self.dtype} {self.shape}"


def attention_search(dtype: str, shape: str, tiles: Iterable[tuple[int, ...]]) -> Search:
    """``tiles``: BLOCK_M, BLOCK_N, CHUNK, warps, stages, and programs of a multiprocessor at once."""
    d, width = map(int, shape.split("x"))
    candidates = [
        (
            {"BLOCK_M": m, "BLOCK_N": n, "CHUNK": chunk} | ({CTAS_PER_SM: programs} if programs > 1 else {}),
            {"num_warps": warps, "num_stages": stages},
        )
        for m, n, chunk, warps, stages, programs in tiles
        if could_fit(dtype, d, width, m, n, chunk, warps, stages, programs)
    ]
    return Search("memory_attention", dtype, shape, candidates, ("memory_attention", "rope_attention"))


def could_fit(
    dtype: str, d: int, width: int, m: int, n: int, chunk: int, warps: int, stages: int, programs: int = 1
) -> bool:
    """Whether blocks fit into shared memory, and scores and sums into registers beside what else is there.

    fp32 products are made of three and keep their parts in registers too. Of what has fewer bits, tensor cores take 64
    rows with four warps. Of several programs at once, each has its part of the multiprocessor.
    """
    size, most, rows = (4, 80, 16) if dtype == "float32" else (2, 160, 16 * warps)
    shared = size * (m * min(d, chunk) + stages * n * (min(d, chunk) + width))
    registers = m * (n + width) / (32 * warps)
    if shared > MOST_SHARED or registers > most or m < rows:
        return False
    return programs <= programs_at_once(shared, int(registers) + 40, warps)


def programs_at_once(shared: int, registers: int, warps: int) -> int:
    """How many programs of so much shared memory, registers of each thread, and warps a multiprocessor runs at once."""
    by_registers = REGISTERS // (-(-registers // 8) * 8 * 32 * warps)
    return min(SHARED // (shared + SHARED_PER_PROGRAM), by_registers, 64 // warps)


def window_search(dtype: str, shape: str, tiles: Iterable[tuple[int, ...]], choices: tuple[int, ...] = ()) -> Search:
    """``tiles``: BLOCK_M, BLOCK_N, warps, stages, and ROWS_PER_WARP where tiles of few queries take fewer warps."""
    candidates = [
        (
            {"BLOCK_M": m, "BLOCK_N": n} | ({"ROWS_PER_WARP": rows[0]} if rows else {}),
            {"num_warps": warps, "num_stages": stages},
        )
        for m, n, warps, stages, *rows in tiles
    ]
    choice = "SDPA" if choices else ""
    return Search("window_attention", dtype, shape, candidates, ("window_attention",), choice, choices)


def gelu_search(dtype: str, tiles: Iterable[tuple[int, ...]]) -> Search:
    """``tiles``: BLOCK_M, BLOCK_N, BLOCK_K, warps and stages."""
    candidates = [
        ({"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, "GROUP": 8}, {"num_warps": warps, "num_stages": stages})
        for m, n, k, warps, stages in tiles
        if m * n <= 2048 * warps
    ]
    return Search("linear_gelu", dtype, ANY, candidates, ("linear_gelu",), "TORCH", (1,))


def mask_search(shape: str, ops: tuple[str, ...], tiles: Iterable[tuple[int, ...]]) -> Search:
    """``tiles``: BLOCK_Y, BLOCK_X and warps."""
    candidates = [
        ({"BLOCK_Y": y, "BLOCK_X": x}, {"num_warps": warps, "num_stages": 1})
        for y, x, warps in tiles
        if 1 <= y * x // (32 * warps) <= 16
    ]
    return Search("mask_ops", ANY, shape, candidates, ops)


def runs_search(shape: str, op: str, most: int) -> Search:
    """``most``: pixels of a thread."""
    candidates = [
        ({"BLOCK_Y": y, "BLOCK_X": x}, {"num_warps": warps})
        for y, x, warps in itertools.product((8, 16, 32, 64), (32, 64, 128), (2, 4, 8))
        if 2 <= y * x // (32 * warps) <= most and (shape, y, x, warps) != ("upsampled", 16, 128, 8)  # which spills
    ]
    return Search("run_lengths", ANY, shape, candidates, (op,))


def tiles(
    block_m: Sequence[int], block_n: Sequence[int], chunks: Sequence[int], warps: Sequence[int], stages: Sequence[int]
) -> list[tuple[int, ...]]:
    """Every combination, with one program of a multiprocessor at once."""
    return [(*tile, 1) for tile in itertools.product(block_m, block_n, chunks, warps, stages)]


# With several programs at once, one computes while the other waits for its next keys.
TOGETHER = [(64, 32, 256, 4, 2, 2), (64, 32, 256, 4, 3, 2), (64, 32, 256, 4, 2, 3), (64, 64, 256, 4, 2, 2),
            (128, 32, 256, 8, 2, 2), (128, 32, 256, 4, 2, 2)]  # fmt: skip
SEPARATE = tiles((64, 128, 256), (32, 64, 128), (256,), (4, 8), (2, 3, 4))
# Of these, what spills on sm_90 where memory tokens have 64 channels and heads 256.
SPILLING = tiles((128,), (64,), (256,), (4,), (2, 3, 4))
# Most windows are one or two blocks of keys, which leaves little to overlap; a whole map is many. What spills on sm_90
# is left out: in bfloat16 all of it, since ahead-of-time compilation refuses it, in fp32 the worst.
WINDOWS = [(64, 32, 4, 1), (64, 32, 4, 2), (64, 64, 4, 1), (64, 64, 8, 1), (64, 32, 8, 1),
           (128, 32, 8, 1), (128, 32, 8, 2), (128, 64, 8, 1), (128, 64, 8, 2), (64, 32, 4, 1, 8), (64, 64, 4, 1, 8),
           (64, 64, 4, 1, 16), (128, 32, 8, 1, 16), (128, 32, 8, 2, 16), (128, 64, 8, 1, 16)]  # fmt: skip
WHOLE_MAP = [(64, 64, 4, 1), (64, 64, 4, 2), (64, 64, 4, 3), (64, 128, 4, 2), (64, 128, 4, 3), (128, 32, 8, 3),
             (128, 64, 8, 1), (128, 64, 8, 2), (128, 64, 8, 3), (128, 128, 8, 2), (128, 128, 8, 3)]  # fmt: skip

SEARCHES = [
    attention_search("bfloat16", "256x64", TOGETHER + [tile for tile in SEPARATE if tile not in SPILLING]),
    attention_search("bfloat16", "256x256", TOGETHER + SEPARATE),
    window_search("bfloat16", ANY, WINDOWS),
    window_search("bfloat16", "global", WHOLE_MAP, (DEFAULT, FLASH, CUDNN)),
    gelu_search("bfloat16", itertools.product((64, 128), (128, 256), (32, 64), (4, 8), (3, 4))),
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
        "connected_components",
        ANY,
        ANY,
        [
            ({"BLOCK": block}, {"num_warps": warps})  # others spill
            for block, warps in ((256, 4), (256, 8), (512, 4), (512, 8), (512, 16), (1024, 4), (1024, 16))
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
    runs_search(ANY, "encode_masks", 32),
    runs_search("upsampled", "encode_upsampled", 8),
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
        [({"KEEP_WARPS": keep}, {"num_warps": warps}) for keep, warps in itertools.product((1, 4, 8), (4, 8))],
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
    Search(
        "preprocess",
        ANY,
        ANY,
        [({"BLOCK": block}, {"num_warps": block // 64, "num_stages": 1}) for block in (128, 256, 512)],
        ("preprocess",),
    ),
    attention_search("bfloat16", "128x64", TOGETHER + SEPARATE),
    # Scores of memory in fp8 need tiles of 64 rows.
    attention_search("float32", "256x64", tiles((64, 128), (32, 64), (32, 64), (4, 8), (2, 3))),
    attention_search("float32", "256x256", tiles((32, 64, 128), (32, 64), (32, 64), (4, 8), (2, 3))),
    attention_search("float32", "128x64", tiles((64, 128), (32, 64), (32, 64), (4, 8), (2, 3))),
    window_search(
        "float32",
        ANY,
        [(64, 32, 4, 1), (64, 32, 4, 2), (64, 32, 8, 1), (64, 32, 8, 2), (64, 64, 4, 1), (128, 32, 8, 1),
         (128, 32, 8, 2), (128, 64, 8, 1)],
    ),
    window_search(
        "float32",
        "global",
        [(64, 32, 4, 1), (64, 32, 4, 2), (64, 32, 8, 1), (64, 32, 8, 2), (64, 32, 8, 3), (64, 64, 4, 2),
         (128, 32, 8, 1), (128, 32, 8, 2), (128, 32, 8, 3), (128, 64, 8, 1)],
        (DEFAULT,),
    ),
    gelu_search("float32", itertools.product((64, 128), (64, 128), (32,), (4, 8), (2, 3))),
]  # fmt: skip

"""Attention to the memory bank, and of a frame to itself."""

import contextlib
import functools
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # bench/, where a script's imports are

import torch
from attention import in_float32, memory_ways, published, rotated_before
from backend_calls import RefusedError, both_ways, by_triton, forced, runs_kernels
from inputs import (
    M_CHANNELS,
    PAGES,
    POINTERS,
    D,
    MemoryArguments,
    N,
    bank_with_gaps,
    full_bank,
    meta,
    projections,
    random,
    rope_tables,
    small,
    token_tables,
)
from parity_rows import SLACK, Check, Draw, integer, name_of
from registry import FLOOR, TIMED, Call, Calls, Case, Record, Sample, Search, Work, configured, programs_at_once, search
from torch import Tensor
from tuning_trials import launched_as

from sam2fast.kernels._dispatch import FLOATS
from sam2fast.kernels._launch import ANY, Row, architecture
from sam2fast.kernels._sdpa import CUDNN, DEFAULT, FLASH, NAMES, refused
from sam2fast.kernels.layer_norm import add_layer_norm_reference
from sam2fast.kernels.memory_attention import (
    AttendedMemory,
    add_memory_attention,
    add_rope_attention,
    apply_rope,
    memory_attention,
    memory_attention_reference,
    rope_attention,
    rope_attention_reference,
)
from sam2fast.kernels.memory_attention.approximations import too_old_for_fp8
from sam2fast.kernels.memory_attention.reference import WIDEST_MEMORY

FP8_ERROR = 0.5  # that attention in fp8 may be from the exact one, on random banks; a wrong scale is further off
# Kernels that no configuration takes, each in cases of its own, so that a wrong one costs no other row.
IN_GLUON = "in Gluon"
CANDIDATES = ("specialised", IN_GLUON)
EPS = 1e-5  # of layer norms
# The most shared memory of one program on sm_90.
MOST_SHARED = 232448
# Programs that share the keys of a tile of queries on 132 multiprocessors, of memory and of a map itself.
SPLITS = {("bf16", 1): (4, 4), ("bf16", 16): (1, 1), ("fp32", 1): (2, 1), ("fp32", 16): (1, 3)}
TOKENS = PAGES * N + POINTERS


def memory_case(
    objects: int,
    pages: int,
    dtype: torch.dtype,
    device: str = "",
    side: int = 64,
    d: int = 256,
    m: int = 64,
    compilers: bool = False,
    tokens: int = 0,
    candidate: str = "",
) -> Case:
    """Returns the case of one layer's cross-attention to ``pages`` memories and 16 pointers of four tokens per object.

    The baseline is the published formulation: values projected for every token, one object after the other, SDPA.

    Args:
        compilers: Compares only with the baseline compiled by ``torch.compile``, which takes a minute.
        tokens: Number of tokens of a page, as in EdgeTAM. Pages are maps if it is 0.
        candidate: Name of the candidate that is compared, too. With 16 objects one of 16.8 million results of our
            kernels is 0.042 from fp32, since one key has 30 % of its weight. The largest error of the reference
            implementation is 0.023, so 0.046 is allowed.
    """
    N, L, size = side * side, 64, dtype.itemsize
    n, angles = tokens or N, N + tokens
    M = pages * n + L

    def prepare(device: torch.device) -> Calls:
        arguments = full_bank(objects, pages, L, side, d, m, device, dtype, tokens)
        ways = memory_ways(arguments, device, compilers)
        return ways | by_candidate(candidate, "256x64", lambda: memory_attention(*arguments), device)

    def exact(device: torch.device) -> torch.Tensor:
        return published(in_float32(full_bank(objects, pages, L, side, d, m, device, dtype, tokens)))()

    done = Work(
        # Pages, query, result and weights; pointers, positions and rotation are fp32.
        bytes=size * (objects * (pages * n * m + 2 * N * d) + 2 * d * m)
        + 4 * (2 * objects * L * m + n * m + angles * d),
        # Scores and sums over m channels, projection of the keys, projection of the result.
        products=2 * objects * (N * M * (d + m) + M * m * d + N * m * d),
    )
    return Case(
        "memory_attention",
        f"{objects} objects, {N}x{M}"
        + (f" {d}/{m}" if (d, m) != (256, 64) else "")
        + ", compiled" * compilers
        + (f", {candidate}" if candidate else ""),
        name_of(dtype),
        prepare,
        done,
        tolerance=1e-4 if dtype == torch.float32 else FLOOR,
        exact=None if dtype == torch.float32 else exact,
        device=device,
        launch=f"{d}x{m}",
    )


def why_no_candidate(name: str, device: torch.device, shape: str = "256x64") -> str | None:
    """Returns why this device or version of Triton does not run a candidate, or None."""
    import triton

    if name == IN_GLUON:  # other versions name operations differently
        runs = architecture(device) == "sm_90" and triton.__version__.startswith(("3.6.", "3.7."))
    else:
        from candidates import specialised_attention

        runs = specialised_attention.tile_of(shape, device) is not None
    return None if runs else "needs Hopper and Triton 3.6 or 3.7"


def candidate_launched(name: str, shape: str, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Returns a context manager that lets a candidate compute the attention of 16-bit tensors.

    Raises:
        RefusedError: If it does not run on this device.
    """
    if reason := why_no_candidate(name, device, shape):
        raise RefusedError(f"{name} {reason}")
    if name == IN_GLUON:
        from candidates import gluon_memory_attention

        return gluon_memory_attention.launched()
    from candidates import specialised_attention

    tile = specialised_attention.tile_of(shape, device)
    assert tile is not None
    return specialised_attention.launched(tile)


def by_candidate(name: str, shape: str, call: Callable[[], Tensor], device: torch.device) -> Calls:
    """Returns ``call`` by a candidate."""

    def run() -> Tensor:
        with candidate_launched(name, shape, device):
            return by_triton(call)()

    return {f"sam2fast, {name}": run} if name and runs_kernels(device) else {}


def fp8_case(objects: int) -> Case:
    """The same with scores in fp8, beside the exact ones, for GPUs; FLOPs of all kinds in one sum."""
    exact = memory_case(objects, 7, torch.bfloat16)

    def prepare(device: torch.device) -> Calls:
        arguments = full_bank(objects, 7, 64, 64, 256, 64, device, torch.bfloat16)
        ways = {"sam2fast": lambda: memory_attention(*arguments)}
        if device.type == "cuda" and too_old_for_fp8(device) is None:
            ways["sam2fast in fp8"] = lambda: memory_attention(*arguments, fp8=True)
        return ways

    own = {"shape": f"{exact.shape} in fp8", "prepare": prepare, "tolerance": FP8_ERROR}
    return replace(exact, **own, exact=None, device="cuda")


def self_attention_case(objects: int, dtype: torch.dtype, side: int = 64, d: int = 256, candidate: str = "") -> Case:
    """Self-attention of one layer of the memory attention, beside SDPA on maps that are rotated before."""
    N, size = side * side, dtype.itemsize

    def inputs(device: torch.device) -> list[torch.Tensor]:
        return [random(objects, 1, N, d, device=device, dtype=dtype, seed=i) for i in range(3)]

    def prepare(device: torch.device) -> Calls:
        arguments = *inputs(device), *rope_tables(side, d, device)
        ways = {
            "rotated before, SDPA": rotated_before(*arguments),
            **both_ways(lambda: rope_attention(*arguments), device),
            "reference": lambda: rope_attention_reference(*arguments),
        }
        ways |= by_candidate(candidate, "256x256", lambda: rope_attention(*arguments), device)
        if dtype == torch.float32 or candidate:
            return ways
        if runs_kernels(device):
            for choice in (DEFAULT, CUDNN):
                ways[f"rotation, {NAMES[choice]}"] = rotated_by_us(choice, lambda: rope_attention(*arguments), device)
        query, key, value, *tables = arguments
        rotated = *(apply_rope(x, *tables) for x in (query, key)), value
        return ways | forced(lambda attend: functools.partial(attend, *rotated), device)

    def exact(device: torch.device) -> torch.Tensor:
        return rotated_before(*(x.float() for x in inputs(device)), *rope_tables(side, d, device))()

    return Case(
        "rope_attention",
        f"{objects} objects, {N}x{N}" + (f", {candidate}" if candidate else ""),
        name_of(dtype),
        prepare,
        Work(4 * size * objects * N * d + 4 * N * d, 4 * objects * N * N * d),
        tolerance=1e-4 if dtype == torch.float32 else FLOOR,
        exact=None if dtype == torch.float32 else exact,
        launch=f"{d}x{d}",
    )


def rotated_by_us(choice: int, call: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """``call``, in which our kernel rotates and torch attends by this choice of ``_sdpa.py``."""
    arch = architecture(device)
    chosen = configured("memory_attention", arch, "bfloat16", "256x256")
    row = Row(arch, "bfloat16", ANY, {**chosen.meta, "SDPA": choice}, chosen.options)

    def run() -> Tensor:
        before = len(refused)
        with launched_as("memory_attention", row):
            out = call()
        if len(refused) > before:
            raise RefusedError(f"{NAMES[choice]} refused, and torch chose another way")
        return out

    return run


def measured() -> Iterator[Case]:
    """Attention to banks as they fill, and of frames to themselves; the larger ones are for GPUs."""
    for objects, pages in itertools.product((1, 4, 16), (7, 3, 1)):
        anywhere = objects == 1 or (objects, pages) == (4, 7)
        yield memory_case(objects, pages, torch.bfloat16, "" if anywhere else "cuda")
        if anywhere:
            yield memory_case(objects, pages, torch.float32)
    for dtype in TIMED:
        yield memory_case(1, 7, dtype, tokens=512)  # EdgeTAM
    yield memory_case(1, 7, torch.bfloat16, "cuda", compilers=True)
    for objects in (1, 4):
        yield fp8_case(objects)
    for dtype, objects in itertools.product(TIMED, (1, 4)):
        yield memory_case(objects, 7, dtype, side=16, d=128)  # nano
        yield self_attention_case(objects, dtype)
    for objects in (2, 3):
        yield replace(self_attention_case(objects, torch.bfloat16), device="cuda")
    for candidate, objects in itertools.product(CANDIDATES, (1, 4, 16)):
        yield memory_case(objects, 7, torch.bfloat16, "cuda", candidate=candidate)
    yield replace(self_attention_case(1, torch.bfloat16, candidate=CANDIDATES[0]), device="cuda")


def memory_work(objects: int, size: int, splits: int) -> Work:
    """One layer; with what its four launches hand to one another, each written once and read once.

    ``size`` is bytes of a number; ``splits`` programs share the keys of a tile of queries.
    """
    pairs = N * TOKENS
    products = 2 * pairs * (D + M_CHANNELS) + 2 * TOKENS * M_CHANNELS * D + 2 * N * M_CHANNELS * D
    bank = size * TOKENS * M_CHANNELS
    between = size * (N * D + TOKENS * (D + M_CHANNELS)) + 4 * splits * N * (M_CHANNELS + 1)
    # The bank read; queries read and the result written; both ways what is handed on.
    moved = bank + 2 * size * N * D + 2 * between
    shared = size * 2 * D * M_CHANNELS + 4 * N * (M_CHANNELS + D)  # weights, encoding and rotation: one for all
    return Work(moved * objects + shared, products * objects, exponentials=pairs * objects)


def published_flops(objects: int) -> float:
    """FLOPs of one layer as published: every token projected to a value as wide as the keys."""
    return float(objects * (4 * N * TOKENS * D + 4 * TOKENS * M_CHANNELS * D))


def self_work(objects: int, size: int, splits: int) -> Work:
    """A frame's map to itself; rotated queries and keys are written and read, and so are the parts of split keys."""
    parts = 4 * splits * N * (D + 1) if splits > 1 else 0
    moved = size * N * D * 4 + 2 * (2 * size * N * D + parts)
    return Work(moved * objects + 4 * N * D, 4 * N * N * D * objects, exponentials=N * N * objects)


def lines() -> Iterable[tuple[str, str, Work]]:
    for objects, (dtype, size) in itertools.product((1, 16), (("bf16", 2), ("fp32", 4))):
        of_memory, of_itself = SPLITS[dtype, objects]
        said = f"{objects} object{'s' * (objects > 1)}, {dtype}"
        yield f"memory, {N:,} × {TOKENS:,}, {said}", dtype, memory_work(objects, size, of_memory)
        yield f"itself, {N:,} × {N:,}, {said}", dtype, self_work(objects, size, of_itself)


def attention_search(
    dtype: str, shape: str, tiles: Iterable[tuple[int, ...]], order: int = 4, choices: tuple[int, ...] = ()
) -> Search:
    """``tiles``: BLOCK_M, BLOCK_N, CHUNK, warps, stages, programs of a multiprocessor, whether the last block is peeled
    off.
    """
    d, width = map(int, shape.split("x"))
    names = "BLOCK_M BLOCK_N CHUNK num_warps num_stages CTAS_PER_SM PEELED"
    fitting = (tile for tile in tiles if could_fit(dtype, d, width, *tile[:6]))
    cases = ("memory_attention", "rope_attention")
    how = {"choice": "SDPA", "choices": choices} if choices else {}
    return search("memory_attention", names, fitting, dtype=dtype, shape=shape, cases=cases, order=order, **how)


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


class Plan(NamedTuple):
    """What is tried: every combination of objects, sides and widths, so many draws of each."""

    sides: Sequence[int] = (64, 5, 17)
    objects: Sequence[int] = (1, 3, 4)
    widths: Sequence[tuple[int, int]] = ((256, 64), (128, 64), (32, 32))  # of heads and of memory
    splits: Sequence[int | None] = (None, *range(1, 9))  # None: chosen by the launcher, through the dispatcher
    slots: tuple[int, int] = (7, 12)  # of a bank, least and most
    pages: int = 8  # most valid ones of an object
    pointers: int = 64  # most
    draws: int = 4


# Objects, side, channels of heads and of memory, and what the input is made by.
Asked = tuple[int, int, int, int, torch.dtype, Plan, torch.Generator, torch.device]


def groups(draw: Callable[[Asked], Draw], plan: Plan, dtype: torch.dtype, widths: str, *on: Any) -> Iterator[Any]:
    """A group of draws for each side."""
    d, m = map(int, widths.split("/"))
    for side in plan.sides:
        counts = itertools.product(plan.objects, range(plan.draws))
        yield (draw((objects, side, d, m, dtype, plan, *on)) for objects, _ in counts)


def memory_draw(
    asked: Asked,
    fp8: bool = False,
    has_tokens: bool = False,
    has_means: bool = False,
    candidate: str = "",
    adds: bool = False,
) -> Draw:
    """Banks of different length, of several objects one empty; queries of their own or, as often, the same for all.

    Pages are maps, or have tokens of their own, of a side of 64 as many as EdgeTAM's. Of maps, then of even sides,
    means may be attended to, as often counted as raised. With ``adds``, the result is the norm of the sum with a
    residual, which several objects share in half of the draws.
    """
    from sam2fast.kernels.memory_attention import launch

    objects, side, d, m, dtype, plan, generator, device = asked
    pooling = ("counted", "raised")[integer(0, 1, generator)] if has_means else None
    side += side % 2 if pooling else 0
    how = {"fp8": fp8, "pooling": pooling}
    K, L = integer(*plan.slots, generator), integer(0, plan.pointers, generator)
    tokens = 2 * max(1, side // 4) ** 2 if has_tokens else 0
    memory, filled = bank_with_gaps(objects, K, L, tokens or side**2, m, dtype, plan.pages, generator, device)
    seed, asking = integer(0, 2**31, generator), (1, objects)[integer(0, 1, generator)]
    query = random(asking, side * side, 1, d, device=device, dtype=dtype, seed=seed).transpose(1, 2)
    weights = projections(d, m, device, dtype, seed)
    tables = token_tables(side, tokens, d, device) if tokens else rope_tables(side, d, device)
    arguments = MemoryArguments(query, memory, *weights, *tables)

    x = random(asking, side * side, d, device=device, dtype=dtype, seed=seed + 9)
    norm = *(random(d, device=device, seed=seed + i) for i in (10, 11)), EPS

    def kernel(splits: int | None) -> Tensor:
        if adds and splits is None:
            return add_memory_attention(x, *norm, *arguments)[1]
        if adds:
            given = query, *memory[:8], *weights, *tables, x, *norm, False, "", splits
            return launch.memory_attention_of_tensors(*given)[1]
        launched = candidate_launched(candidate, "256x64", device) if candidate else contextlib.nullcontext()
        with launched:
            if splits is None:
                return memory_attention(*arguments, **how)
            return launch.memory_attention_triton(*arguments, splits=splits, **how)

    exact, reference = memory_in_float64(arguments, how), memory_attention_reference(*arguments, **how)
    if adds:
        exact = add_layer_norm_reference(x.double().expand_as(exact), exact, *norm, torch.float64)[1]
        reference = add_layer_norm_reference(x.expand_as(reference), reference, *norm, dtype)[1]
    return Draw(
        kernel,
        f"{asking} queries, side {side}, {d}/{m}, {K} slots with {filled}, {L} pointers "
        f"with {memory.pointer_valid.sum(1).tolist()}{f', {pooling} means' if pooling else ''}",
        exact,
        reference,
    )


def memory_in_float64(arguments: MemoryArguments, how: dict[str, Any]) -> Tensor:
    """The reference in float64, by object, as it holds all scores. With ``fp8`` they are of rounded rows."""
    query, memory, *rest = arguments
    pages, encodings = memory.pages.double(), (memory.position_encoding.double(), memory.time_encoding.double())
    weights = [x.double() for x in rest[:4]]
    out = []
    for b in range(len(memory.page_table)):
        own = slice(b, b + 1)
        tables = memory.page_table[own], memory.page_time[own]
        pointers = memory.pointers[own].double(), memory.pointer_encoding[own].double(), memory.pointer_valid[own]
        asked = query[own] if len(query) > 1 else query
        part = AttendedMemory(pages, *tables, *encodings, *pointers)
        out.append(memory_attention_reference(asked.double(), part, *weights, *rest[4:], **how))
    return torch.cat(out)


def rope_draw(asked: Asked, adds: bool = False) -> Draw:
    """Returns self-attention or, as often, values of width ``m`` of two maps and some keys without a position.

    With ``adds``, it is self-attention, and the result is the norm of the sum with a residual.
    """
    from sam2fast.kernels.memory_attention import launch

    objects, side, d, m, dtype, plan, generator, device = asked
    maps, unrotated, width = 1, 0, d
    if not adds and integer(0, 1, generator):
        maps, unrotated, width = 2, integer(0, plan.pointers, generator), m
    N, seed = side * side, integer(0, 2**31, generator)
    shapes = (N, d), (maps * N + unrotated, d), (maps * N + unrotated, width)
    # Heads are split off projections, so that they are the inner axis.
    made = [
        random(objects, rows, 1, columns, device=device, dtype=dtype, seed=seed + i).transpose(1, 2)
        for i, (rows, columns) in enumerate(shapes)
    ]
    tables = rope_tables(side, d, device)

    x = random(objects, N, d, device=device, dtype=dtype, seed=seed + 9)
    norm = *(random(d, device=device, seed=seed + i) for i in (10, 11)), EPS

    def kernel(splits: int | None) -> Tensor:
        if adds and splits is None:
            return add_rope_attention(x, *norm, *made, *tables)[1]
        if adds:
            return launch.rope_attention_of_tensors(*made, *tables, x, *norm[:2], 0, EPS, splits)[1]
        if splits is None:
            return rope_attention(*made, *tables, unrotated)
        return launch.rope_attention_triton(*made, *tables, unrotated, splits=splits)

    each = [[y[b : b + 1].double() for y in made] for b in range(objects)]
    exact = torch.cat([rope_attention_reference(*own, *tables, unrotated) for own in each])
    reference = rope_attention_reference(*made, *tables, unrotated)
    if adds:
        exact = add_layer_norm_reference(x.double(), exact[:, 0], *norm, torch.float64)[1]
        reference = add_layer_norm_reference(x, reference[:, 0], *norm, dtype)[1]
    return Draw(
        kernel,
        f"{objects} objects, side {side}, {d}/{width}, {maps} maps and {unrotated} keys without a position",
        exact,
        reference,
    )


def parity_check(op: str, draw: Callable[..., Draw], adds: bool = False) -> Check:
    """Returns the check of an op's result or, with ``adds``, of the norm of its sum with a residual."""
    if adds:
        draw = functools.partial(draw, adds=True)
    return Check(
        functools.partial(groups, draw),
        full=Plan(),
        short=Plan((64, 5), (1, 3), ((256, 64), (128, 64)), (None, 1, 8), draws=1),
        quick=Plan(sides=(5,), objects=(3,), splits=(None, 1, 3), draws=1),
        tiny=Plan((3,), (1, 2), ((32, 16),), (None, 2), pointers=5, draws=1),
        ops=(op,),
        launchers=[(f"memory_attention.launch.{op}_{'of_tensors' if adds else 'triton'}", int(adds))],
        variants=lambda plan: ["{}/{}".format(*widths) for widths in plan.widths],
        variant="widths",
        splits=lambda plan: plan.splits,
    )


def candidate_check(name: str) -> Check:
    """Returns the comparison of a candidate, on heads of 256 channels and memories of 64."""
    check = parity_check("memory_attention", functools.partial(memory_draw, candidate=name))
    plans = {each: getattr(check, each)._replace(widths=((256, 64),)) for each in ("full", "short", "quick", "tiny")}
    unsupported = functools.partial(why_no_candidate, name)
    return check._replace(**plans, dtypes=(torch.bfloat16, torch.float16), launchers=(), unsupported=unsupported)


# Rounding to fp8 turns what fp32 leaves open near a tie into an eighth of a number, in one of some 1e5: the most that
# this may do to an output. Between two ways of the CPU it is 0.002 on such inputs, and all rounding costs 0.1 to 0.2.
NEAR_TIES = 0.02


def small_bank(biased: bool = True) -> tuple[Any, ...]:
    """Of two objects, with gaps; and the other arguments, with or without biases of projections."""
    generator, on = torch.Generator().manual_seed(0), torch.device("cpu")
    memory, _ = bank_with_gaps(2, 3, 4, 16, 16, torch.float32, 3, generator, on)
    memory = AttendedMemory(*(x.nan_to_num() if x.is_floating_point() else x for x in memory[:8]))
    weights = [x if biased or x.ndim > 1 else None for x in projections(32, 16, on, torch.float32)]
    return small((2, 1, 16, 32)), memory, *weights, *rope_tables(4, 32, on)


# Full blocks without masks. On sm_90 none spills where memory tokens have 64 channels and heads 256.
PEELED = [(128, 64, 256, 8, 3, 1, 1), (128, 32, 256, 8, 3, 1, 1), (128, 32, 256, 8, 2, 2, 1), (64, 64, 256, 4, 2, 2, 1)]
# With several programs at once, one computes while the other waits for its next keys.
TOGETHER = [(64, 32, 256, 4, 2, 2), (64, 32, 256, 4, 3, 2), (64, 32, 256, 4, 2, 3), (64, 64, 256, 4, 2, 2),
            (128, 32, 256, 8, 2, 2), (128, 32, 256, 4, 2, 2), (128, 64, 256, 8, 3, 2)]  # fmt: skip
SEPARATE = list(itertools.product((64, 128, 256), (32, 64, 128), (256,), (4, 8), (2, 3, 4)))
# Of these, what spills on sm_90 where memory tokens have 64 channels and heads 256.
SPILLING = list(itertools.product((128,), (64,), (256,), (4,), (2, 3, 4)))
# Scores of memory in fp8 need tiles of 64 rows.
FP32 = list(itertools.product((64, 128), (32, 64), (32, 64), (4, 8), (2, 3)))
FP32_ITSELF = itertools.product((32, 64, 128), (32, 64), (32, 64), (4, 8), (2, 3))


TUNED = ("256x64", "128x64", "256x256")  # shape classes with configurations of their own


def memory_call(dtype: torch.dtype, d: int, m: int, fp8: bool, pooling: str, adds: bool = False) -> Call:
    """Returns a call for one object with a full memory at 1024 pixels, with ``adds`` of ``add_memory_attention``."""
    table = meta(1, PAGES, dtype=torch.int32)
    memory = meta(PAGES, N, m, dtype=dtype), table, table, meta(N, m, dtype=dtype), meta(PAGES, m, dtype=dtype)
    pointers = (meta(1, POINTERS, m, dtype=dtype),) * 2 + (meta(1, POINTERS, dtype=torch.bool),)
    weights = (meta(d, m, dtype=dtype), meta(d, dtype=dtype)) * 2
    given = meta(1, 1, N, d, dtype=dtype), *memory, *pointers, *weights, *[meta(N, d // 2)] * 2
    norm = (meta(1, N, d, dtype=dtype), meta(d), meta(d)) if adds else (None, None, None)
    return Call(
        "memory_attention",
        (*given, *norm, EPS, fp8, pooling),
        name_of(dtype),
        shape if (shape := f"{d}x{m}") in TUNED else ANY,
    )


def launched() -> Iterator[Call]:
    """Memories and heads of the models, the widest of both, means of keys, and attention in fp8."""
    for dtype in FLOATS:
        for pooling in ("", "counted", "raised"):
            yield memory_call(dtype, 256, 64, False, pooling)
            yield memory_call(dtype, 256, WIDEST_MEMORY[dtype], False, pooling)
        yield memory_call(dtype, 256, 128 // dtype.itemsize, False, "", adds=True)
        yield memory_call(dtype, 128, 64, False, "")
        for d in (256, 128):
            yield memory_call(dtype, d, 64, True, "")
        for d, splits, adds in ((256, 1, False), (256, 2, False), (128, 1, False), (256, 2, True)):
            maps = (meta(1, 1, N, d, dtype=dtype),) * 3
            norm = (meta(1, N, d, dtype=dtype), meta(d), meta(d)) if adds else (None, None, None)
            yield Call(
                "rope_attention",
                (*maps, *[meta(N, d // 2)] * 2, *norm, 0, EPS, splits),
                name_of(dtype),
                "256x256" if d == 256 else ANY,
            )


RECORD = Record(
    cases=list(measured()),
    small=[
        case
        for dtype in TIMED
        for case in (
            memory_case(1, 1, dtype, side=4),
            memory_case(1, 1, dtype, side=4, d=128),
            memory_case(1, 1, dtype, side=4, tokens=8),
            self_attention_case(1, dtype, side=4),
        )
    ]
    + [memory_case(1, 1, torch.bfloat16, side=4, candidate=CANDIDATES[0])],
    searches=[
        attention_search("bfloat16", "256x64", PEELED + TOGETHER + [t for t in SEPARATE if t not in SPILLING], order=0),
        attention_search("bfloat16", "256x256", TOGETHER + SEPARATE, 0, (FLASH, CUDNN)),
        attention_search("bfloat16", "128x64", TOGETHER + SEPARATE),
        attention_search("float32", "256x64", FP32),
        attention_search("float32", "256x256", FP32_ITSELF),
        attention_search("float32", "128x64", FP32),
    ],
    work=lines,
    samples={
        "memory_attention": Sample(memory_attention, small_bank, "memory_attention", "", 0, True),
        "memory_attention without biases": Sample(
            memory_attention, lambda: small_bank(biased=False), "memory_attention", "", 0, True, is_bounded=True
        ),
        "memory_attention with a residual": Sample(
            add_memory_attention,
            lambda: (*(small(shape, i) for i, shape in enumerate(((1, 16, 32), (32,), (32,)))), EPS, *small_bank()),
            "memory_attention",
            "",
            0,
            True,
        ),
        "memory_attention to means": Sample(
            functools.partial(memory_attention, pooling="raised"), small_bank, "memory_attention", "", 0, True
        ),
        "rope_attention with a residual": Sample(
            add_rope_attention,
            lambda: (
                *(small(shape, i) for i, shape in enumerate(((2, 16, 16), (16,), (16,)))),
                EPS,
                *(small((2, 1, 16, 16), seed) for seed in range(3)),
                *rope_tables(4, 16, torch.device("cpu")),
            ),
            "rope_attention",
            "",
            0,
            True,
        ),
        "rope_attention": Sample(
            rope_attention,
            lambda: (*(small((2, 1, 16, 16), seed) for seed in range(3)), *rope_tables(4, 16, torch.device("cpu"))),
            "rope_attention",
            batched=3,
            has_gradient=True,
        ),
    },
    launched=launched,
    parity={
        "memory_attention": parity_check("memory_attention", memory_draw),
        "memory_attention of tokens": parity_check("memory_attention", functools.partial(memory_draw, has_tokens=True)),
        "memory_attention with a residual": parity_check("memory_attention", memory_draw, True),
        "memory_attention to means": parity_check("memory_attention", functools.partial(memory_draw, has_means=True)),
        "rope_attention": parity_check("rope_attention", rope_draw),
        "rope_attention with a residual": parity_check("rope_attention", rope_draw, True),
        # Each way of its own decides what bfloat16 leaves open near ties.
        "memory_attention in fp8": parity_check("memory_attention", functools.partial(memory_draw, fp8=True))._replace(
            allowed=lambda dtype, reference: max(2 * SLACK * reference, NEAR_TIES),
            unsupported=lambda device: too_old_for_fp8(device) if device.type == "cuda" else None,
        ),
        **{f"memory_attention, candidate {name}": candidate_check(name) for name in CANDIDATES},
    },
)

if __name__ == "__main__":
    from one_op import main

    main(RECORD)

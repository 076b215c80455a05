"""Tests the reading of machine code, its model, and each gate of ``make sass``, on small texts in nvdisasm's form."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import pytest
import recorded
import sass_kernels
from checkout import ROOT
from sass_code import (
    by_kind,
    exchanged,
    iterations_ahead,
    iterations_that_copy,
    main_loop,
    parse,
    specialised,
    weighted,
    wgmma_groups,
)
from sass_hazards import freed, hazards, overwritten, unset, written
from sass_model import CHIPS, LATENCY, LOAD, Clocks, Product, Tile, bound, clocks, programs_at_once

COPIES = """
 LDGSTS.E.BYPASS.128 [R35], desc[UR28][R4.64], !P2
 LDGDEPBAR
 LDGSTS.E.BYPASS.128 [R31+0x28000], desc[UR28][R4.64], !P0
 LDGDEPBAR
"""
SCORES = """
 WARPGROUP.ARRIVE
 HGMMA.64x64x16.F32.BF16 R24, gdesc[UR16], RZ, !UPT
 HGMMA.64x64x16.F32.BF16 R24, gdesc[UR20], R24, gsb0
 WARPGROUP.DEPBAR.LE gsb0, 0x0
"""
SOFTMAX = """
 FMNMX R8, R7, R27, !PT
 SHFL.BFLY PT, R11, R26, 0x2, 0x1f
 MUFU.EX2 R11, R27
 FFMA R30, R27, UR10, -R26.reuse
"""
SUMS = """
 HGMMA.64x64x16.F32.BF16 R56, R88, gdesc[UR16].tnspB, R56
 HGMMA.64x64x16.F32.BF16 R56, R92, gdesc[UR16].tnspB, R56, gsb0
"""


def text(*parts):
    """A kernel with these lines as its loop."""
    lines = ["S2R R0, SR_TID.X", "STS [R1], R2", ".L_x_0:", *"\n".join(parts).split("\n"),
             "@P0 BRA `(.L_x_0)", "STG.E.128 desc[UR4][R2.64], R8", "@!P1 BRA `(.L_x_2)", "EXIT",
             ".L_x_2:", "NANOSLEEP 0x40", "@!P1 BRA `(.L_x_0)", ".L_x_9:", "BRA `(.L_x_9)"]  # fmt: skip
    lines = [line.strip() for line in lines if line.strip()]
    return "\n".join(line if line.endswith(":") else f"  /*{16 * i:04x}*/  {line} ;" for i, line in enumerate(lines))


def loop_of(*parts):
    code = parse(text(*parts))
    first, last = main_loop(code)
    return code.instructions[first : last + 1]


def without_loop(*lines):
    return parse("\n".join(f"  /*{16 * i:04x}*/  {line} ;" for i, line in enumerate(lines)))


def straight(*lines):
    """The counts of code without a loop."""
    return weighted(without_loop(*lines), None, 0)


def wait(left):
    return f" DEPBAR.LE SB0, {left:#x}\n BAR.SYNC.DEFER_BLOCKING 0x0"


PREFETCHED = wait(2), SCORES, SOFTMAX, SUMS, COPIES


def test_instructions_are_counted_by_kind():
    body = loop_of(*PREFETCHED, " @!PT LDS RZ, [RZ]", " UIADD3 UR4, UR4, 0x1, URZ", " F2FP.BF16.F32.PACK_AB R1, R2, R3")
    kinds = by_kind(weighted(parse(text(*PREFETCHED)), None, 0))
    assert len(body) == 20 and kinds["wgmma"] == 4 and kinds["mufu"] == 1
    assert {kind: sum(x.kind == kind for x in body) for kind in ("wgmma", "fp32", "uniform", "shared", "global")} == {
        "wgmma": 4, "fp32": 3, "uniform": 1, "shared": 1, "global": 2
    }  # fmt: skip
    assert [x.bytes for x in body if x.kind in ("shared", "global")] == [512, 512, 0]  # one never runs


def test_the_main_loop_is_not_where_code_waits_behind_the_end():
    code = parse(text(*PREFETCHED))
    first, last = main_loop(code)
    assert code.instructions[first].root == "DEPBAR" and code.instructions[last].root == "BRA"
    assert len(code.loops) == 1 and main_loop(parse(text(SOFTMAX))) is None


def test_specialised_warps():
    """Two groups with a loop each, in one that waits for work; they fill each other's gaps, not their latency."""
    group = [" USETMAXREG.DEALLOC.CTAPOOL 0x78", ".L_x_{0}:", SCORES, SUMS, "@P0 BRA `(.L_x_{0})"]
    code = parse(text(*(line.replace("{0}", f"{n}") for n in (4, 5) for line in group)))
    assert len(code.loops) == 2 and specialised(code, main_loop(code)) == 2
    assert specialised(parse(text(*PREFETCHED)), (3, 20)) == specialised(code, None) == 1
    kinds = by_kind(weighted(code, main_loop(code), 10))  # each group runs its own loop, and what is before all
    assert kinds["wgmma"] == 10 * 4 and kinds["shared"] == 1
    found = Clocks(1000, 1200, 800, 1500, 150)
    assert [found.with_programs(1, groups) for groups in (1, 2)] == [2150, 1500]
    assert found._replace(l2=0).with_programs(1, 2) == 1200 and found._replace(l2=0).with_programs(2) == 1200


def test_loops_are_weighted():
    """An inner loop over channels, and what stands behind the end, which does not run."""
    code = parse(text(".L_x_1:", SCORES, "@P1 BRA `(.L_x_1)", SUMS))
    kinds = by_kind(weighted(code, main_loop(code), 10, inner=3))
    assert kinds["wgmma"] == 10 * (3 * 2 + 2) and kinds["global"] == 1 and kinds["shared"] == 1
    assert not any(x.root == "NANOSLEEP" for x in weighted(code, main_loop(code), 10))


def test_copies_behind_the_end_do_not_count():
    """Two groups of copies before the loop: two iterations fewer copy, and the products are the same."""
    lines = text(*PREFETCHED).splitlines()
    before = [line for line in lines if "LDGSTS" in line or "LDGDEPBAR" in line]
    code = parse("\n".join([*before, *before, *lines]))
    loop = main_loop(code)
    copying = iterations_that_copy(code, loop, 5)
    assert (
        copying == 3 and iterations_that_copy(code, None, 5) == iterations_that_copy(parse(text(SCORES)), loop, 5) == 5
    )
    every, fewer = (
        Counter({x.root: n for x, n in weighted(code, loop, 5, copying=n).items() if x.root in ("LDGSTS", "HGMMA")})
        for n in (None, copying)
    )
    assert every == {"LDGSTS": 2 + 5, "HGMMA": 5} and fewer == {"LDGSTS": 2 + 3, "HGMMA": 5}


def launch_of(op="memory_attention", shape="256x64", dtype="bfloat16", name="_attend_kernel", **constants):
    kernel = SimpleNamespace(__name__=name)
    return recorded.Launch(op, shape, dtype, kernel, {}, constants, {"num_warps": 8}, {})


def test_products_of_linear_layers():
    """The widest of the configuration; columns behind the end are not useful, and a part of a block takes a whole."""
    constants = {"EVEN": False, "BLOCK_M": 64, "BLOCK_N": 256, "BLOCK_K": 32}
    launch = launch_of("linear_gelu", "narrow", name="_linear_gelu_kernel", **constants)
    assert sass_kernels.tile_of(launch) == Tile((Product(64, 256, 32),), 5, 0.75 * 2 * 2 * 64 * 256 * 144 / 2)
    even = launch._replace(constants=constants | {"EVEN": True})
    assert [sass_kernels.tile_of(even._replace(shape=s)).blocks for s in ("narrow", "*")] == [12, 36]
    assert sass_kernels.tile_of(launch_of("layer_norm", name="_add_layer_norm_kernel")) is None


def test_products_of_tokens():
    """The inner layer of attention to the image; half the rows of a tile are one object's."""
    constants = {"BLOCK_M": 16, "WIDTH": 256, "BLOCK_K": 64}
    launch = launch_of("norm_linear", "few", name="_norm_linear_kernel", **constants)
    assert sass_kernels.tile_of(launch) == Tile((Product(16, 256, 64),), 2, 2 * 8 * 256 * 128)
    assert sass_kernels.tile_of(launch._replace(shape="*")).useful == 2 * 16 * 256 * 128


def test_products_of_attention_of_tokens():
    """Half of a tile of 16 rows, or of 16 keys, are eight tokens'; with many keys every warp has blocks of its own."""
    constants = {"SPLIT": True, "WARPS": 4, "BLOCK_M": 16, "BLOCK_N": 64, "D": 16}
    launch = launch_of("token_attention", "many", name="_token_attention_kernel", **constants)
    scores, sums = Product(64, 64, 16), Product(64, 16, 64)
    assert sass_kernels.tile_of(launch) == Tile((scores, sums), 16, 2 * 2 * 8 * 4096 * 16)
    few = launch._replace(shape="*", constants=constants | {"SPLIT": False, "BLOCK_N": 16})
    assert sass_kernels.tile_of(few) == Tile((Product(64, 16, 16), Product(64, 16, 16)), 1, 2 * 2 * 64 * 8 * 16)


def test_products_of_shifted_tiles():
    """The channels of nine taps."""
    constants = {"BLOCK_M": 64, "WIDTH": 64, "BLOCK_K": 64, "KERNEL": 3, "C": 16}
    launch = launch_of("mask_downsampler", "*", name="_downsample_map_kernel", **constants)
    assert sass_kernels.tile_of(launch) == Tile((Product(64, 64, 64),), 3, 2 * 64 * 64 * 144)


def test_products_of_mlps():
    """Two pieces of 96 channels in each layer, by blocks of 32 of 384 hidden columns."""
    constants = {"BLOCK_M": 128, "BLOCK_N": 32, "C": 96, "D1": 64, "D2": 32}
    tile = sass_kernels.tile_of(launch_of("mlp", "narrow", name="_mlp_kernel", **constants))
    first, second = (Product(128, 32, 64), Product(128, 32, 32)), (Product(128, 64, 32), Product(128, 32, 32))
    assert tile == Tile((*first, *second), 12, 2 * 2 * 128 * 96 * 384)


@pytest.mark.parametrize(
    ("parts", "ahead"),
    [
        (PREFETCHED, 1.0),
        ((wait(4), *PREFETCHED[1:]), 2.0),
        ((wait(0), *PREFETCHED[1:]), 0.0),  # a full wait for what was issued after the last product
        ((wait(0), COPIES, SCORES, SUMS), 1.0),  # a full wait, but they were issued before the products
        ((SCORES, COPIES, SUMS, wait(0)), 0.5),
        (("LDG.E.128 R20, desc[UR8][R4.64]", "STS.128 [R130], R20", SCORES, SUMS), 0.0),
        ((SCORES, SUMS), None),
    ],
)
def test_how_early_loads_are_issued(parts, ahead):
    assert iterations_ahead(loop_of(*parts)) == ahead


def test_waits_for_wgmma_and_exchanges_are_found():
    assert wgmma_groups(loop_of(*PREFETCHED)) == 2
    assert wgmma_groups(loop_of(SCORES.replace("RZ, !UPT", "RZ, !UPT, gsb0"), SUMS)) == 3
    assert exchanged(loop_of(*PREFETCHED)) == 0
    loads = "LDG.E.128 R20, desc[UR8][R4.64]", "STS.128 [R130], R20", SCORES
    assert exchanged(loop_of(*loads)) == 0 and exchanged(loop_of(*loads, "STSM.16.M88.4 [R2], R8")) == 512


WAIT = "WARPGROUP.DEPBAR.LE gsb0, {}"
PACK = "F2FP.BF16.F32.PACK_AB R95, R1, R0"  # a register of the second product of SUMS


def found_in(*parts):
    """What is overwritten too early in a loop, by the names of instructions."""
    return [each.partition(" (")[0] for each in overwritten(parse(text(*parts)))]


@pytest.mark.parametrize(
    ("clean", "broken"),
    [
        ((SUMS, WAIT.format("0x0"), PACK), (SUMS, PACK, WAIT.format("0x0"))),
        ((PACK, SUMS, WAIT.format("0x0")), (PACK, SUMS)),  # by the next iteration
        # One group may be left: only the older one has been read.
        (
            (SUMS, SCORES.replace("0x0", "0x1"), PACK, WAIT.format("0x0")),
            (SCORES, SUMS, WAIT.format("0x1"), PACK, WAIT.format("0x0")),
        ),
        # The wait is left out on one of two paths.
        (
            (SUMS, "@P1 BRA `(.L_x_5)", WAIT.format("0x0"), PACK, ".L_x_5:", WAIT.format("0x0")),
            (SUMS, "@P1 BRA `(.L_x_5)", WAIT.format("0x0"), ".L_x_5:", PACK, WAIT.format("0x0")),
        ),
        # Threads that meet again jump to nowhere.
        (
            (SUMS, "BSSY B0, `(.L_x_5)", WAIT.format("0x0"), "BSYNC B0", ".L_x_5:", PACK),
            (SUMS, "BSSY B0, `(.L_x_5)", "BSYNC B0", ".L_x_5:", PACK, WAIT.format("0x0")),
        ),
        ((SUMS, "@!PT " + PACK, WAIT.format("0x0")), (SUMS, "@P1 " + PACK, WAIT.format("0x0"))),
    ],
)
def test_overwritten_registers_of_wgmma_are_found(clean, broken):
    assert found_in(*clean) == []
    assert found_in(*broken) == [PACK]


READ = "LDG.E.128 R44, desc[UR4][R18.64+0xc0]"
SUM_OF_REGISTERS = "HGMMA.64x64x16.F32.BF16 R24, R72, gdesc[UR14].tnspB, R24"  # the right side's is in UR16
COMPARISON = "UISETP.GE.AND UP0, UPT, UR4, 0x1, UPT"
COORDINATES, DESCRIPTOR = "LDCU.128 UR8, c[0x0][0x380]", "LDCU.64 UR6, c[0x0][0x390]"
COPY = "UTMALDG.2D [UR8], [UR6]"  # address, barrier and two coordinates, and the address of the descriptor
# From window attention, which ended in an illegal access on an H100: the right side's descriptor is UR26 + 2.
SET = ("ULDC.64 UR26, c[0x0][0x208]", "UIADD3.64 UR16, UR26, 0x2, URZ")


@pytest.mark.parametrize(
    ("clean", "broken"),
    [
        (
            (
                *SET,
                "UIADD3 UR18, UP0, UR26, 0x2, URZ",
                "UMOV UR19, UR27",
                "HGMMA.64x64x16.F32.BF16 R24, gdesc[UR16], R24",
            ),
            (
                *SET,
                "UIADD3 UR18, UP0, UR18, 0x2, URZ",
                "UMOV UR19, UR27",
                "HGMMA.64x64x16.F32.BF16 R24, gdesc[UR16], R24",
            ),
        ),
        (("R2UR UR6, R28", "STS.128 [R8+UR6], R20"), ("R2UR UR5, R28", "STS.128 [R8+UR6], R20")),
        (("ULDC.64 UR4, c[0x0][0x208]", READ), ("ULDC UR4, c[0x0][0x208]", READ)),
        ((*SET, SUM_OF_REGISTERS), (SET[0], SUM_OF_REGISTERS)),
        (("S2UR UR4, SR_CTAID.X", COMPARISON), ("S2UR UR6, SR_CTAID.X", COMPARISON)),
        ((COORDINATES, DESCRIPTOR, COPY), (COORDINATES.replace(".128", ".64"), DESCRIPTOR, COPY)),
        ((COORDINATES, DESCRIPTOR, COPY), (COORDINATES, DESCRIPTOR.replace(".64", ""), COPY)),
    ],
)
def test_uniform_registers_that_are_not_set_are_found(clean, broken):
    assert unset(without_loop(*clean)) == []
    (found,) = unset(without_loop(*broken))
    assert hazards(without_loop(*broken)) == [f"a uniform register that is not set is read by {found}"]


# From a linear layer on sm_100, with constants as addresses: each side has its own descriptor, of two registers.
BLACKWELL = (
    "UMOV UR4, 0x600",
    "UMOV UR5, 0x80004020",
    "UMOV UR6, 0xc00",
    "UMOV UR7, 0x80004020",
    "UMOV UR8, 0x40",
    "UMOV UR24, 0x0",
    "UMOV UR25, 0x8200490",
    "UIADD3.64 UR18, UPT, UPT, UR4, 0x2, URZ",
    "UIADD3.64 UR12, UPT, UPT, UR6, 0x2, URZ",
    "UTCHMMA gdesc[UR4], gdesc[UR6], tmem[UR8], tmem[UR24], idesc[UR25], !UPT",
    "UTCHMMA gdesc[UR18], gdesc[UR12], tmem[UR8], tmem[UR24], idesc[UR25], UPT",
)


@pytest.mark.parametrize("missing", range(9))
def test_every_register_of_a_product_by_tcgen05_is_read(missing):
    assert unset(without_loop(*BLACKWELL)) == []
    found = unset(without_loop(*BLACKWELL[:missing], *BLACKWELL[missing + 1 :]))
    assert any(each.startswith("UTCHMMA") for each in found)


@pytest.mark.parametrize(
    "late",
    [
        "LDS.128 R92, [R3]", "LDG.E.64 R94, desc[UR4][R2.64]", "IMAD.WIDE R94, R3, 0x2, R4",
        "SHFL.BFLY PT, R92, R3, 0x1",
        "CALL.REL.NOINC `($__internal_0_$__cuda_sm20_div_s64)",  # whatever that writes
        "LOP3.LUT P0, R95, R3, R4, RZ, 0xc0, !PT", "HGMMA.64x64x16.F32.BF16 R64, gdesc[UR16], RZ, !UPT",
    ],
)  # fmt: skip
def test_writes_of_every_kind_are_found(late):
    assert found_in(SUMS, late, WAIT.format("0x0")) == [late]


@pytest.mark.parametrize(
    "reader",
    [
        "STS.128 [R92], R92", "ISETP.GE.AND P0, PT, R92, R93, PT", "R2UR UR4, R92", "STG.E desc[UR4][R92.64], R92",
        "BAR.SYNC.DEFER_BLOCKING R92, R93", "FADD R1, R92, R93", "LDGSTS.E [R92], desc[UR4][R94.64]",
    ],
)  # fmt: skip
def test_reads_are_no_writes(reader):
    assert found_in(SUMS, reader, WAIT.format("0x0")) == []


def test_registers_that_products_write():
    lines = {
        "HGMMA.64x64x16.F32.BF16 R24, gdesc[UR16], RZ, !UPT": range(24, 56),
        "HGMMA.64x64x16.F16 R24, gdesc[UR16], RZ, !UPT": range(24, 40),
        "IGMMA.64x32x32.S8.S8 R24, gdesc[UR8], R24": range(24, 40),
        "HMMA.16816.F32.BF16 R24, R20, R16, R24": range(24, 28),
    }
    for line, registers in lines.items():
        (instruction,) = straight(line)
        assert written(instruction) == registers, line


def test_clocks_and_bound():
    """By hand: two warpgroups, one iteration of 128 x 64 keys of 32 channels."""
    tile = Tile((Product(128, 64, 32), Product(128, 64, 32)), 1, 2 * 2 * 128 * 64 * 32)
    counts = straight(*(line.strip() for line in (SCORES + SOFTMAX + SUMS + COPIES).splitlines() if line.strip()))
    found = clocks(CHIPS["sm_90"], tile, counts, 8, True)
    assert found.tensor == 4 * 2 * 2 * 64 * 64 * 16 / 4096
    # Two products read both sides, two the right side alone; copies are 512 bytes of each warp.
    assert found.shared == (2 * (2 * 32 * 128 + 2 * 32 * 64) + 2 * 8 * 512) / 128
    assert found.l2 == 2 * 8 * 512 / 24 and found.latency == LATENCY
    assert found.other == 8 * 2 * 5 / 4  # issue: ten instructions of each warp
    assert clocks(CHIPS["sm_90"], tile, counts, 8, False).latency == LATENCY + LOAD + found.l2
    alone = max(found.tensor, found.shared) + found.other + LATENCY
    assert bound(CHIPS["sm_90"], tile, found, 1) == pytest.approx(tile.useful / 4096 / max(alone, found.l2))
    assert bound(CHIPS["sm_90"], tile, found, 2) == pytest.approx(tile.useful / 4096 / max(alone / 2, found.l2))


def test_copies_by_descriptors():
    """Queries once, keys and values with each block; how many bytes one moves is not in the text."""
    tile = Tile((Product(128, 64, 256), Product(128, 32, 64)), 3, 0)
    found = clocks(CHIPS["sm_90"], tile, straight("UTMALDG.2D [UR8], [UR4]"), 4, True)
    assert found.l2 == 2 * (128 * 256 + 3 * 64 * (256 + 32)) / 24 and found.shared == found.l2 * 24 / 128


@pytest.mark.parametrize(
    ("instruction", "clocks_of_a_warp"),
    [("HMMA.16816.F32.BF16", 2), ("HMMA.1688.F32.TF32", 2), ("HMMA.1688.F32.BF16", 1), ("QMMA.16832.F32.E4M3.E4M3", 2)],
)
def test_products_by_mma(instruction, clocks_of_a_warp):
    counts = straight(f"{instruction} R1, R2, R3, R4")
    assert clocks(CHIPS["sm_80"], Tile((), 0, 0), counts, 4, True).tensor == 4 * clocks_of_a_warp


def test_products_by_tcgen05():
    """They are issued by one thread, their shapes are not in the text, and 64 rows take as long as 128."""
    tile = Tile((Product(64, 64, 256), Product(64, 64, 64)), 2, 0)
    lines = ["UTCHMMA gdesc[UR68], gdesc[UR70], tmem[UR14], tmem[UR8], idesc[UR9], !UPT"] * 3
    for left, rows in (("gdesc[UR2]", 64), ("tmem[UR2]", 0)):
        made = [*lines, lines[0].replace("gdesc[UR68]", left)]
        found = clocks(CHIPS["sm_100"], tile, straight(*made), 4, True)
        assert found.tensor == 2 * 2 * 128 * 64 * 320 / 8192
        assert found.shared == 2 * 2 * (256 * (64 + 64) + 64 * (rows + 64)) / 128


def test_programs_at_once():
    chip = CHIPS["sm_90"]
    assert programs_at_once(chip, 128, 107008, 8) == 2 and programs_at_once(chip, 129, 107008, 8) == 1
    assert programs_at_once(chip, 32, 1024, 8) == 8 and programs_at_once(chip, 32, 116000, 4) == 1


# ---- gates ----

TILE = Tile((Product(128, 64, 256), Product(128, 64, 64)), 1, 1)
NO_CLOCKS = Clocks(1, 1, 1, 1, 1)


def problems(
    *parts, fitting=1, programs=1, reached=0.5, stored=0.5, dtype="bfloat16", shape="256x64", tile=TILE, late=()
):
    body = loop_of(*parts)
    report = sass_kernels.Report(
        "row", "", 8, 128, 0, programs, "", tile, {}, 0, iterations_ahead(body), NO_CLOCKS, reached, 1, list(late), ""
    )
    past = stored if stored is None else {"row": stored}
    return list(sass_kernels.problems(report, launch_of(shape=shape, dtype=dtype), body, fitting, past))


def test_what_is_right_passes():
    """Also exchanges that rows cannot avoid: of scales beside tensor memory, of weights if mma has more columns."""
    assert problems(*PREFETCHED) == []
    assert problems(*PREFETCHED, reached=0.495) == problems(*PREFETCHED, stored=None, reached=0.0) == []
    assert problems(wait(0), *PREFETCHED[1:], fitting=3) == []
    assert problems(wait(0), *PREFETCHED[1:], shape="*") == []  # has to fit anywhere
    assert problems("UTCHMMA gdesc[UR2]", "STSM.16.M88 [R2], R63") == []
    body = "HMMA.16816.F32.BF16 R1, R2, R3, R4", "STS.128 [R2], R63"
    assert len(problems(*body)) == 1
    assert problems(*body, tile=TILE._replace(products=(Product(64, 32, 256), Product(64, 256, 32)))) == []


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ((wait(0), *PREFETCHED[1:]), "loads are not prefetched, and 1 programs at once do not hide them"),
        ((*PREFETCHED[:2], "STSM.16.M88 [R2], R63", *PREFETCHED[2:]), "128 bytes of a warp go through shared memory"),
        (("UTCHMMA gdesc[UR2]", "STS.128 [R2], R63"), "512 bytes of a warp go through shared memory"),
        ((SCORES.replace("RZ, !UPT", "RZ, !UPT, gsb0"), SUMS), "wgmma is serialised: 2 products are waited for in 3"),
    ],
)
def test_a_broken_loop_fails(broken, said):
    (found,) = problems(*broken)
    assert found.startswith(said)
    assert problems(*broken, dtype="float32") == []  # it is exact, not fast


def test_wrong_registers_fail_in_every_row():
    for more in ({}, {"dtype": "float32"}, {"tile": None}, {"shape": "*", "stored": None}):
        (found,) = problems(*PREFETCHED, late=["a hazard"], **more)
        assert found == "a hazard"


def test_a_lower_bound_and_programs_that_do_not_fit_fail():
    assert problems(*PREFETCHED, reached=0.48) == ["the bound is 48.0%, and 50.0% is stored"]
    assert problems(*PREFETCHED, programs=2) == ["2 programs of a multiprocessor are wanted at once, and 1 fit"]


SCANNED = re.compile(r"[1-9]\d* kernels scanned, (\d+) with wgmma from registers; (\d+) hazards")


def printed(*arguments, code=0, **environment):
    """What a script prints while Triton compiles."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | environment
    done = subprocess.run([sys.executable, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout.splitlines()


def read(path, table):
    """What ``make sass`` prints on sm_90 with these configurations: three lines for each kernel."""
    path.write_text(json.dumps(table))
    options = ["--target", "sm_90", "--jobs", "1", "--op", "memory_attention", "--op", "window_attention"]
    places = {"SAM2FAST_LAUNCH_TABLE": str(path), "PYTHONPATH": str(ROOT)}
    lines = printed("bench/sass.py", *options, code=1, **places)
    assert SCANNED.search(lines[-2])[1] != "0"
    return [lines[i - 2 : i + 1] for i, line in enumerate(lines) if line.startswith("    clocks of a program")]


def row_of(dtype, shape, meta, warps, stages):
    options = {"num_warps": warps, "num_stages": stages}
    return {"arch": "sm_90", "dtype": dtype, "shape": shape, "meta": {"CHUNK": 256, **meta}, "options": options}


@pytest.mark.slow
def test_rows_that_are_broken_on_purpose(tmp_path):
    """Compiled for a GPU that is not here: too few stages, programs that do not fit, too few registers for wgmma."""
    pytest.importorskip("triton")
    tile = {"BLOCK_M": 128, "BLOCK_N": 64}
    memory = [row_of("bfloat16", "256x64", tile, 8, 2), row_of("float16", "256x64", {**tile, "CTAS_PER_SM": 2}, 8, 3)]
    window = [{**row_of("bfloat16", "*", {}, 4, 1), "meta": {"BLOCK_M": 128, "BLOCK_N": 128}}]
    found = read(tmp_path / "table.json", {"memory_attention": memory, "window_attention": window})
    lines = {each[0].partition(": ")[0]: each[0] for each in found}
    few = lines["memory_attention bfloat16 256x64 256/64 sm_90"]
    assert "loads are not prefetched, and 1 programs" in few and "is stored" in few
    many = lines["memory_attention float16 256x64 256/64 sm_90"]
    assert "2 programs of a multiprocessor are wanted at once, and 1 fit" in many
    assert any("wgmma is serialised" in line for name, line in lines.items() if "window_attention bfloat16" in name)


@pytest.mark.slow
def test_specialised_warps_reach_more():
    """Triton divides the candidate's warps with every tile, and nothing is wrong with its code."""
    pytest.importorskip("triton", minversion="3.7")
    lines = printed("bench/candidates/specialised_attention.py")
    bounds, least = {}, {"256x64": 90, "256x256": 60, "256x256 direct": 60}
    for name, loop, reached in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        assert name.endswith(": ok") and "in each of 2 groups" in loop
        shape = re.search(r"bfloat16 (.*) specialised", name)[1]
        bounds.setdefault(shape, float(reached.partition("at most ")[2].rstrip("%")))
    assert bounds.keys() == least.keys() and all(bounds[shape] >= least[shape] for shape in least)


def test_a_tile_is_freed_when_all_warps_have_read_it():
    wait, meet = " WARPGROUP.DEPBAR.LE gsb0, 0x1", " BAR.SYNC.DEFER_BLOCKING 0x2, 0x80"
    frees, expects = (f" @!P1 SYNCS.ARRIVE.TRANS64{kind} RZ, [R15+URZ+0x34120], R2" for kind in (".A1T0", ""))
    assert freed(parse(text(wait, meet, frees, wait, expects))) == []
    assert len(freed(parse(text(meet, wait, frees, meet, frees.replace("A1T0", "ART0"))))) == 1
    assert hazards(parse(text(wait, frees.replace("A1T0", "ART0"))))[-1].startswith("a tile that other warps may still")


def test_groups_of_warps_in_gluon_reach_more():
    if not pytest.importorskip("triton").__version__.startswith(("3.6.", "3.7.")):
        pytest.skip("other versions name Gluon's operations differently")
    text = "\n".join(printed("bench/candidates/gluon_memory_attention.py"))
    assert "in each of 4 groups" in text and " local," not in text
    assert float(text.rpartition("at most ")[2].rstrip("%")) > 90


def test_pairs_of_programs_reach_more():
    """The candidate in Gluon: it compiles, nothing is wrong with its loop, and without pairs L2 would be the limit."""
    pytest.importorskip("triton", minversion="3.7")
    lines = printed("bench/candidates/gluon_attention.py")[2:4]
    shared, alone = (float(line.rpartition("at most ")[2].rstrip("%")) for line in lines)
    assert shared > 90 and 60 < alone < 65


SOME_CANDIDATES = """
import sass

found = sass.candidates
sass.candidates = lambda *arguments: found(*arguments)[::36]
sass.main()
"""


def test_candidates_are_scanned():
    """Every 36th of those with products of nms masks, whose sides are both in shared memory."""
    pytest.importorskip("triton")
    options = ["--candidates", "--op", "nms", "--jobs", "1"]
    *kernels, summary, _ = printed("-c", SOME_CANDIDATES, *options, PYTHONPATH="bench")
    assert SCANNED.search(summary).groups() == ("0", "0")
    assert all(line.endswith(" 0 wgmma from registers: ok") for line in kernels)

"""Every kernel against its reference implementation, on random inputs at SAM 2's sizes; and that an error is seen."""

import importlib
import itertools
from collections import Counter
from functools import cache

import pytest
import torch
from kernel_records import RECORDS
from parity_rows import FEW_DTYPES, MODE, name_of, row_of

from sam2fast.kernels._dispatch import launches

pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow):RuntimeWarning")
CHECKS = {f"{folder}: {op}": (op, check) for folder, record in RECORDS.items() for op, check in record.parity.items()}
PLANNED = [
    pytest.param(name, dtype, variant, id=f"{name} {dtype} {variant}")
    for name, (_, check) in CHECKS.items()
    for dtype, variant in itertools.product(check.planned_dtypes, check.variants(check.plan))
]


def finish(row, record_property):
    """Hands on a row, and fails if a result in it is wrong or differs between two runs."""
    print(row)
    record_property("row", row)
    assert row["wrong"] == 0


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "dtype", "variant"), PLANNED)
def test_parity(triton_device, record_property, name, dtype, variant):
    op, check = CHECKS[name]
    if reason := check.unsupported(triton_device):
        record_property("row", {"op": op, "dtype": name_of(dtype), "wrong": 0, "note": reason})
        pytest.skip(reason)
    finish(row_of(op, check, check.plan, dtype, variant, triton_device), record_property)


@pytest.mark.gpu
@pytest.mark.skipif(MODE in ("sanitizer", "rehearsal"), reason="too many for a memory checker and for the interpreter")
@pytest.mark.parametrize("name", [name for name, (_, check) in CHECKS.items() if check.many])
def test_more_pixels_than_31_bits_count(triton_device, record_property, name):
    op, check = CHECKS[name]
    wrong = int(not check.many(triton_device))
    finish({"op": op, "dtype": "float32", "inputs": 1, "wrong": wrong, "seed": 0}, record_property)


@cache
def results_of(name, launcher):
    """A list for the results of a kernel's calls on the tiny plan in fp32, each with what it launched."""
    return []


def once(function, kept):
    """The function, whose results are kept: kernels take long."""
    number = itertools.count()

    def call(*inputs, **options):
        if (n := next(number)) == len(kept):
            before = Counter(launches)
            kept.append((function(*inputs, **options), Counter(launches) - before))
        else:
            launches.update(kept[n][1])
        return kept[n][0]

    return call


def tiny_row(name, dtype, device, **falsified):
    """The tiny plan's first variant. ``falsified`` are functions that change a kernel, by its launcher."""
    op, check = CHECKS[name]
    with pytest.MonkeyPatch.context() as patch:
        for launcher in dict(check.launchers) if dtype in (None, torch.float32) else ():
            module, _, function = launcher.rpartition(".")
            module = importlib.import_module(f"sam2fast.kernels.{module}")
            kernel = once(getattr(module, function), results_of(name, launcher))
            patch.setattr(module, function, falsified.get(launcher, lambda kernel: kernel)(kernel))
        return first_variant(op, check, dtype, device)


def first_variant(op, check, dtype, device):
    return row_of(op, check, check.tiny, dtype, check.variants(check.tiny)[0], device, seed=1)


# Tests of each kernel compare its results in 16 bits.
RIGHT = [
    (name, dtype)
    for name, (_, check) in CHECKS.items()
    for dtype in [dtype for dtype in FEW_DTYPES if dtype in check.dtypes] or check.dtypes[:1]
]


@pytest.mark.parametrize(("name", "dtype"), RIGHT, ids=str)
def test_right_kernels_are_right(triton_device, name, dtype):
    if reason := CHECKS[name][1].unsupported(triton_device):
        pytest.skip(reason)
    row = tiny_row(name, dtype, triton_device)
    assert row["wrong"] == 0 and row["inputs"] > 0 and row["runs"] >= 2 * row["inputs"]
    if "largest error" in row:
        assert 0 < row["largest error"] < (0.3 if "fp8" in name else 1e-5 if row["dtype"] == "float32" else 0.1)


def changed(change, x):
    """A result with another number at the end or, of fractions, with all numbers off by ``change``."""
    if x.is_floating_point():
        return x + change
    wrong = x.clone()
    wrong.view(-1)[-1] = not wrong.view(-1)[-1] if x.dtype == torch.bool else wrong.view(-1)[-1] + 1
    return wrong


def falsify(part, changes):
    """What makes a wrong kernel of a right one: it adds the changes to a result, one after the other."""
    change = itertools.cycle(changes)

    def of(function):
        def wrong(*inputs, **options):
            out, by = function(*inputs, **options), next(change)
            if isinstance(out, torch.Tensor):
                return changed(by, out)
            each = [changed(by, x) if n == part else x for n, x in enumerate(out)]
            return type(out)(*each) if hasattr(out, "_fields") else tuple(each)

        return wrong

    return of


FALSIFIED = [(name, *launcher) for name, (_, check) in CHECKS.items() for launcher in check.launchers]


@pytest.mark.parametrize(("name", "launcher", "part"), FALSIFIED)
def test_a_wrong_kernel_is_seen(triton_device, name, launcher, part):
    """Also one that differs between two runs; in fp8 what is smaller than rounding does not count."""
    check, is_fp8 = CHECKS[name][1], "fp8" in name
    cases = [([0], False), ([1e-3], not is_fp8), ([float("nan")], True), ([0, 3e-6], True), ([0.5], True)]
    for changes, is_seen in [([1], True)] if check.is_exact else cases:
        row = tiny_row(name, check.dtypes[0], triton_device, **{launcher: falsify(part, changes)})
        assert (row["wrong"] > 0) == is_seen, changes


def test_a_kernel_that_is_not_launched_is_noticed(monkeypatch, triton_device):
    from sam2fast.kernels import nms_triton

    monkeypatch.setattr(nms_triton, "count_launch", lambda op: None)
    with pytest.raises(RuntimeError, match="the kernel of nms was not launched"):
        first_variant(*CHECKS["nms: box_nms"], None, triton_device)

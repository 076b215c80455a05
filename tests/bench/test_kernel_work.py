"""Work and limits on the pages of kernels: formulas against the benchmarks' counts and against the model."""

import json
from pathlib import Path

import kernel_records
import pytest
import torch
from figures.kernels import SECTIONS, Gpu, floor
from figures.results import Results
from gpu.steps import COMPARED
from inputs import M_CHANNELS, PAGES, POINTERS, D, N, hiera_blocks
from kernel_records import RECORDS, preprocess, window_attention
from kernel_records.memory_attention import SPLITS, TOKENS, memory_case, memory_work, self_attention_case, self_work
from registry import Work, configured

from sam2fast.profiling.flops import memory_attention_flops

RESULTS = Path(__file__).parents[2] / "bench" / "results"
BF16 = torch.bfloat16


def test_a_visit_to_a_gpu_measures_all_ops_of_a_page():
    measured = {comparison.op for comparison in COMPARED} & {case.op for case in kernel_records.cases()}
    assert {op for record in RECORDS.values() for ops in record.pages.values() for op in ops} <= measured


def test_memory_attention_is_counted_as_it_is_measured():
    assert TOKENS == 28_736
    for objects in (1, 16):
        done = memory_work(objects, 2, splits=1)
        assert done.products == memory_case(objects, 7, BF16).work.products
        assert done.products == _flops_of_memory(objects)
        # Data passed between launches is added to the minimum of reads and writes.
        assert done.bytes > memory_case(objects, 7, BF16).work.bytes
        assert done.exponentials == objects * N * TOKENS
        own, case = self_work(objects, 4, splits=1), self_attention_case(objects, torch.float32).work
        assert own.products == case.products and own.bytes == case.bytes + 4 * objects * 4 * N * D
    # Each further split writes a mean and a logarithm in fp32, which are read again.
    assert memory_work(1, 2, splits=4).bytes - memory_work(1, 2, splits=1).bytes == 2 * 3 * 4 * N * (64 + 1)


def _flops_of_memory(objects):
    """As the profile counts them: of shapes, and of tables that are full."""
    with torch.device("meta"):
        query, pages = torch.empty(objects, 1, N, D), torch.empty(1, N, M_CHANNELS)
        weight = torch.empty(D, M_CHANNELS)
    table, valid = torch.zeros(objects, PAGES), torch.ones(objects, POINTERS)
    return memory_attention_flops(query, pages, table, *[None] * 5, valid, weight, None, weight, None)


@pytest.mark.parametrize("size", ["t", "b+", "l"])
def test_blocks_are_those_of_the_model(size):
    """The sum over a model's blocks is what was counted while the model ran."""
    report = Results(RESULTS).newest("encoder-parts-cpu")
    counted = {(row["size"], row["part"]): row["GFLOP"] for row in report.data["rows"]}
    done = sum(window_attention.work(block, 2).products for block in hiera_blocks(size))
    assert done / 1e9 == pytest.approx(counted[size, "attention"], rel=1e-12)


def _on_hopper(dtype, shape):
    """The configuration of memory attention that is taken there."""
    return configured("memory_attention", "sm_90", dtype, shape).meta


def test_the_kernels_launch_as_documented():
    from sam2fast.kernels.memory_attention.launch import splits_for
    from sam2fast.kernels.preprocess_triton import taps

    hopper = {objects: splits_for(32 * objects, 132, 28_736 // 64) for objects in (1, 2, 4, 8, 16)}
    assert hopper == {1: 4, 2: 2, 4: 1, 8: 1, 16: 1}
    for (dtype, objects), each in SPLITS.items():
        for splits, keys, shape in zip(each, (28_736, 4096), ("256x64", "256x256"), strict=True):
            meta = _on_hopper({"bf16": "bfloat16", "fp32": "float32"}[dtype], shape)
            tiles = objects * N // meta["BLOCK_M"]
            programs = meta.get("CTAS_PER_SM", 1)
            assert splits_for(tiles, 132, keys // meta["BLOCK_N"], programs) == splits, (dtype, objects, shape)
    for length, wanted in ((1080, 1024), (1920, 1024), (480, 1024), (1024, 1024)):
        assert preprocess.taps(length, wanted) == taps(length / wanted)


@pytest.mark.parametrize(
    ("done", "expected"),
    [
        (Work(bytes=4.0, products=1e3), (2.0, "memory")),
        (Work(bytes=1.0, products=3e3), (3.0, "products")),
        (Work(bytes=1.0, products=1e3, vector=70.0), (7.0, "arithmetic")),
        (Work(bytes=1.0, vector=1.0, exponentials=50.0), (10.0, "exponentials")),
    ],
)
def test_the_limit_is_what_takes_longest(done, expected):
    assert floor(done, Gpu("", 2.0, {"bf16": 1e3}, 10.0, 5.0), "bf16") == expected


def test_a_gpu_appears_with_its_file(tmp_path):
    section = SECTIONS["measured-nms"]
    assert section(Results(tmp_path)) == "This op was not timed on a GPU (`make gpu PART=micro`)."
    row = {"op": "box_nms", "shape": "300 boxes", "dtype": "float32", "of limit": 0.0123}
    rows = [row | {"subject": name, "p50 ms": ms} for name, ms in (("torchvision", 0.5), ("triton", 0.025))]
    rows[0]["of limit"] = 0.9
    machine = {"device": "NVIDIA H200", "torch": "2.13.0", "commit": "0123456789ab"}
    for date, ms in (("2030-01-02", 0.025), ("2030-01-01", 0.777)):
        rows[1]["p50 ms"] = ms
        data = {"date": date, "machine": machine, "parts": {"micro": rows}}
        (tmp_path / f"nvidia-h200-{date}.json").write_text(json.dumps(data))
    text = section(Results(tmp_path))
    assert "| 300 boxes, float32 | 0.500 | 0.0250 | 1.23 |" in text
    assert "NVIDIA H200" in text and "Not measured" not in text and "0.777" not in text
    # A wrong result has no time, and no row.
    rows[1] = {"op": "box_nms", "shape": "300 boxes", "dtype": "float32", "subject": "WRONG: differs"}
    data = {"date": "2030-01-03", "machine": machine, "parts": {"micro": rows}}
    (tmp_path / "nvidia-h200-2030-01-03.json").write_text(json.dumps(data))
    assert "| 300 boxes, float32 | 0.500 | – |" in section(Results(tmp_path))

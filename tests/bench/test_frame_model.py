"""The estimate of a frame's time: by hand, and in the committed results."""

import json

import pytest
import torch
from checkout import ROOT
from fake_cuda import fake_cuda
from frame_costs import CostedCuda, Part
from frame_model import (
    ATTENTION,
    BANDWIDTH,
    FILL,
    FLOOR,
    GAP,
    GELU,
    ITSELF,
    MEMORY,
    MULTIPLICATIONS,
    OTHERS,
    PARTS,
    PRODUCTS,
    SMALLEST,
    WHOLE,
    Cost,
    Shape,
    by_part,
    cost_of,
)
from torch.multiprocessing.reductions import StorageWeakRef

TILE = 2 * 128 * 128 / (PRODUCTS / 132)  # seconds for each channel of K


def test_a_multiplication_takes_whole_waves():
    """4096x1152x384 are 288 tiles of 128x128, two more waves of 132 than one; a wide tile has two waves of 160."""
    assert Shape(1, 4096, 1152, 384).seconds == pytest.approx(3 * (FILL + TILE * 384))
    # A full wave; with one tile more, three waves of half tiles.
    assert Shape(132, 128, 128, 1024).seconds == pytest.approx(FILL + TILE * 1024)
    assert Shape(133, 128, 128, 1024).seconds == pytest.approx(3 * (FILL + TILE / 2 * 1024))
    # Narrow results take narrow tiles.
    assert Shape(1, 4096, 64, 4096).seconds == pytest.approx(FILL + TILE / 2 * 4096)


def test_the_longest_counts_and_the_floor():
    assert Cost("copy_", 24, 0).seconds == FLOOR and Cost("copy_", 24, 0).part == SMALLEST
    assert Cost("copy_", int(BANDWIDTH * 1e-5), 0).seconds == pytest.approx(GAP + 1e-5)
    shape = Shape(1, 8192, 8192, 8192)
    cost = Cost("mm", 10**8, 2 * 8192**3, MULTIPLICATIONS, shape)
    assert cost.seconds == GAP + shape.seconds and cost.part == MULTIPLICATIONS
    assert Cost("mm", int(BANDWIDTH), 0, MULTIPLICATIONS, shape).seconds == pytest.approx(1 + GAP)


@pytest.mark.parametrize(("programs", "waves"), [(128, 132 / 128), (132, 1), (133, 2 * 132 / 133)])
def test_attention_takes_whole_waves(programs, waves):
    cost = Cost("_attend_kernel", 0, int(ATTENTION * 1e-3), MEMORY, programs=programs)
    assert cost.seconds == pytest.approx(GAP + 1e-3 * waves)


def test_kinds_and_shapes():
    x, weight = torch.zeros(6, 8, 4), torch.zeros(16, 4)
    assert cost_of("addmm", 0, 0, (weight[:, 0], x[0], weight.T), {}).shape == Shape(1, 8, 16, 4)
    assert cost_of("addmm_", 0, 0, (torch.zeros(8, 16), x[0], weight.T), {}).shape == Shape(1, 8, 16, 4)
    assert cost_of("baddbmm", 0, 0, (x, x, torch.zeros(6, 4, 5)), {}).shape == Shape(6, 8, 5, 4)
    assert cost_of("_linear_gelu_kernel", 0, 0, (x, weight, weight, x), {}).shape == Shape(1, 48, 16, 4)
    image, filters = torch.zeros(1, 3, 64, 64), torch.zeros(96, 3, 7, 7)
    flops = 2 * 16 * 16 * 96 * 147
    assert cost_of("convolution", 0, flops, (image, filters), {}).shape == Shape(1, 256, 96, 147)
    query, keys = torch.zeros(2, 4, 300, 8), torch.zeros(2, 4, 90, 8)
    sums = torch.zeros(3, 8, 300, 8)
    args = query, query, keys, keys, keys, keys, keys, sums, sums
    for ragged, direct, kind, programs in ((True, False, MEMORY, 72), (False, True, ITSELF, 24)):
        cost = cost_of("_attend_kernel", 0, 1, args, {"RAGGED": ragged, "DIRECT": direct, "BLOCK_M": 128})
        assert (cost.kind, cost.programs) == (kind, programs)
    assert cost_of("_scaled_dot_product_efficient_attention", 0, 1, args[:3], {})[3:] == (WHOLE, None, 24)
    for name in ("_norm_linear_kernel", "_grouped_mlp_kernel", "_mlp_kernel"):
        assert cost_of(name, 0, 1, (x,), {}).kind == MULTIPLICATIONS
    assert cost_of("_token_attention_kernel", 0, 1, (x,), {}).kind == WHOLE
    assert cost_of("gelu_", 0, 0, (x,), {}).kind == GELU and cost_of("copy_", 0, 0, (x,), {}).kind == OTHERS


def test_memory_counts_what_exists_at_once():
    """Weights do not count, nor what was freed before."""
    cuda = CostedCuda()
    with fake_cuda(cuda), cuda.watched() as seen:
        weight = torch.ones(10, device="cuda")
        cuda.weights = {StorageWeakRef(weight.untyped_storage())}
        for _ in range(3):
            x = weight + 1
            x = x + 1
            del x
    assert cuda.most[id(seen)] == 80


def test_committed_results_are_of_this_model():
    """The sums of what is shown are right, and the parts are those of the frame."""
    (path,) = (ROOT / "bench" / "results").rglob("frame-launches-*.json")
    data = json.loads(path.read_text())
    assert [row["part"] for row in data["by_part"]] == list(PARTS)
    for row in data["frames"]:
        total = Part(*(sum(row[part][name] for part in ("eager", "step", "encoder")) for name in Part._fields))
        assert [row["seconds"], row["share"]] == pytest.approx([total.seconds, total.share])
        if row["objects"] == 1 and row["image_size"] == 1024:
            for name in ("launches", "seconds"):
                assert sum(each[row["model"]][name] for each in data["by_part"]) == pytest.approx(getattr(total, name))


def test_parts_of_launches():
    costs = [Cost("copy_", 24, 0), Cost("gelu", int(BANDWIDTH), 0, GELU), Cost("gelu", 24, 0, GELU)]
    found = by_part(costs)
    assert found[GELU] == {"launches": 1, "seconds": pytest.approx(1 + GAP)}
    assert found[SMALLEST] == {"launches": 2, "seconds": 2 * FLOOR} and list(found) == list(PARTS)

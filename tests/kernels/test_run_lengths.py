"""Run lengths: the CPU implementation, the reference and the kernel against a slow definition and the official code."""

import itertools
from functools import partial

import oracle  # noqa: F401  (makes the official package importable)
import pytest
import torch
from kernel_checks import by_kernel
from parity import random_map
from upsampled_logits import SIZES, full_size, kinds

from sam2fast.kernels import _launch
from sam2fast.kernels import run_lengths_cpu as cpu
from sam2fast.kernels._dispatch import backend
from sam2fast.kernels._launch import Row
from sam2fast.kernels.run_lengths import (
    Placement,
    RunLengths,
    decode_masks,
    decode_masks_reference,
    encode_masks,
    encode_masks_reference,
    encode_upsampled,
    encode_upsampled_reference,
    run_length_areas,
)

by_triton = partial(by_kernel, name="run_lengths")


def slowly(masks):
    """Counts of each mask, pixel by pixel."""
    found = []
    for mask in masks:
        pixels = mask.T.flatten().tolist()
        counts = [len(list(run)) for _, run in itertools.groupby(pixels)]
        found.append([0, *counts] if pixels and pixels[0] else counts or [0])
    return found


def listed(runs):
    assert runs.counts.dtype == torch.int32 and runs.offsets.dtype == torch.int64
    counts, offsets = runs.counts.tolist(), runs.offsets.tolist()
    assert offsets[0] == 0 and offsets[-1] == len(counts)
    return [counts[a:b] for a, b in itertools.pairwise(offsets)]


def same(a, b):
    return torch.equal(a.counts.cpu(), b.counts.cpu()) and torch.equal(a.offsets.cpu(), b.offsets.cpu())


def some(count, H, W, density=0.5, seed=0):
    return torch.rand(count, H, W, generator=torch.Generator().manual_seed(seed)) < density


def checkerboard(H, W):
    return (torch.arange(H)[:, None] + torch.arange(W)) % 2 == 0


MASKS = {
    "none": torch.zeros(0, 5, 7, dtype=torch.bool),
    "no rows": torch.zeros(2, 0, 7, dtype=torch.bool),
    "no columns": torch.zeros(2, 5, 0, dtype=torch.bool),
    "empty": torch.zeros(2, 5, 7, dtype=torch.bool),
    "full": torch.ones(2, 6, 4, dtype=torch.bool),
    "empty between full": torch.tensor([True, False, True])[:, None, None].expand(3, 9, 13),
    "one pixel": torch.tensor([True, False, True])[:, None, None],
    "one row": some(3, 1, 57),
    "one column": some(3, 57, 1),
    "checkerboards": torch.stack([checkerboard(17, 21), ~checkerboard(17, 21)]),
    "one foreground pixel at every place": torch.eye(15, dtype=torch.bool).view(15, 3, 5),
    "one background pixel at every place": ~torch.eye(15, dtype=torch.bool).view(15, 3, 5),
    "rows": torch.arange(18)[None, :, None].expand(1, 18, 20) % 3 == 0,
    "columns": torch.arange(20)[None, None, :].expand(1, 18, 20) % 3 == 0,
    "sparse": some(2, 19, 33, 0.02),
    "dense": some(2, 33, 19, 0.9),
    "a disc": ((torch.arange(40)[:, None] - 15) ** 2 + (torch.arange(50) - 25) ** 2 < 180)[None],
    "transposed": some(2, 20, 31).transpose(1, 2),
    "every second": some(4, 34, 53)[::2, ::2, 1::3],
}
ALL_MASKS = pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS.keys())


@ALL_MASKS
def test_as_the_slow_definition(masks):
    runs = encode_masks(masks)
    assert runs.size == masks.shape[1:]
    assert listed(runs) == listed(encode_masks_reference(masks)) == slowly(masks)
    assert torch.equal(decode_masks(runs), masks) and torch.equal(decode_masks_reference(runs), masks)
    areas = run_length_areas(runs)
    assert areas.dtype == torch.int64 and torch.equal(areas, masks.sum((1, 2)))


@pytest.mark.parametrize(("side", "density"), [(4096, 0.0001), (1024, 0.5)])
def test_large(side, density):
    """Few changes are sorted; many are found in a transposed copy."""
    masks = some(2, side, side, density)
    runs = encode_masks(masks)
    assert same(runs, encode_masks_reference(masks))
    assert torch.equal(decode_masks(runs), masks)


def places(H, W):
    """Masks that touch no border, all, and two: each pair of borders is touched together, alone and not at all."""
    for above, below, left, right in list(itertools.product((0, 3), repeat=4))[::3]:
        yield Placement((above, left), (above + H + below, left + W + right))


def placed(logits, size, threshold, place):
    """Encoded by the definition."""
    (H, W), (y, x) = size, place.origin
    masks = torch.zeros(len(logits), *place.canvas, dtype=torch.bool)
    for mask, image in zip(masks, logits, strict=True):
        mask[y : y + H, x : x + W] = full_size(image[None], size)[0] > threshold
    return masks


@pytest.mark.parametrize(("name", "threshold"), list(zip(SIZES, itertools.cycle([0.0, 0.7, -3.0]), strict=False)))
def test_upsampled(name, threshold):
    """Tests each size with the next threshold."""
    low, size = SIZES[name]
    logits = torch.cat([each[:1] for each in kinds(*low, threshold).values()])
    for place in places(*size):
        masks = placed(logits, size, threshold, place)
        runs = encode_upsampled(logits, size, threshold, *place)
        assert runs.size == place.canvas and same(runs, encode_masks_reference(masks))
    assert same(encode_upsampled_reference(logits, size, threshold, place), runs)
    assert torch.equal(decode_masks(runs), masks)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_upsampled_in_other_dtypes(dtype):
    """Interpolated in fp32, whatever they are stored in."""
    logits = random_map(3, 9, 11).to(dtype)
    assert same(
        encode_upsampled(logits, (40, 50)), encode_masks(placed(logits, (40, 50), 0.0, Placement((0, 0), (40, 50))))
    )
    grad = random_map(3, 9, 11).requires_grad_()
    assert same(encode_upsampled(grad, (40, 50)), encode_upsampled(grad.detach(), (40, 50)))


def test_torch_is_used_only_where_necessary(monkeypatch):
    asked = []
    right = cpu.upsample_and_threshold_reference
    monkeypatch.setattr(
        cpu, "upsample_and_threshold_reference", lambda image, *rest: asked.append(image) or right(image, *rest)
    )
    y, x = torch.arange(64)[:, None], torch.arange(64)
    disc = 20.3 - ((y - 30.1) ** 2 + (x - 33.7) ** 2).sqrt()
    encode_upsampled(torch.stack([disc, -disc]), (300, 500))
    assert not asked
    on_the_threshold = disc.clone()
    on_the_threshold[10, 10] = 0
    noise, ties = random_map(64, 64), random_map(64, 64).round()
    not_finite = disc.clone()
    not_finite[3, 3] = torch.nan
    encode_upsampled(torch.stack([disc, on_the_threshold, noise, ties, not_finite]), (320, 320))
    assert len(asked) == 2 and torch.equal(asked[0], ties) and torch.equal(asked[1].isnan(), not_finite.isnan())


def test_other_input_is_refused():
    for masks in (torch.zeros(1, 4, 4), torch.zeros(4, 4, dtype=torch.bool)):
        with pytest.raises(ValueError, match=r"expected bool masks \(N, H, W\), got"):
            encode_masks(masks)
    for logits in (torch.zeros(4, 4), torch.zeros(1, 4, 4, dtype=torch.int32), torch.zeros(1, 0, 4)):
        with pytest.raises(ValueError, match=r"expected (floating )?logits \(.*h, w\)"):
            encode_upsampled(logits, (8, 8))
    with pytest.raises(ValueError, match="expected a size .* of 1 to .* pixels, got"):
        encode_upsampled(torch.zeros(1, 4, 4), (0, 8))
    for origin in ((-1, 0), (0, -1), (3, 0), (0, 3)):
        with pytest.raises(ValueError, match="extends beyond the canvas of 10 x 10"):
            encode_upsampled(torch.zeros(1, 4, 4), (8, 8), 0.0, origin, (10, 10))
    with pytest.raises(ValueError, match="more than 2147483647 pixels"):
        encode_upsampled(torch.zeros(1, 4, 4), (8, 8), 0.0, (0, 0), (2**16, 2**15))


@pytest.mark.parametrize("counts", [[3, 4], [3, 3, -1, 1], [7], []])
def test_runs_that_do_not_fill_a_mask_are_refused(counts):
    runs = RunLengths(torch.tensor(counts, dtype=torch.int32), torch.tensor([0, len(counts)]), (3, 2))
    with pytest.raises(ValueError, match="do not add up to masks of 3 x 2 pixels"):
        decode_masks(runs)


def test_empty_runs_between_others():
    """As other programs may write them."""
    runs = RunLengths(torch.tensor([0, 2, 0, 0, 3, 1, 0, 0], dtype=torch.int32), torch.tensor([0, 8]), (3, 2))
    expected = torch.tensor([[1, 0], [1, 0], [0, 1]], dtype=torch.bool)[None]
    assert torch.equal(decode_masks(runs), expected) and torch.equal(decode_masks_reference(runs), expected)
    assert run_length_areas(runs).tolist() == [3]


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks so small that masks cross many of them."""
    encode = Row("*", "*", "*", {"BLOCK_Y": 8, "BLOCK_X": 16}, {"num_warps": 4})
    decode = encode._replace(shape="decode", meta={"BLOCK": 128})
    rows = [encode, encode._replace(shape="upsampled"), decode]
    monkeypatch.setattr(_launch, "custom_rows", lambda: {"run_lengths": rows})


@ALL_MASKS
def test_kernel(masks, small_blocks, triton_device):
    if masks.numel() == 0:
        with backend("triton"):
            runs = encode_masks(masks.to(triton_device))
            assert decode_masks(runs).shape == masks.shape
        assert listed(runs) == slowly(masks)
        return
    runs = by_triton(encode_masks, masks.to(triton_device))
    assert runs.size == masks.shape[1:] and listed(runs) == slowly(masks)
    assert torch.equal(by_triton(decode_masks, runs).cpu(), masks)


@pytest.mark.parametrize("place", list(places(16, 24)), ids=str)
@pytest.mark.filterwarnings("ignore:(invalid value|overflow):RuntimeWarning")
def test_kernel_upsampled_exactly(place, small_blocks, triton_device):
    """Whole numbers at twice the size: nothing is rounded, and some pixels are the threshold."""
    logits = (random_map(2, 8, 12) * 3).round()
    logits[1, 3:5, 4:8] = torch.nan
    runs = by_triton(encode_upsampled, logits.to(triton_device), (16, 24), 0.25, *place)
    assert same(runs, encode_masks_reference(placed(logits, (16, 24), 0.25, place)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_kernel_in_fp16_and_bf16(dtype, triton_device):
    logits = (random_map(2, 8, 12) * 3).round().to(dtype)
    place = Placement((1, 2), (20, 30))
    runs = by_triton(encode_upsampled, logits.to(triton_device), (16, 24), 0.25, *place)
    assert same(runs, encode_masks_reference(placed(logits, (16, 24), 0.25, place)))
    with backend("triton"), pytest.raises(RuntimeError, match=r"run_lengths does not support torch\.float64"):
        encode_upsampled(logits.double(), (32, 48))


@pytest.mark.parametrize("origin", [(0, 0), (46331, 46300), (46332, 46292), (20000, 20000)], ids=str)
def test_canvas_of_almost_all_pixels_there_can_be(origin, triton_device):
    """Three masks of 2**31 - 88,047 pixels each: numbers of pixels fit into 32 bits, their sums do not."""
    canvas = (46340, 46340)
    logits = torch.ones(3, 4, 4)
    logits[1, 1] = -3
    origin = tuple(min(o, c - 8) for o, c in zip(origin, canvas, strict=True))
    runs = encode_upsampled(logits, (8, 8), 0.0, origin, canvas)
    small = encode_upsampled(logits, (8, 8))
    assert torch.equal(run_length_areas(runs), run_length_areas(small))
    ends = runs.counts.cumsum(0, dtype=torch.int64)[runs.offsets[1:] - 1]
    assert ends.tolist() == [canvas[0] * canvas[1] * n for n in (1, 2, 3)] and ends[-1] > 2**32
    assert same(runs, by_triton(encode_upsampled, logits.to(triton_device), (8, 8), 0.0, origin, canvas))

"""Masks from low-resolution logits: statistics, masks and bits of the upsampled ones, without their floats."""

import subprocess
import sys
from itertools import cycle

import numpy as np
import oracle  # noqa: F401  (makes the official package importable)
import pytest
import torch
import torch.nn.functional as F
from interpreter import shuffled_programs
from parity import random_map
from sam2.utils.amg import batched_mask_to_box, calculate_stability_score
from upsampled_logits import SIZES, full_size, kinds, smooth

from sam2fast.kernels import _launch
from sam2fast.kernels._dispatch import backend
from sam2fast.kernels._launch import Row
from sam2fast.kernels.mask_ops import (
    cells,
    cpu,
    mask_statistics,
    mask_statistics_reference,
    pack_masks,
    unpack_masks,
    upsample_and_pack,
    upsample_and_threshold,
    upsample_and_threshold_reference,
    upsample_masks_reference,
)
from sam2fast.kernels.mask_ops.bits import unpack_bits
from sam2fast.kernels.mask_ops.reference import counts_and_boxes

ALL_SIZES = pytest.mark.parametrize(("low", "size"), SIZES.values(), ids=SIZES.keys())


def discs(count, h, w):
    """Logits with little outline."""
    y, x, radius = (torch.rand(3, count, 1, 1, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25).unbind()
    distance = ((torch.arange(h)[:, None] - y * h) ** 2 + (torch.arange(w) - x * w) ** 2).sqrt()
    return (radius * min(h, w) / 2 - distance) * 3 + random_map(count, h, w) / 4


@pytest.mark.parametrize(
    ("low", "size", "threshold", "offset"),
    [((32, 32), (150, 225), 0.0, 1.0), ((37, 53), (20, 31), 0.3, 0.7), ((1, 1), (7, 9), -1.0, -0.5)],
    ids=str,
)
def test_statistics_are_the_official_ones(low, size, threshold, offset):
    logits = torch.cat([smooth(7, *low), torch.full((1, *low), -9.0)])
    found = mask_statistics_reference(logits, size, threshold, offset)
    masks = full_size(logits, size)
    expected = calculate_stability_score(masks, threshold, offset)
    torch.testing.assert_close(found.above / found.below, expected, rtol=0, atol=0, equal_nan=True)
    boxes = batched_mask_to_box(masks > threshold)
    empty = found.area == 0
    assert empty[-1] and found.boxes[-1].tolist() == [size[1], size[0], -1, -1]
    assert torch.equal(found.boxes[~empty], boxes[~empty].to(torch.int32))
    assert torch.equal(found.area, (masks > threshold).sum((1, 2)).to(torch.int32))
    assert {x.dtype for x in found} == {torch.int32}


@ALL_SIZES
def test_masks_are_torchs_own(low, size):
    logits = random_map(2, 3, *low)
    expected = F.interpolate(logits, size, mode="bilinear", align_corners=False) > 0.3
    assert torch.equal(upsample_and_threshold_reference(logits, size, 0.3), expected)
    with backend("torch"):
        assert torch.equal(upsample_and_threshold(logits, size, 0.3), expected)
        assert torch.equal(upsample_and_pack(logits, size, 0.3), pack_masks(expected))
        assert torch.equal(upsample_and_threshold(logits[0, 0], size, 0.3), expected[0, 0])


@pytest.mark.parametrize(
    ("name", "levels"), list(zip(SIZES, cycle([(0.0, 1.0), (0.37, 0.5), (-2.0, -1.0)]), strict=False))
)
def test_cpu_counts_and_masks_equal_the_reference(name, levels):
    """Tests each size with the next levels."""
    (low, size), (threshold, offset) = SIZES[name], levels
    for name, logits in kinds(*low, threshold).items():
        with backend("torch"):
            found = mask_statistics(logits, size, threshold, offset)
            masks = upsample_and_threshold(logits, size, threshold)
        assert torch.equal(masks, upsample_and_threshold_reference(logits, size, threshold)), name
        for part, right, ours in zip(found._fields, mask_statistics_reference(logits, size, threshold, offset), found,
                                     strict=True):  # fmt: skip
            assert torch.equal(right, ours), (name, part)


class TestCells:
    """The parts of the CPU implementation."""

    low, size = (32, 32), (150, 225)

    def check(self, logits, dense=0):
        found = cpu.mask_statistics_cpu(logits, self.size, 0.0, 1.0)
        for right, ours in zip(counts_and_boxes(logits, self.size, 0.0, 1.0), found, strict=True):
            assert torch.equal(right, ours)
        assert self.upsampled == dense

    @pytest.fixture(autouse=True)
    def count(self, monkeypatch):
        """Masks that the reference implementation upsamples, and pixels that torch interpolates."""
        self.upsampled, self.asked = 0, 0
        reference, pixel = cpu.counts_and_boxes, cells.pixel_of_torch

        def counted(logits, *rest):
            self.upsampled += len(logits)
            return reference(logits, *rest)

        def counted_pixel(*rest):
            self.asked += 1
            return pixel(*rest)

        monkeypatch.setattr(cpu, "counts_and_boxes", counted)
        monkeypatch.setattr(cells, "pixel_of_torch", counted_pixel)

    def test_outlines_are_enough(self):
        self.check(discs(20, *self.low))
        assert self.asked < 20

    def test_torch_decides_ties(self):
        """Where a bilinear value is exactly the level, and its roundings decide."""
        logits = torch.full((4, *self.low), -5.0)
        for n in range(4):
            logits[n, 8 : 11 + n, 8 : 10 + n] = 5.0
            logits[n, 20, 20 : 22 + n] = 1.0 / 3
        self.check(logits)
        assert self.asked > 5

    def test_masks_of_nothing_but_outline(self):
        self.check(torch.cat([discs(2, *self.low), random_map(2, *self.low), torch.zeros(1, *self.low)]))

    def test_masks_with_too_many_ties_are_upsampled(self):
        logits = torch.cat([discs(2, *self.low), random_map(2, *self.low).round()])
        self.check(logits, dense=2)

    @pytest.mark.parametrize("low", [(32, 32), (9, 40)])
    def test_pixels_are_those_of_torch(self, low):
        """Bit for bit: inside, at all edges and in the corners."""
        logits = random_map(1, *low)
        axes = [cells.axis_of(n, N) for n, N in zip(low, self.size, strict=True)]
        expected = upsample_masks_reference(logits[None], self.size)[0, 0]
        corners = F.pad(logits, (0, 1, 0, 1), mode="replicate")[0].numpy()
        generator = torch.Generator().manual_seed(0)
        for i, j in [(0, 0), (low[0] - 1, low[1] - 1), *torch.randint(2**16, (400, 2), generator=generator).tolist()]:
            i, j = i % low[0], j % low[1]
            for y, x in ((0, 0), (axes[0].number[i] - 1, axes[1].number[j] - 1)):
                found = cells.pixel_of_torch(corners[i : i + 2, j : j + 2], (axes[0], i, y), (axes[1], j, x))
                assert found == expected[axes[0].first[i] + y, axes[1].first[j] + x], (i, j, y, x)

    def test_passes_of_any_size(self, monkeypatch):
        """Several masks a pass and one; cells in several chunks, also empty ones."""
        logits = discs(9, *self.low)
        logits[4] = -9
        for chunk, columns in ((1, 50), (2 * 32 * 32, 1), (4 * 32 * 32 + 1, 4000)):
            monkeypatch.setattr(cpu, "CHUNK", chunk)
            monkeypatch.setattr(cpu, "AT_ONCE", columns)
            self.check(logits)

    def test_levels_that_are_nan(self):
        logits = discs(3, *self.low)
        for threshold, offset in (
            (torch.inf, 1.0),
            (-torch.inf, 1.0),
            (torch.nan, 1.0),
            (0.0, torch.inf),
            (1e38, 3e38),
        ):
            found = cpu.mask_statistics_cpu(logits, self.size, threshold, offset)
            for right, ours in zip(counts_and_boxes(logits, self.size, threshold, offset), found, strict=True):
                assert torch.equal(right, ours)

    def test_thousands_of_masks(self):
        """Random sizes, scales and levels."""
        generator = torch.Generator().manual_seed(0)
        for seed in range(40):
            h, w, up, across = torch.randint(2, 24, (4,), generator=generator).tolist()
            size = (h * 2 + up * 4, w * 2 + across * 5)
            logits = smooth(40, h, w, seed=seed) * 10.0 ** float(torch.randn((), generator=generator))
            logits = logits.round() if seed % 3 == 0 else logits
            level = float(torch.randn((), generator=generator)) * (seed % 2)
            masks = upsample_and_threshold(logits, size, level)
            assert torch.equal(masks, upsample_and_threshold_reference(logits, size, level)), (seed, h, w, size, level)
            found = cpu.mask_statistics_cpu(logits, size, level, 0.5)
            for right, ours in zip(counts_and_boxes(logits, size, level, 0.5), found, strict=True):
                assert torch.equal(right, ours), (seed, h, w, size, level)


def undecided(logits, size, level):
    """Pixels so near the level that a rounding decides: where compilers fuse other operations than torch's did."""
    values = full_size(logits, size)
    largest = logits.float().nan_to_num(0, 0, 0).abs().amax((1, 2), keepdim=True)
    return (values - level).abs() <= 4 * torch.finfo(torch.float32).eps * (largest + abs(level))


def assert_same_masks(found, logits, size, level):
    wrong = found.cpu() != upsample_and_threshold_reference(logits, size, level)
    assert not (wrong & ~undecided(logits, size, level)).any()


def assert_same_statistics(found, logits, size, threshold, offset):
    right = mask_statistics_reference(logits, size, threshold, offset)
    levels = (threshold, threshold + offset, threshold - offset)
    for expected, actual, level in zip(right[:3], found[:3], levels, strict=True):
        assert ((expected - actual.cpu()).abs() <= undecided(logits, size, level).sum((1, 2))).all()
    sure = ~undecided(logits, size, threshold).flatten(1).any(1)
    assert torch.equal(right.boxes[sure], found.boxes.cpu()[sure])


# numpy's, from inside the interpreter
@pytest.mark.filterwarnings("ignore:(invalid value|overflow):RuntimeWarning")
@pytest.mark.parametrize("name", kinds(1, 1, 0.0))
def test_kernels_on_hostile_logits(name, triton_device):
    for low, size in map(SIZES.__getitem__, ("columns alone", "down and up", "one pixel", "to one pixel", "the same")):
        logits = kinds(*low, 0.37)[name][:: 2 if name == "not finite" else 6]
        with backend("triton"):
            statistics = mask_statistics(logits.to(triton_device), size, 0.37, 0.5)
            masks = upsample_and_threshold(logits.to(triton_device), size, 0.37)
        assert_same_statistics(statistics, logits, size, 0.37, 0.5)
        assert_same_masks(masks, logits, size, 0.37)


def test_kernels_interpolate_to_the_last_bits(triton_device):
    """Each mask has a pixel so near the level that it would be on the other side with weights a little off."""
    base, size = random_map(1, 5, 150) * 4, (7, 700)
    place, scale = torch.arange(700) + 0.5, torch.tensor(150.0) / 700
    fused = (scale.double() * place.double() - 0.5).float()
    rounded_twice = scale * place - 0.5
    weights = cells.axis_of(150, 700)
    if not np.array_equal(weights.far[1:-1, 0], (fused % 1)[weights.first[1:-1]].numpy()):
        pytest.skip("this build of torch does not fuse multiplications with additions, as its GPU kernels do")
    columns = torch.cat([(fused != rounded_twice).nonzero()[:, 0], torch.arange(0, 700, 50)])
    chosen = full_size(base, size)[0][3, columns][:, None, None]
    near = 1e-6 * base.abs().max() * torch.tensor([-1.0, 1.0])[torch.arange(len(chosen)) % 2, None, None]
    logits = base - chosen + near
    with backend("triton"):
        assert_same_masks(upsample_and_threshold(logits.to(triton_device), size), logits, size, 0.0)
        assert_same_statistics(mask_statistics(logits.to(triton_device), size), logits, size, 0.0, 1.0)


@pytest.mark.parametrize("name", ["torch", "triton"])
def test_the_level_itself_is_background(name, triton_device):
    logits = torch.zeros(2, 4, 5, device=triton_device)
    logits[1] = -0.0
    for size in ((9, 13), (4, 5), (2, 2)):
        with backend(name):
            found = mask_statistics(logits, size)
            assert not upsample_and_threshold(logits, size).any() and not upsample_and_pack(logits, size).any()
        assert not found.area.any() and not found.above.any() and (found.below == size[0] * size[1]).all()


def test_logits_of_the_right_size_are_copied_on_gpus(monkeypatch, triton_device):
    from sam2fast.kernels.mask_ops import launch

    monkeypatch.setattr(launch, "copies", lambda logits, size: logits.shape[-2:] == size)
    logits, size = kinds(12, 20, 0.37)["not finite"], (12, 20)
    with backend("triton"):
        statistics = mask_statistics(logits.to(triton_device), size, 0.37, 0.5)
        masks = upsample_and_threshold(logits.to(triton_device), size, 0.37)
        packed = upsample_and_pack(logits.to(triton_device), size, 0.37)
    assert torch.equal(masks.cpu(), logits > 0.37) and torch.equal(packed, pack_masks(masks))
    for count, level in zip(statistics[:3], (0.37, 0.87, -0.13), strict=True):
        assert torch.equal(count.cpu(), (logits > level).sum((1, 2), dtype=torch.int32))


def test_small_blocks_in_any_order(monkeypatch, triton_device):
    """Many programs for a mask, which all add to the same counts and box."""
    table = dict(_launch.custom_rows())
    table["mask_ops"] = [
        Row("*", "*", shape, {"BLOCK_Y": 4, "BLOCK_X": 8}, {"num_warps": 1}) for shape in ("*", "pack", "bits")
    ]
    monkeypatch.setattr(_launch, "custom_rows", lambda: table)
    logits, size = smooth(2, 6, 9), (18, 35)
    with shuffled_programs(0), backend("triton"):
        statistics = mask_statistics(logits.to(triton_device), size)
        masks = upsample_and_threshold(logits.to(triton_device), size)
        packed = upsample_and_pack(logits.to(triton_device), size)
        assert torch.equal(unpack_masks(packed, size[1]), masks) and torch.equal(pack_masks(masks), packed)
    assert_same_statistics(statistics, logits, size, 0.0, 1.0)
    assert_same_masks(masks, logits, size, 0.0)


@pytest.mark.parametrize("name", ["torch", "triton"])
@pytest.mark.parametrize("width", [1, 7, 8, 9, 64, 131])
def test_bits_are_numpys(name, width, triton_device):
    masks = random_map(2, 3, 5, width) > 0
    with backend(name):
        packed = pack_masks(masks.to(triton_device))
        assert torch.equal(unpack_masks(packed, width).cpu(), masks)
    assert np.array_equal(packed.cpu().numpy(), np.packbits(masks.numpy(), axis=-1, bitorder="little"))


@pytest.mark.parametrize("dtype", [np.float32, np.bool_])
@pytest.mark.parametrize("shape", [(2, 3, 700, 1001), (1, 1, 3), (4, 0, 5, 9), (1, 2, 2**21 + 3)])
def test_bits_on_the_cpu(shape, dtype):
    """In pieces of several rows by several threads, and rows that are longer than a piece."""
    masks = np.random.default_rng(0).random(shape) > 0.5
    packed = torch.from_numpy(np.packbits(masks, axis=-1, bitorder="little"))
    found = unpack_bits(packed, shape[-1], dtype)
    assert found.dtype == dtype and found.flags.owndata and np.array_equal(found, masks)
    assert torch.equal(unpack_masks(packed, shape[-1]), torch.from_numpy(masks))


LATE = """
import threading, torch
from sam2fast.kernels.mask_ops import unpack_masks

torch.set_num_threads(2)
def unpack():
    threading.main_thread().join()
    print(unpack_masks(torch.full((3, 1200, 225), 255, dtype=torch.uint8), 1800).all().item())
threading.Thread(target=unpack).start()
"""


def test_bits_are_unpacked_after_the_main_thread_has_ended():
    """No thread pool may start threads then."""
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("True", "")


def test_refused_input(triton_device):
    logits = random_map(2, 4, 4).to(triton_device)
    for call in (upsample_and_threshold, upsample_and_pack, mask_statistics):
        with pytest.raises(ValueError, match="floating logits"):
            call(logits > 0, (8, 8))
        with pytest.raises(ValueError, match="at least one pixel"):
            call(logits[:, :0], (8, 8))
        for size in ((0, 8), (2**16, 2**15)):
            with pytest.raises(ValueError, match="1 to 2\\*\\*31 - 1 pixels"):
                call(logits, size)
        with backend("triton"), pytest.raises(RuntimeError, match=r"does not support torch\.float64"):
            call(logits.double(), (8, 8))
    with pytest.raises(ValueError, match=r"expected logits \(N, h, w\), got \(1, 2, 4, 4\)"):
        mask_statistics(logits[None], (8, 8))
    with pytest.raises(ValueError, match="bool masks"):
        pack_masks(logits)
    with pytest.raises(ValueError, match=r"expected uint8 \(..., H, 2\) for a width of 9, got torch.uint8 \(4, 1\)"):
        unpack_masks(torch.zeros(4, 1, dtype=torch.uint8), 9)


def test_another_default_device(triton_launch):
    """Tensors made on the CPU name it as their device."""
    generator = torch.Generator().manual_seed(0)
    logits = F.avg_pool2d(torch.randn(3, 33, 35, generator=generator), 3, stride=1) * 5
    size = (301, 299)  # not in other tests: tables are cached by size
    with torch.device("meta"):
        found = mask_statistics(logits, size, 0.1, 1.0)
        masks = upsample_and_threshold(logits, size, 0.1)
        assert triton_launch.axes_of(logits, size)[:2] == (float(np.float32(31) / 301), float(np.float32(33) / 299))
        assert triton_launch.as_compared(0.1) == float(np.float32(0.1))
    for ours, expected in zip(found, mask_statistics_reference(logits, size, 0.1, 1.0), strict=True):
        assert torch.equal(ours, expected)
    assert torch.equal(masks, upsample_and_threshold_reference(logits, size, 0.1))


@pytest.fixture
def triton_launch():
    return pytest.importorskip("sam2fast.kernels.mask_ops.launch")

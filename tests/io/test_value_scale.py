"""The values that become black and white."""

import numpy as np
import pytest

from sam2fast.io.value_scale import Scale, choose_scale, sample_values, to_eight_bits

RNG = np.random.default_rng(0)


def scene(least, most, dtype=np.uint16):
    return np.rint(RNG.uniform(least, most, 10_000)).astype(dtype)


def with_outliers(values, outlier, count=30):
    return np.concatenate([values, np.full(count, outlier, values.dtype)])


@pytest.mark.parametrize("bits", [10, 12, 13, 14, 15])
def test_white_is_the_greatest_value_of_fewer_than_sixteen_bits(bits):
    values = scene(0, 2**bits - 1)
    assert choose_scale(values) == (0, values.max())


@pytest.mark.parametrize("outlier", [4096, 12_000, 65_535])
def test_a_small_cloud_hardly_changes_the_scale(outlier):
    values = with_outliers(scene(0, 3000), outlier)
    scale = choose_scale(values)
    assert scale is not None and scale.black == 0 and 2990 < scale.white <= 4600
    assert to_eight_bits(values, scale).mean() > 80
    assert to_eight_bits(values, scale).max() == 255


def test_a_large_cloud_is_white():
    values = with_outliers(scene(0, 3000), 10_000, count=2000)
    assert choose_scale(values) == (0, 10_000)


# Values that use their range.
UNCHANGED = {
    "uint8": scene(0, 20, np.uint8),
    "16 bits": scene(0, 65_535),
    "the upper half": scene(0, 40_000),
    "floats": RNG.uniform(0, 1, 9999).astype(np.float32),
    "dark, converted from 8 bits": scene(0, 40) * np.uint16(257),
    "black": np.zeros(100, np.uint16),
    "black floats": np.zeros(100, np.float32),
    "nothing": np.empty(0, np.float32),
}
SCALES = {
    "signed": (scene(-1000, 3000, np.int16), (-1000, 3000)),
    "signed, without negative values": (scene(0, 3000, np.int16), (0, 3000)),
    "int8": (scene(-128, 127, np.int8), (-128, 127)),
    "thermal camera": (scene(7000, 8500), (7000, 8500)),
    "32 bits": (scene(0, 4_000_000_000, np.uint32), (0, 4_000_000_000)),
    "floats": (scene(0, 255, np.float32), (0, 255)),
    "small floats": (RNG.uniform(0, 0.01, 9999), (0, 0.01)),
    "negative floats": (RNG.uniform(-1, 1, 9999), (-1, 1)),
    "heights": (scene(1500, 1800, np.float64), (1500, 1800)),
    "hot pixel": (with_outliers(np.full(9999, 100, np.uint16), 4000, 1), (0, 4000)),
    "one value": (np.full(9999, 100, np.uint16), (0, 100)),
    "one negative value": (np.full(9999, -100, np.int16), (-100, 0)),
    **{name: (values, None) for name, values in UNCHANGED.items()},
}


@pytest.mark.parametrize(("values", "expected"), SCALES.values(), ids=SCALES.keys())
def test_black_and_white(values, expected):
    assert choose_scale(values) == (expected and pytest.approx(expected, rel=1e-2))


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int16, np.float16, np.int32, np.float32, np.float64])
def test_conversion_rounds_and_clips(dtype):
    """Halves are rounded to even numbers; 60 is 127.5, less a rounding error."""
    values = np.array([[-100, 0, 10, 60, 110, 120]], dtype=np.float64)
    values = values.clip(0, None).astype(dtype) if np.dtype(dtype).kind == "u" else values.astype(dtype)
    assert Scale(10, 110).apply(values[:, ::-1]).tolist() == [[255, 255, 127, 0, 0, 0]]
    assert Scale(10, 110).apply(values).dtype == np.uint8


def test_samples_are_finite_and_bounded_in_number():
    values = np.array([[np.nan, 1, 2], [np.inf, -9, 4]], np.float32)
    assert sample_values(values, nodata=-9).tolist() == [1, 2, 4]
    assert len(sample_values(np.zeros((3, 1 << 20), np.uint8))) == 1 << 20

"""Scales values of image files to 8 bits."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST_SAMPLES = 1 << 20  # maximum values sampled for percentiles
OUTLIERS = 0.5  # percentage of values at each end that may be outliers
MARGIN = 0.5  # margin around the range of percentiles, in ranges; only values beyond the margin are outliers
FULL = 65535  # largest 16-bit value
SIXTEEN_TO_EIGHT_BITS = 257  # 65535 / 255


class Scale(NamedTuple):
    """Stores the value that becomes black and the value that becomes white."""

    black: float
    white: float

    def __str__(self) -> str:
        return f"{self.black:g} to {self.white:g}"

    def apply(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Converts values to uint8. Values outside the range are clipped, and NaN is black."""
        if values.dtype.itemsize == 2:  # a table of all 65,536 values is faster
            table = self._convert(np.arange(FULL + 1, dtype=np.uint16).view(values.dtype))
            return table[values.view(np.uint16)]
        return self._convert(values)

    def _convert(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity
            scaled = (values.astype(np.float64) - self.black) * (255 / (self.white - self.black))
        return np.nan_to_num(np.rint(scaled), nan=0).clip(0, 255).astype(np.uint8)


def sample_values(values: NDArray[Any], nodata: float | None = None) -> NDArray[Any]:
    """Samples about :data:`MOST_SAMPLES` values ``(N)`` at even distances, without ``nodata`` and non-finite values."""
    samples = values.reshape(-1)[:: max(values.size // MOST_SAMPLES, 1)]
    if values.dtype.kind == "f":
        samples = samples[np.isfinite(samples)]
    return samples if nodata is None else samples[samples != nodata]


def choose_scale(values: NDArray[Any]) -> Scale | None:
    """Returns the scale for values of more than 8 bits, or None if they are not scaled.

    16-bit values are not scaled if some values are in the upper half of the range, or if all values were converted from
    8 bits. Floats in [0, 1] are not scaled if some floats are in the upper half. Otherwise the largest value is white.
    Black is the smallest value if this value is negative or more than half of white, else 0. Outliers are ignored:
    values among the lowest or highest 0.5 % that are far from all other values.

    Args:
        values: Finite values of an image, or of the frames of a video, see :func:`sample_values`.
    """
    if values.dtype == np.uint8 or not values.any():
        return None
    least, most = float(values.min()), float(values.max())
    low, high = (float(x) for x in np.percentile(values, (OUTLIERS, 100 - OUTLIERS)))
    if low == high:
        low, high = least, most
    margin = MARGIN * (high - low)
    low, high = max(least, low - margin), min(most, high + margin)
    full = 1 if values.dtype.kind == "f" else FULL
    if least >= 0 and most <= full and (2 * high > full or _were_eight_bits(values)):
        return None
    if low == high:
        return Scale(min(low, 0.0), max(high, 0.0))
    return Scale(low if low < 0 or low > high / 2 else 0.0, high)


def _were_eight_bits(values: NDArray[Any]) -> bool:
    """Returns True if 16-bit values are 8-bit values times 257. If True, white is 65535 even for dark images."""
    return values.dtype.kind != "f" and not (values % SIXTEEN_TO_EIGHT_BITS).any()


def to_eight_bits(values: NDArray[Any], scale: Scale | None) -> NDArray[Any]:
    """Converts values to uint8.

    Without a scale, floats are clipped to [0, 1] and stay floats, and grey uint16 values are divided by 257. As in
    Pillow, uint16 colours ``(H, W, 3)`` are reduced to the upper 8 bits.
    """
    if scale is not None:
        return scale.apply(values)
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "f":
        return np.nan_to_num(values, nan=0).clip(0, 1)
    if values.ndim == 3:
        return (values >> 8).astype(np.uint8)
    return Scale(0, FULL).apply(values)

"""Maps the values of image files to 8 bits."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST_SAMPLES = 1 << 20  # values, for percentiles
OUTLIERS = 0.5  # percentage of the values at each end
MARGIN = 0.5  # share of the range without outliers; values within this distance are no outliers
FULL = 65535  # greatest value of 16 bits
SIXTEEN_TO_EIGHT_BITS = 257  # 65535 / 255


class Scale(NamedTuple):
    """The values that become black and white."""

    black: float
    white: float

    def __str__(self) -> str:
        return f"{self.black:g} to {self.white:g}"

    def apply(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Converts values to 8 bits. Values beyond the range are clipped, and NaN is black."""
        if values.dtype.itemsize == 2:  # all 65,536 values are converted once
            table = self._convert(np.arange(FULL + 1, dtype=np.uint16).view(values.dtype))
            return table[values.view(np.uint16)]
        return self._convert(values)

    def _convert(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity
            scaled = (values.astype(np.float64) - self.black) * (255 / (self.white - self.black))
        return np.nan_to_num(np.rint(scaled), nan=0).clip(0, 255).astype(np.uint8)


def sample_values(values: NDArray[Any], nodata: float | None = None) -> NDArray[Any]:
    """Returns at most :data:`MOST_SAMPLES` finite values ``(N)`` at even distances, without those of ``nodata``."""
    found = values.reshape(-1)[:: max(values.size // MOST_SAMPLES, 1)]
    if values.dtype.kind == "f":
        found = found[np.isfinite(found)]
    return found if nodata is None else found[found != nodata]


def choose_scale(values: NDArray[Any]) -> Scale | None:
    """Returns the scale for values of more than 8 bits, or None if they are used unchanged.

    Values of 16 bits are unchanged if they use the upper half of their range or were converted from 8 bits, and floats
    if they use the upper half of [0, 1]. Otherwise white is the greatest value. Black is 0, or the least value if it is
    negative or more than half of white. The 0.5 % of values at each end do not count if they are far beyond the others.

    Args:
        values: Finite values of one image, or of the frames of a video, of :func:`sample_values`.
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
    """Returns True if values of 16 bits are 8 bits times 257: white is known, also of a dark image."""
    return values.dtype.kind != "f" and not (values % SIXTEEN_TO_EIGHT_BITS).any()


def to_eight_bits(values: NDArray[Any], scale: Scale | None) -> NDArray[Any]:
    """Converts values to uint8 by a scale. Without one, floats in [0, 1] are kept.

    Without a scale, grey uint16 is divided by 257. Of uint16 colours ``(H, W, 3)``, the upper 8 bits are used, as in
    Pillow.
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

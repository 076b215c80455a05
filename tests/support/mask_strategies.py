"""Masks and mask logits for property-based tests."""

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

SIDES = st.one_of(st.integers(1, 24), st.sampled_from([1, 2, 31, 32, 33, 64, 200]))
SEEDS = st.integers(0, 2**32 - 1)
# Edge cases of comparisons, rounding and overflow.
SPECIAL = [0.0, -0.0, 1e-38, -1e-38, 1e-45, 1.0, -1.0, 1024.0, 1e4, -1e4, 3e30, -3e38, np.inf, -np.inf, np.nan]


@st.composite
def masks(draw: st.DrawFn, count: st.SearchStrategy[int] | None = None) -> NDArray[np.bool_]:
    """Bool ``(N, H, W)`` of one size: noise of any density, blobs, stripes, empty and full ones."""
    shape = draw(count if count is not None else st.integers(1, 4)), draw(SIDES), draw(SIDES)
    rng = np.random.default_rng(draw(SEEDS))
    density = draw(st.sampled_from([0.0, 0.02, 0.3, 0.5, 0.7, 0.98, 1.0]))
    grain = draw(st.sampled_from([1, 1, 2, 5]))
    coarse = rng.random((shape[0], -(-shape[1] // grain), -(-shape[2] // grain))) < density
    return np.asarray(coarse.repeat(grain, 1).repeat(grain, 2)[:, : shape[1], : shape[2]])


@st.composite
def logits(draw: st.DrawFn, special: bool = True) -> NDArray[np.float32]:
    """fp32 ``(N, h, w)``: waves or noise of any scale, constant rows, and a few values of ``SPECIAL``."""
    shape = draw(st.integers(1, 3)), draw(st.integers(1, 33)), draw(st.integers(1, 33))
    rng = np.random.default_rng(draw(SEEDS))
    y, x = np.mgrid[: shape[1], : shape[2]] / 8
    kind = draw(st.sampled_from(["waves", "noise", "levels", "constant"]))
    turns = rng.normal(0, 2, (3, shape[0], 1, 1))
    values = {
        "waves": np.sin(turns[0] * x + turns[1] * y + turns[2]),
        "noise": rng.normal(0, 1, shape),
        "levels": rng.integers(-1, 2, shape).astype(float),
        "constant": np.broadcast_to(turns[0], shape),
    }[kind]
    scale = draw(st.sampled_from([1.0, 1.0, 10.0, 1e-6, 1e6, 1e-38]))
    out = (values * scale).astype(np.float32)
    for value in draw(st.lists(st.sampled_from(SPECIAL), max_size=3)) if special else ():
        out.reshape(-1)[rng.integers(0, out.size, 3)] = value
    return out

"""Invalid values for functions that take user input."""

import datetime
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

NUMBERS: st.SearchStrategy[Any] = st.one_of(
    st.integers(-3, 70),
    st.integers(),
    st.floats(),
    st.floats(0, 60),
    st.booleans(),
    st.complex_numbers(),
    st.sampled_from(
        [2**64, -(2**100), 10**400, 1e39, 1e300, np.float16(1), np.longdouble(2), np.complex64(1), np.int8(1)]
    ),
)
SCALARS = st.one_of(
    NUMBERS,
    st.none(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.sampled_from([object(), int, np.datetime64("2020-01-01"), datetime.date.max, slice(2), range(3), {1, 2}]),
)
# Any dtype that numpy has: all sizes and byte orders of numbers, times, strings, and records.
DTYPES = npst.scalar_dtypes() | npst.array_dtypes(max_size=2)
TORCH_DTYPES = st.sampled_from(
    [x for x in vars(torch).values() if isinstance(x, torch.dtype) and x != torch.complex32]  # warns
)


@st.composite
def arrays(draw: st.DrawFn, shapes: st.SearchStrategy[tuple[int, ...]] | None = None) -> np.ndarray:
    """Arrays of any dtype and memory layout; values are drawn for the numbers, and zeros else."""
    shape = draw(shapes if shapes is not None else npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    dtype = draw(DTYPES)
    if dtype.kind in "biuf" and draw(st.booleans()):
        array = draw(npst.arrays(dtype, shape, fill=st.nothing()))
    else:
        array = np.zeros(shape, dtype)
    if draw(st.booleans()):
        array = array[(slice(None, None, -1),) * array.ndim]
    if draw(st.booleans()):
        array = array.T.copy().T
    array = np.asarray(array)  # indexed without dimensions it is a scalar
    if draw(st.booleans()):
        array.flags.writeable = False
    return array


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Tensors of most dtypes, dense and sparse, with values and without, with and without a gradient."""
    shape = draw(npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    tensor = torch.zeros(shape, device=draw(st.sampled_from(["cpu", "cpu", "cpu", "meta"])))
    if draw(st.booleans()) and not tensor.is_meta:
        tensor += draw(st.floats(width=32))
    try:
        tensor = tensor.to(draw(TORCH_DTYPES))
        tensor = tensor.to_sparse() if draw(st.integers(0, 5)) == 0 else tensor
    except (RuntimeError, TypeError):
        pass  # torch has no such tensor
    return tensor.requires_grad_() if tensor.is_floating_point() and draw(st.booleans()) else tensor


def anything(leaves: st.SearchStrategy[Any] = SCALARS) -> st.SearchStrategy[Any]:
    """Scalars, arrays, tensors, and lists, tuples and dictionaries of them, regular or not."""
    return st.one_of(
        leaves,
        arrays(),
        tensors(),
        st.lists(st.lists(NUMBERS, min_size=2, max_size=2), max_size=3),
        st.lists(NUMBERS, max_size=4),
        st.recursive(
            leaves | arrays() | tensors(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.tuples(inner)
                | st.tuples(inner, inner)
                | st.dictionaries(st.text(max_size=3) | st.integers(0, 2), inner, max_size=2)
            ),
            max_leaves=5,
        ),
    )

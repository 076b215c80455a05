"""Images for property-based tests, in all accepted containers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
# Small and odd sizes, one pixel, and very long ones.
SIZES = st.one_of(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from([(1, 1), (1, 700), (700, 1), (2, 333), (3, 4), (4, 3), (128, 128), (129, 127)]),
)


@st.composite
def rgb_images(draw: st.DrawFn) -> Pixels:
    """RGB ``(H, W, 3)``: noise, gradients or a single colour."""
    height, width = draw(SIZES)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    y, x = np.mgrid[:height, :width]
    kind = draw(st.sampled_from(["noise", "waves", "plain"]))
    if kind == "noise":
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    a, b, c = rng.normal(0, 0.2, (3, 3)) * (kind == "waves")
    values = 127 + 120 * np.sin(a * x[..., None] + b * y[..., None] + c + rng.random(3))
    return values.astype(np.uint8)


def _field(array: NDArray[Any]) -> NDArray[Any]:
    """A view whose strides are no multiple of its items: a field of packed records."""
    records = np.zeros(array.shape, np.dtype([("flag", "u1"), ("value", array.dtype)]))
    records["value"] = array
    return records["value"]


def _unaligned(array: NDArray[Any]) -> NDArray[Any]:
    return np.frombuffer(b"\0" + array.tobytes(), np.uint8)[1:].view(array.dtype).reshape(array.shape)


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    out = array.copy()
    out.flags.writeable = False
    return out


# Memory layouts of arrays.
LAYOUTS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "plain": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "backwards": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "every other": lambda x: x.repeat(2, 0).repeat(2, 1)[::2, ::2],
    "turned": lambda x: np.ascontiguousarray(np.swapaxes(x, 0, 1)).swapaxes(0, 1),
    "read-only": _read_only,
    "field": _field,
    "unaligned": _unaligned,
    "foreign bytes": lambda x: x.astype(x.dtype.newbyteorder()),
}


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(array.copy())


def _rgba(rgb: Pixels) -> Pixels:
    return np.dstack([rgb, rgb[..., :1]])


# Containers with exactly the same colours.
COLOUR: dict[str, Callable[[Pixels], Any]] = {
    "RGBA array": _rgba,
    "channels of an RGBA array": lambda x: _rgba(x)[..., :3],
    "backward BGR": lambda x: x[..., ::-1].copy()[..., ::-1],
    "uint16": lambda x: x.astype(np.uint16) * 257,
    "uint16, big-endian": lambda x: (x.astype(np.uint16) * 257).astype(">u2"),
    "tensor, channels first": lambda x: _tensor(x).permute(2, 0, 1),
    "tensor, channels first, dense": lambda x: _tensor(x.transpose(2, 0, 1)),
    "tensor, RGBA": lambda x: _tensor(_rgba(x)).permute(2, 0, 1),
    "PIL": Image.fromarray,
    "PIL RGBA": lambda x: Image.fromarray(_rgba(x)),
    "PIL RGBX": lambda x: Image.fromarray(x).convert("RGBX"),
    "PIL CMYK": lambda x: Image.fromarray(x).convert("CMYK"),
}
GREY: dict[str, Callable[[Pixels], Any]] = {
    "(H, W)": lambda x: x,
    "(H, W, 1)": lambda x: x[..., None],
    "uint16": lambda x: x.astype(np.uint16) * 257,
    "tensor (1, H, W)": lambda x: _tensor(x)[None],
    "tensor (H, W)": _tensor,
    "PIL L": Image.fromarray,
    "PIL LA": lambda x: Image.fromarray(np.dstack([x, x])),
    "PIL La": lambda x: Image.merge("LA", [Image.fromarray(x), Image.new("L", x.shape[::-1], 255)]).convert("La"),
    "PIL I;16": lambda x: Image.fromarray(x.astype(np.uint16) * 257),
    "PIL I": lambda x: Image.fromarray(x.astype(np.int32) * 257),
    "PIL P": lambda x: Image.fromarray(x).convert("P"),
}
# Float dtypes of an image in [0, 1]; the narrower ones change its values.
FLOATS = ["<f8", ">f8", "<f4", ">f4", "<f2", ">f2", "longdouble"]

"""Prompts on images for property-based tests, in all accepted containers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from image_strategies import LAYOUTS
from numpy.typing import NDArray


class Prompt(NamedTuple):
    """Arguments of ``predict``: prompts as arrays with their leading B, and how to answer them."""

    arrays: dict[str, NDArray[Any]]
    options: dict[str, bool]

    @property
    def count(self) -> int:
        """B."""
        return max((len(x) for x in self.arrays.values()), default=1)

    def arguments(self) -> dict[str, Any]:
        return self.arrays | self.options

    def one(self, i: int) -> dict[str, Any]:
        """The i-th of the prompts alone; a mask may serve all of them."""
        return {name: x[i if len(x) > 1 else 0] for name, x in self.arrays.items()} | self.options


def coordinates(side: int, far: bool) -> st.SearchStrategy[float]:
    """In the image, on its border, outside; in halves, so that they are the same in every dtype."""
    some = st.integers(0, 2 * side) | st.integers(-side, 4 * side) | st.sampled_from([0, 2 * side])
    return (some | st.sampled_from([-(10**4), 10**6]) if far else some).map(lambda x: x / 2)


@st.composite
def prompts(draw: st.DrawFn, size: tuple[int, int], mask_side: int, most: int = 3, far: bool = False) -> Prompt:
    """Up to ``most`` prompts, each of points, a box and a mask, in pixels of an image of this size."""
    height, width = size
    count = draw(st.integers(1, most))
    kinds = draw(st.sets(st.sampled_from(["points", "box", "mask"])))
    arrays: dict[str, NDArray[Any]] = {}
    if "points" in kinds:
        points = draw(st.integers(0, 4))
        xy = st.tuples(coordinates(width, far), coordinates(height, far))
        drawn = draw(st.lists(xy, min_size=count * points, max_size=count * points))
        arrays["point_coords"] = np.array(drawn, dtype=np.float64).reshape(count, points, 2)
        labels = draw(st.lists(st.sampled_from([1, 1, 0, -1, 2, 3]), min_size=count * points, max_size=count * points))
        arrays["point_labels"] = np.array(labels, dtype=np.int64).reshape(count, points)
    if "box" in kinds:
        xy = st.tuples(coordinates(width, far), coordinates(height, far))
        corners = draw(st.lists(xy, min_size=2 * count, max_size=2 * count))
        boxes = np.array(corners, dtype=np.float64).reshape(count, 2, 2)
        arrays["box"] = np.concatenate([boxes.min(1), boxes.max(1)], axis=-1)
    if "mask" in kinds:
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        many = draw(st.sampled_from([1, count])) if len(kinds) > 1 else count
        logits = rng.normal(0, draw(st.sampled_from([1e-3, 3.0, 30.0])), (many, 1, mask_side, mask_side))
        arrays["mask_input"] = logits.astype(np.float32)
    options = {name: draw(st.booleans()) for name in ("multimask_output", "return_logits")}
    return Prompt(arrays, options)


def _from_layout(layout: str) -> Callable[[NDArray[Any]], Any]:
    return lambda x: LAYOUTS[layout](x) if x.ndim > 1 else x.astype(x.dtype)


# What holds the same numbers; a float16 has halves up to 1024.
CONTAINERS: dict[str, Callable[[NDArray[Any]], Any]] = {
    "list": lambda x: x.tolist(),
    "tuple": lambda x: tuple(x.tolist()),
    "list of arrays": list,
    "list of tensors": lambda x: [torch.from_numpy(y) for y in x.copy()],
    "lists of numbers in tensors": lambda x: [[torch.tensor(z) for z in y] for y in x] if x.ndim == 2 else x,
    "fp32": lambda x: x.astype(np.float32),
    "longdouble": lambda x: x.astype(np.longdouble),
    "objects": lambda x: x.astype(object),
    "tensor": lambda x: torch.from_numpy(x.copy()),
    "fp32 tensor with a gradient": lambda x: torch.from_numpy(x.astype(np.float32)).requires_grad_(),
    "turned tensor": lambda x: torch.from_numpy(x.T.copy()).permute(*range(x.ndim)[::-1]),
    **{layout: _from_layout(layout) for layout in LAYOUTS},
}

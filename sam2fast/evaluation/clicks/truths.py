"""The true masks of one image, checked, as arrays of a few objects at a time."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sam2fast.io.rle import read_run_lengths
from sam2fast.kernels.run_lengths import decode_masks


class Truths:
    """Masks of O objects.

    Args:
        masks: bool ``(O, H, W)``, an array or a tensor; or O times COCO's run lengths, compressed or not.
        size: (H, W) of the image.

    Raises:
        ValueError: masks of another type or size.
    """

    def __init__(
        self, masks: "NDArray[np.bool_] | Tensor | Sequence[Mapping[str, Any]]", size: tuple[int, int]
    ) -> None:
        self.size = size
        self._runs: Sequence[Mapping[str, Any]] | None = None
        if isinstance(masks, np.ndarray | Tensor):
            self._array = masks.cpu().numpy() if isinstance(masks, Tensor) else masks
            if self._array.dtype != np.bool_ or self._array.ndim != 3:
                raise ValueError(f"masks must be bool (O, H, W), got {self._array.dtype} {self._array.shape}")
            sizes = {self._array.shape[1:]}
        else:
            if not all(isinstance(rle, Mapping) for rle in masks):
                raise ValueError("masks must be one array (O, H, W), or a list of run lengths as COCO has them")
            self._runs = masks
            sizes = {(int(rle["size"][0]), int(rle["size"][1])) for rle in masks}
        if sizes - {size}:
            height, width = (sizes - {size}).pop()
            raise ValueError(f"the masks have {width}x{height} pixels, the image {size[1]}x{size[0]}")

    def __len__(self) -> int:
        return len(self._array if self._runs is None else self._runs)

    def parts(self, count: int) -> Iterator[tuple[slice, NDArray[np.bool_]]]:
        """So many objects at a time: which, and their masks ``(B, H, W)``.

        Raises:
            ValueError: run lengths are damaged, or a mask is empty.
        """
        for first in range(0, len(self), count):
            part = slice(first, first + count)
            if self._runs is None:
                masks = np.array(self._array[part], order="C")  # torch takes no other
            else:
                masks = decode_masks(read_run_lengths(self._runs[part])).numpy()
            empty = np.flatnonzero(~masks.any(axis=(1, 2)))
            if len(empty):
                raise ValueError(f"mask {first + empty[0]} is empty: there is nothing to click on")
            yield part, masks

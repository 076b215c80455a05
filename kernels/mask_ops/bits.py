"""Unpacks masks of one bit per pixel on the CPU."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

PIXELS_AT_ONCE = 2**20  # number of pixels unpacked and converted at once, so that the pixels stay in the CPU's cache


def unpack_bits(packed: Tensor, width: int, dtype: type[np.generic]) -> np.ndarray:
    """Unpacks CPU masks in one pass, with at most ``torch.get_num_threads()`` threads.

    Args:
        packed: Packed masks ``(..., H, ceil(width / 8))`` of :func:`sam2fast.kernels.mask_ops.pack_masks`.
        width: Number of pixels in a row.
        dtype: Dtype of the result, such as ``np.float32`` or ``np.bool_``.

    Returns:
        New array ``(..., H, width)`` of zeros and ones.
    """
    # NumPy allocates the memory, since NumPy requests huge pages. The first write then takes a tenth of the time.
    masks = np.empty((*packed.shape[:-1], width), dtype)
    if not masks.size:
        return masks
    rows, bits = masks.reshape(-1, width), packed.reshape(-1, packed.shape[-1]).numpy()
    step = max(1, PIXELS_AT_ONCE // width)
    starts = range(0, len(rows), step)

    def unpack(start: int) -> None:
        some = bits[start : start + step]
        rows[start : start + step] = np.unpackbits(some, axis=1, count=width, bitorder="little")

    workers = min(torch.get_num_threads(), len(starts))
    try:
        with ThreadPoolExecutor(workers) as pool:
            list((pool.map if workers > 1 else map)(unpack, starts))
    except RuntimeError:  # thread pools cannot start threads after the end of the main thread
        list(map(unpack, starts))
    return masks


def unpack_masks_cpu(packed: Tensor, width: int) -> Tensor:
    """Computes :func:`sam2fast.kernels.mask_ops.unpack_masks` of a tensor on the CPU."""
    return torch.from_numpy(unpack_bits(packed, width, np.bool_))

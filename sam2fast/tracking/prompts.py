"""Checks what callers give, frame numbers and prompts, and converts it to what the model takes."""

import math
import operator
import warnings
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.prompt_inputs import CPU, check_boxes, check_numbers, check_points
from sam2fast.utils.async_copies import copy_to_device

EXPECTED = "expected an array (H, W) of bool or numbers"
# Values of a mask become logits, twenty times as large, which must stay far from the largest number in fp32.
LARGEST_VALUE = 1e6
# An estimate, see docs/tracking.md, "What a frame starts": 0.16 ms less a frame with tiny, 1.02 ms with large.
FRAMES_AT_ONCE_ON_CUDA = 4


def click_prompt(
    points: Any,
    labels: Any,
    box: Any,
    clear_old_points: bool,
    size: tuple[int, int],
    image_size: int,
    device: torch.device,
) -> dict[str, Tensor]:
    """Points, a box's corners first, in the model's input pixels: ``point_coords (1, P, 2)``, ``point_labels (1, P)``.

    Args:
        points, labels, box, clear_old_points: as given to ``add_new_points_or_box``.
        size: (height, width) that the coordinates refer to.
        image_size: side of the model's input.
        device: where the tensors go.

    Raises:
        ValueError: nothing is given, or something of another shape or value.
    """
    if points is None and labels is None and box is None:
        raise ValueError("at least one of points or box must be given")
    # On the CPU except for the result: reading values back from a GPU waits for it.
    coords, kinds = torch.zeros(1, 0, 2, device=CPU), torch.zeros(1, 0, dtype=torch.int32, device=CPU)
    if not (_is_empty(points) and _is_empty(labels)):
        coords, kinds = check_points(points, labels)
    if box is not None:
        if not clear_old_points:
            raise ValueError("a box cannot join earlier points, it comes before them; use clear_old_points=True")
        corners = check_numbers(box, "box")
        if corners.numel() != 4:
            raise ValueError(f"box has shape {tuple(corners.shape)}; expected (4), the box of one object")
        corners = check_boxes(corners.reshape(1, 4)).reshape(1, 2, 2)
        kinds = torch.cat([kinds.new_tensor([[2, 3]]), kinds], dim=1)
        coords = torch.cat([corners, coords], dim=1)
    if len(coords) != 1 or not kinds.numel():
        raise ValueError(f"got {len(coords)} prompts with {kinds.shape[1]} points each; expected one with at least 1")
    height, width = size
    coords = coords / coords.new_tensor([width, height]) * image_size
    return {"point_coords": copy_to_device(coords, device), "point_labels": copy_to_device(kinds, device)}


def _is_empty(points_or_labels: Any) -> bool:
    return points_or_labels is None or not check_numbers(points_or_labels, "points").numel()


def mask_prompt(mask: Any, image_size: int, device: torch.device) -> Tensor:
    """A mask ``(H, W)`` of any size as ``(1, 1, S, S)`` fp32; arrays are converted to bool.

    Raises:
        ValueError: no array or one of another shape, or NaN, infinity or very large values.
    """
    mask = _as_numbers(mask)
    if mask.ndim != 2 or not mask.numel():
        raise ValueError(f"the mask has shape {tuple(mask.shape)}; expected (H, W)")
    if mask.dtype != torch.bool:
        largest = float(mask.float().abs().amax())  # NaN if there is one
        if not math.isfinite(largest):
            raise ValueError("the mask holds NaN or infinite values")
        if largest > LARGEST_VALUE:
            raise ValueError(f"the mask holds {largest:g}, which is too large; expected 0 and 1")
    mask = copy_to_device(mask[None, None], device).float()
    size = (image_size, image_size)
    if mask.shape[-2:] == size:
        return mask
    return (F.interpolate(mask, size, mode="bilinear", align_corners=False, antialias=True) >= 0.5).float()


def _as_numbers(mask: Any) -> Tensor:
    """Tensors are returned unchanged; anything else, with any strides and byte order, as bool."""
    if isinstance(mask, Tensor):
        if mask.is_complex() or mask.is_meta or mask.layout != torch.strided:
            raise ValueError(f"the mask is a tensor of {mask.dtype}, {mask.layout}, on {mask.device}; {EXPECTED}")
        return mask
    try:
        array = np.asarray(mask)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"the mask cannot be read: {error}; {EXPECTED}") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"the mask is {type(mask).__name__} of {array.dtype}; {EXPECTED}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("the mask holds NaN or infinite values")
    if array.dtype.kind in "if" and ((array < 0) | (array % 1 != 0)).any():
        warnings.warn(
            "the mask has negative or fractional values, and every pixel that is not 0 is taken, as in the original; "
            "give logits as mask > 0, probabilities as mask > 0.5",
            stacklevel=2,
        )
    return torch.from_numpy(array.astype(bool, order="C"))


def plain_id(obj_id: Any) -> Any:
    """An object's id, as a number of Python if it is one of NumPy, or a tensor or an array of one element.

    Tensors are equal to no other key of a dict, so each would be another object.
    """
    if isinstance(obj_id, Tensor | np.ndarray | np.generic) and len(obj_id.reshape(-1)) == 1:
        return obj_id.item()
    return obj_id


def integer(value: Any, name: str) -> int:
    """``value`` as an int.

    Raises:
        TypeError: it is no integer, of Python, numpy or torch.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}; expected an integer, not {type(value).__name__}") from None


def frame_number(value: Any, num_frames: int, name: str, may_be_the_end: bool = False) -> int:
    """``value`` as the number of a frame of the video.

    Args:
        may_be_the_end: the video's length is allowed too, for loops that continue where the last pass ended.

    Raises:
        TypeError: it is no integer.
        IndexError: there is no such frame.
    """
    frame = integer(value, name)
    if not 0 <= frame < num_frames + may_be_the_end:
        raise IndexError(f"frame {frame} is not in this video of {num_frames} frames")
    return frame


def at_least(least: int, value: Any, name: str) -> int:
    """``value`` as an int that is ``least`` or more.

    Raises:
        TypeError: it is no integer.
        ValueError: it is less.
    """
    number = integer(value, name)
    if number < least:
        raise ValueError(f"{name} is {number}; expected {least} or more")
    return number


def frames_at_once(encode_ahead: Any, device: torch.device) -> int:
    """How many frames are encoded as one batch: by default as many as fill a GPU, elsewhere one.

    Raises:
        ValueError: ``encode_ahead`` is below 1.
        TypeError: it is no integer.
    """
    if encode_ahead is None:
        return FRAMES_AT_ONCE_ON_CUDA if device.type == "cuda" else 1
    return at_least(1, encode_ahead, "encode_ahead")

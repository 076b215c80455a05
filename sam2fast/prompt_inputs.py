"""Validates prompts and object ids for images and videos, and converts prompts to tensors."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.utils.async_copies import copy_to_device

CPU = torch.device("cpu")
POINT_LABELS = (-1, 0, 1, 2, 3)
# Maximum absolute value of coordinates and logits. Squares of much larger numbers overflow in the model.
LARGEST = 1e15
LARGEST_LOW_RES = 256  # side of SAM 2's low-resolution logits if the input has 1024 x 1024 pixels
# Maximum absolute value of low-resolution logits in results and mask prompts. Larger logits are clamped.
LOGIT_LIMIT = 32.0
# Mask formats of the image predictor.
OUTPUT_MODES = ("float", "bool", "low_res", "coco_rle")


def check_points(
    points: Any, labels: Any, points_name: str = "points", labels_name: str = "labels"
) -> tuple[Tensor, Tensor]:
    """Returns validated points ``(B, N, 2)`` fp32 and labels ``(B, N)`` int32 on the CPU.

    If points have no batch dimension, adds B = 1. Empty lists become zero points, ``(1, 0, 2)``. The result stays on
    the CPU, because checking values on a GPU would synchronise with the GPU.

    Raises:
        ValueError: If points or labels are missing, not finite or have a wrong shape, or a label is unknown.
    """
    if points is None or labels is None:
        raise ValueError(f"{points_name} and {labels_name} belong together: give both or neither")
    coords = check_numbers(points, points_name)
    label_values = check_numbers(labels, labels_name)
    if coords.ndim in (1, 2) and coords.shape[-1] == 0:  # [], or [[], []] for two objects
        coords = coords.reshape(*coords.shape, 2)
    if coords.ndim not in (2, 3) or coords.shape[-1] != 2:
        raise ValueError(f"{points_name} has shape {tuple(coords.shape)}; expected (N, 2) or (B, N, 2)")
    shape, expected = tuple(label_values.shape), tuple(coords.shape[:-1])
    coords = coords[None] if coords.ndim == 2 else coords
    label_values = label_values[None] if label_values.ndim == 1 else label_values
    if label_values.shape != coords.shape[:-1]:
        raise ValueError(f"{labels_name} has shape {shape}; expected {expected}, one per point")
    unknown = [x for x in label_values.unique().tolist() if x not in POINT_LABELS]
    if unknown:
        raise ValueError(f"{labels_name} holds {unknown[0]:g}; expected 1 (foreground), 0 (background), -1, 2 or 3")
    return coords, label_values.to(torch.int32)


class PromptWarning:
    """Warns once about prompts that show no object. As in the official package, the model predicts masks for them."""

    def __init__(self) -> None:
        self._has_warned = False

    def check_points(self, coords: Tensor, labels: Tensor, size: tuple[int, int]) -> None:
        """Warns if a click is outside the image. Corners of boxes may be outside the image.

        Args:
            coords, labels: Results of :func:`check_points`, on the CPU.
            size: Height and width of the image in the unit of ``coords``: in pixels, or (1, 1) for [0, 1].
        """
        x, y = coords.unbind(-1)
        is_click = (labels == 0) | (labels == 1)
        outside = coords[is_click & ((x < 0) | (y < 0) | (x > size[1]) | (y > size[0]))]
        if len(outside):
            point = [round(value, 3) for value in outside[0].tolist()]
            place = "[0, 1] (normalize_coords=False)" if size == (1, 1) else f"the {size[1]}x{size[0]} image"
            self._warn(f"the point {point} is outside {place}; its mask shows no particular object")

    def check_any(self, coords: Tensor | None, *others: Tensor | None) -> None:
        """Warns if there is no prompt: ``coords (B, N, 2)`` is None or has N = 0, and all ``others`` are None."""
        if all(x is None for x in others) and (coords is None or len(coords) > coords.shape[1] == 0):
            self._warn("there is no prompt; the masks show no particular object")

    def _warn(self, text: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(text, stacklevel=7)  # the caller of SAM2ImagePredictor.predict


def check_boxes(box: Any) -> Tensor:
    """Returns validated boxes ``(4)`` or ``(B, 4)`` XYXY as fp32 on the CPU. An empty list becomes ``(0, 4)``.

    Raises:
        ValueError: If the shape is wrong, or the corners are swapped.
    """
    boxes = check_numbers(box, "box")
    if boxes.shape == (0,):
        boxes = boxes.reshape(0, 4)
    if boxes.ndim == 0 or boxes.shape[-1] != 4:
        raise ValueError(f"box has shape {tuple(boxes.shape)}; expected (4) or (B, 4)")
    x0, y0, x1, y1 = boxes.reshape(-1, 4).unbind(-1)
    wrong = ((x1 < x0) | (y1 < y0)).nonzero()
    if len(wrong):
        shown = [round(v, 3) for v in boxes.reshape(-1, 4)[wrong[0, 0]].tolist()]
        raise ValueError(f"box {shown} has its corners the wrong way round; expected x0 <= x1 and y0 <= y1")
    return boxes


def check_mask_input(mask_logits: Any, size: tuple[int, int], device: torch.device) -> Tensor:
    """Converts low-resolution logits ``(h, w)``, ``(1, h, w)`` or ``(B, 1, h, w)`` to fp32 ``(B, 1, h, w)``.

    Square logits up to 256x256 may come from a model with another input size, and are resized. Warns if the values look
    like a mask: the minimum is 0, and some values are positive.

    Args:
        size: Size (h, w) of mask inputs of the prompt encoder.
        device: Device of the result.

    Raises:
        ValueError: If the shape is wrong.
    """
    mask = check_numbers(mask_logits, "mask_input", mask_logits.device if isinstance(mask_logits, Tensor) else CPU)
    shape = tuple(mask.shape)
    if mask.ndim in (2, 3):
        mask = mask.reshape(1, *mask.shape) if mask.ndim == 3 else mask[None, None]
    height, width = size
    is_square = mask.ndim == 4 and mask.shape[1] == 1 and 0 < mask.shape[2] == mask.shape[3] <= LARGEST_LOW_RES
    if not is_square and mask.shape[1:] != (1, height, width):
        raise ValueError(
            f"mask_input has shape {shape}; expected (1, {height}, {width}) or "
            f"(B, 1, {height}, {width}) logits, such as the third result of predict"
        )
    if mask.numel() and float(mask.min()) == 0 and mask.any():
        warnings.warn(
            "mask_input has no negative values, like a mask, but is read as logits: 0 means undecided, not background. "
            "Convert a mask to logits: torch.where(mask > 0, 10.0, -10.0)",
            stacklevel=6,  # the caller of SAM2ImagePredictor.predict
        )
    mask = copy_to_device(mask, device)
    if mask.shape[2:] != size:
        mask = F.interpolate(mask, size, mode="bilinear", align_corners=False, antialias=True)
    return mask


class PromptGroup(NamedTuple):
    """Arguments of ``SAM2ImagePredictor.predict`` for a group of objects."""

    rows: list[int]  # indices of the objects
    point_coords: Any
    point_labels: Any
    box: Any
    mask_input: Any


def grouped_by_points(point_coords: Any, point_labels: Any, box: Any, mask_input: Any) -> Iterator[PromptGroup]:
    """Splits a ragged list ``point_coords`` into groups of objects with the same number of points.

    If ``point_coords`` is not a ragged list, yields all prompts unchanged as one group, with empty ``rows``.

    Raises:
        ValueError: If an object's points or labels are invalid, or the number of boxes or masks is wrong.
    """
    if ragged_lengths(point_coords) is None or point_labels is None:
        yield PromptGroup([], point_coords, point_labels, box, mask_input)
        return
    B = len(point_coords)
    is_sequence = isinstance(point_labels, list | tuple | np.ndarray | Tensor) and getattr(point_labels, "ndim", True)
    if not is_sequence or len(point_labels) != B:
        raise ValueError(f"point_labels must be a list of {B} lists, one for each object in point_coords")
    points = [
        check_points(point_coords[i], point_labels[i], f"point_coords[{i}]", f"point_labels[{i}]") for i in range(B)
    ]
    if any(len(coords) != 1 for coords, _ in points):
        raise ValueError("point_coords is a list of objects with different numbers of points; expected (N, 2) for each")
    boxes = None if box is None else check_boxes(box).reshape(-1, 4)
    masks = None if mask_input is None else check_numbers(mask_input, "mask_input")
    has_rows = masks is not None and masks.ndim == 4
    check_counts(points=points, box=boxes, mask_input=masks if has_rows else None)
    for length in sorted({coords.shape[1] for coords, _ in points}):
        rows = [i for i in range(B) if points[i][0].shape[1] == length]
        coords, labels = (torch.cat([points[i][part] for i in rows]) for part in range(2))
        group_masks = masks[rows] if masks is not None and has_rows and len(masks) == B else masks
        yield PromptGroup(rows, coords, labels, None if boxes is None else boxes[rows], group_masks)


def in_order(parts: Sequence[tuple[Tensor, ...]], rows: list[int]) -> tuple[Tensor, ...]:
    """Concatenates the results of the groups of :func:`grouped_by_points`, in the order of the objects."""
    if not rows:
        return parts[0]
    order = copy_to_device(torch.tensor(rows).argsort(), parts[0][0].device)
    return tuple(torch.cat(part)[order] for part in zip(*parts, strict=True))


def ragged_lengths(value: Any) -> list[int] | None:
    """Returns the lengths of a list's items if the lengths differ, else None."""
    if isinstance(value, np.ndarray) and value.dtype == object:
        value = list(value)
    if not isinstance(value, list | tuple):
        return None
    try:
        lengths = [len(entry) for entry in value]
    except TypeError:
        return None
    return lengths if len(set(lengths)) > 1 else None


def check_counts(**prompts: Any) -> None:
    """Checks that all prompts have the same number of objects. Ignores prompts that are None.

    As in the official package, one ``mask_input`` may be used for all points and boxes.

    Raises:
        ValueError: If the numbers of objects differ.
    """
    counts = {name: len(prompt) for name, prompt in prompts.items() if prompt is not None}
    others = {name: n for name, n in counts.items() if not (name == "mask_input" and n == 1)}
    if len(set(others.values())) < 2:
        return
    listed = ", ".join(f"{n} of {name}" for name, n in counts.items())
    advice = "give the same number of each"
    if counts.get("points") == 1 and (B := counts.get("box", 0)) > 1:
        advice = f"points (N, 2) are N points of one object; give point_coords ({B}, N, 2), such as ({B}, 1, 2)"
    raise ValueError(f"the prompts do not fit together: {listed}; {advice}")


def joined_points(coords: Tensor | None, labels: Tensor | None, boxes: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """Returns points ``(B, P, 2)`` and labels ``(B, P)``, or None without prompts. Prepends a box as two points."""
    points = None if coords is None or labels is None else (coords, labels)
    if boxes is None:
        return points
    corners = boxes.reshape(-1, 2, 2)
    corner_labels = torch.arange(2, 4, dtype=torch.int32, device=corners.device).expand(len(corners), -1)
    if points is None:
        return corners, corner_labels
    return torch.cat([corners, points[0]], dim=1), torch.cat([corner_labels, points[1]], dim=1)


def check_batches(batches: Sequence[Any], count: int) -> None:
    """Checks that each argument of ``predict_batch`` is None or a list with one entry per image.

    Raises:
        TypeError: If an argument is not a list. Strings and 0-d arrays are not lists.
        ValueError: If the length of a list is not ``count``.
    """
    for name, batch in zip(("point_coords", "point_labels", "box", "mask_input"), batches, strict=True):
        if batch is None:
            continue
        has_entries = hasattr(batch, "__len__") and hasattr(batch, "__getitem__") and getattr(batch, "ndim", 1) > 0
        if not has_entries or isinstance(batch, str | bytes | Mapping):
            raise TypeError(f"{name}_batch must be a list with an entry for each image, got {type(batch).__name__}")
        if len(batch) != count:
            raise ValueError(f"{name}_batch has {len(batch)} entries for {count} images")


def check_output_mode(output_mode: Any, return_logits: bool) -> None:
    """Checks the mask format.

    Raises:
        ValueError: If the format is unknown, or ``return_logits`` is True and the format is not ``float``.
    """
    if output_mode not in OUTPUT_MODES:
        raise ValueError(f"output_mode must be one of {', '.join(OUTPUT_MODES)}; got {output_mode!r}")
    if return_logits and output_mode != "float":
        raise ValueError(f'return_logits=True needs output_mode="float", got {output_mode!r}')


def check_numbers(value: Any, name: str, device: torch.device = CPU) -> Tensor:
    """Converts an array, a tensor, or nested lists of arrays, tensors or numbers to an fp32 tensor on ``device``.

    Values are checked on the CPU before the copy to the device.

    Raises:
        ValueError: If a value is not a real number, or is NaN, infinite or beyond 1e15.
    """
    try:
        tensor = _real_numbers(value)
    except torch.OutOfMemoryError:  # a subclass of RuntimeError
        raise
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = f"its lists have different lengths, {lengths}" if (lengths := ragged_lengths(value)) else error
        raise ValueError(f"{name} is no array of numbers: {reason}") from error
    if not tensor.is_cpu:
        tensor = tensor.to(device)
    if not (tensor.abs() <= LARGEST).all():
        wrong = f"numbers beyond {LARGEST:g}" if tensor.isfinite().all() else "NaN or infinite values"
        raise ValueError(f"{name} holds {wrong}")
    return copy_to_device(tensor, device)


def _real_numbers(value: Any) -> Tensor:
    """Returns the numbers as a dense fp32 tensor."""
    if _holds_tensors(value):
        return torch.stack([_real_numbers(x) for x in value])
    if isinstance(value, Tensor):
        if value.is_complex() or value.is_meta or value.layout != torch.strided:
            raise TypeError(f"a {value.layout} tensor of {value.dtype} on {value.device}")
        return value.detach().float()
    if _is_on_gpu(value):  # np.asarray cannot convert GPU arrays
        return _real_numbers(torch.as_tensor(value))
    array = np.asarray(value)
    if array.dtype == object:  # such as a table with columns of several dtypes
        array = np.asarray(array.tolist()) if array.size else array.astype(np.float32)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"a {type(value).__name__} of {'other objects' if array.dtype == object else array.dtype}")
    with np.errstate(over="ignore"):  # check_numbers rejects overflows as infinite
        # Copies, since torch rejects negative strides and foreign byte order, and warns about read-only memory.
        return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, list | tuple) and any(
        isinstance(x, Tensor) or _is_on_gpu(x) or _holds_tensors(x) for x in value
    )


def _is_on_gpu(value: Any) -> bool:
    """Returns True for GPU arrays of other libraries, such as CuPy."""
    return hasattr(value, "__cuda_array_interface__")


def plain_id(obj_id: Any) -> Any:
    """Converts an object id to a Python number if the id is a NumPy number, or a tensor or array of one element.

    Tensors are hashed by identity. As dictionary keys, two tensors of the same value would be different objects.
    """
    if isinstance(obj_id, Tensor | np.ndarray | np.generic) and len(obj_id.reshape(-1)) == 1:
        return obj_id.item()
    return obj_id


def plain_ids(obj_ids: Iterable[Any]) -> list[Any]:
    """Converts object ids like :func:`plain_id`.

    Raises:
        ValueError: If there are no ids.
        TypeError: If ``obj_ids`` is not iterable, or text.
    """
    if not isinstance(obj_ids, Iterable) or isinstance(obj_ids, str | bytes):
        raise TypeError(f"obj_ids is {obj_ids!r}; expected several ids, such as [{obj_ids!r}]")
    ids = list(map(plain_id, obj_ids))
    if not ids:
        raise ValueError("obj_ids is empty; expected at least one id, or None for all objects")
    return ids

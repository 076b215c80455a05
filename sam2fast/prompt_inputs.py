"""Validates prompts and converts them to tensors, for images and video."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sam2fast.kernels.mask_ops import masks_to_boxes
from sam2fast.utils.async_copies import copy_to_device

CPU = torch.device("cpu")
POINT_LABELS = (-1, 0, 1, 2, 3)
# Limit of coordinates and logits: squares of much larger ones overflow in the model.
LARGEST = 1e15
# Low-resolution logits are clamped to [-32, 32], in results and in mask prompts.
LOGIT_LIMIT = 32.0


def check_points(
    points: Any, labels: Any, points_name: str = "points", labels_name: str = "labels"
) -> tuple[Tensor, Tensor]:
    """Points ``(B, N, 2)`` fp32 and labels ``(B, N)`` int32 on the CPU; without B in the input, it is 1.

    The result stays on the CPU, since checks of values on a GPU would synchronise with it.

    Raises:
        ValueError: one is missing, not finite, of another shape, or a label is unknown.
    """
    if points is None or labels is None:
        raise ValueError(f"{points_name} and {labels_name} belong together: give both or neither")
    coords = check_numbers(points, points_name)
    kinds = check_numbers(labels, labels_name)
    if coords.ndim not in (2, 3) or coords.shape[-1] != 2:
        raise ValueError(f"{points_name} has shape {tuple(coords.shape)}; expected (N, 2) or (B, N, 2)")
    given, expected = tuple(kinds.shape), tuple(coords.shape[:-1])
    coords = coords[None] if coords.ndim == 2 else coords
    kinds = kinds[None] if kinds.ndim == 1 else kinds
    if kinds.shape != coords.shape[:-1]:
        raise ValueError(f"{labels_name} has shape {given}; expected {expected}, one per point")
    unknown = [x for x in kinds.unique().tolist() if x not in POINT_LABELS]
    if unknown:
        raise ValueError(f"{labels_name} holds {unknown[0]:g}; expected 1 (foreground), 0 (background), -1, 2 or 3")
    return coords, kinds.to(torch.int32)


def check_boxes(box: Any) -> Tensor:
    """Boxes ``(4)`` or ``(B, 4)`` XYXY as fp32 on the CPU.

    Raises:
        ValueError: the shape is wrong, or the corners are swapped.
    """
    boxes = check_numbers(box, "box")
    if boxes.ndim == 0 or boxes.shape[-1] != 4 or boxes.numel() == 0:
        raise ValueError(f"box has shape {tuple(boxes.shape)}; expected (4) or (B, 4)")
    x0, y0, x1, y1 = boxes.reshape(-1, 4).unbind(-1)
    wrong = ((x1 < x0) | (y1 < y0)).nonzero()
    if len(wrong):
        shown = [round(v, 3) for v in boxes.reshape(-1, 4)[wrong[0, 0]].tolist()]
        raise ValueError(f"box {shown} has its corners the wrong way round; expected x0 <= x1 and y0 <= y1")
    return boxes


def noisy_boxes(masks: Tensor, uniform: Tensor, noise: float = 0.1, noise_bound: float = 20.0) -> Tensor:
    """Boxes ``(O, 4)`` fp32 of ``masks (O, 1, H, W)``, each side moved by at most ``noise`` of its length.

    Args:
        uniform: ``(O, 4)`` random numbers in [0, 1).
        noise_bound: largest shift of a side, in pixels.
    """
    boxes = masks_to_boxes(masks)[:, 0].float()
    reach = ((boxes[:, 2:] - boxes[:, :2]) * noise).clamp(max=noise_bound).repeat(1, 2)
    height, width = masks.shape[-2:]
    last = boxes.new_tensor([width - 1, height - 1]).repeat(2)
    return (boxes + (2 * uniform.float() - 1) * reach).clamp(min=torch.zeros_like(last), max=last)


def check_numbers(value: Any, name: str, device: torch.device = CPU) -> Tensor:
    """``value`` as an fp32 tensor on ``device``: an array, a tensor, or nested lists of arrays, tensors or numbers.

    Values on the CPU are checked before they are copied to the device.

    Raises:
        ValueError: these are no real numbers, or some are NaN, infinite or beyond 1e15.
    """
    try:
        tensor = _real_numbers(value)
    except torch.OutOfMemoryError:  # a subclass of RuntimeError
        raise
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{name} is no array of numbers: {error}") from error
    if not tensor.is_cpu:
        tensor = tensor.to(device)
    if not (tensor.abs() <= LARGEST).all():
        wrong = f"numbers beyond {LARGEST:g}" if tensor.isfinite().all() else "NaN or infinite values"
        raise ValueError(f"{name} holds {wrong}")
    return copy_to_device(tensor, device)


def _real_numbers(value: Any) -> Tensor:
    """The numbers as a dense fp32 tensor."""
    if _holds_tensors(value):
        return torch.stack([_real_numbers(x) for x in value])
    if isinstance(value, Tensor):
        if value.is_complex() or value.is_meta or value.layout != torch.strided:
            raise TypeError(f"a {value.layout} tensor of {value.dtype} on {value.device}")
        return value.detach().float()
    if _is_on_gpu(value):  # numpy cannot convert it
        return _real_numbers(torch.as_tensor(value))
    array = np.asarray(value)
    if array.dtype == object:  # such as a table with columns of several dtypes
        array = np.asarray(array.tolist()) if array.size else array.astype(np.float32)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"a {type(value).__name__} of {'other objects' if array.dtype == object else array.dtype}")
    with np.errstate(over="ignore"):  # overflows are refused as infinite
        # A copy: torch refuses negative strides and foreign byte order, and warns about read-only memory.
        return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, list | tuple) and any(
        isinstance(x, Tensor) or _is_on_gpu(x) or _holds_tensors(x) for x in value
    )


def _is_on_gpu(value: Any) -> bool:
    """Whether it is a GPU array of another library, such as cupy."""
    return hasattr(value, "__cuda_array_interface__")

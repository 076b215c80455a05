"""Checks prompts and converts them to arrays."""

from typing import Any

import numpy as np

POINT_LABELS = (-1, 0, 1, 2, 3)
# Low-resolution logits are clamped to [-32, 32] in results and mask prompts.
LOGIT_LIMIT = 32.0
LARGEST = 1e15


def check_numbers(value: Any, name: str) -> np.ndarray:
    """Converts ``value`` to an fp32 array.

    Raises:
        ValueError: If values are not real numbers, or are NaN, infinite or beyond 1e15.
    """
    try:
        original = np.asarray(value)
        if original.dtype.kind not in "biufO":
            raise TypeError(f"a {type(value).__name__} of {original.dtype}")
        array = original.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is not an array of numbers: {error}") from error
    if not (np.abs(array) <= LARGEST).all():
        raise ValueError(f"{name} holds NaN, infinite values or numbers beyond {LARGEST:g}")
    return array


def check_points(
    points: Any, labels: Any, points_name: str = "points", labels_name: str = "labels"
) -> tuple[np.ndarray, np.ndarray]:
    """Returns points ``(B, N, 2)`` fp32 and labels ``(B, N)`` int32. If the input has no batch dimension, B is 1.

    Raises:
        ValueError: If points or labels are missing or have wrong shapes, or a label is unknown.
    """
    if points is None or labels is None:
        raise ValueError(f"{points_name} and {labels_name} belong together: give both or neither")
    coords, types = check_numbers(points, points_name), check_numbers(labels, labels_name)
    if coords.ndim in (1, 2) and coords.shape[-1] == 0:  # [], or [[], []] for two objects
        coords = coords.reshape(*coords.shape, 2)
    if coords.ndim not in (2, 3) or coords.shape[-1] != 2:
        raise ValueError(f"{points_name} has shape {coords.shape}; expected (N, 2) or (B, N, 2)")
    shape, expected = types.shape, coords.shape[:-1]
    coords = coords[None] if coords.ndim == 2 else coords
    types = types[None] if types.ndim == 1 else types
    if types.shape != coords.shape[:-1]:
        raise ValueError(f"{labels_name} has shape {shape}; expected {expected}, one per point")
    if not np.isin(types, POINT_LABELS).all():
        raise ValueError(f"{labels_name} holds values other than 1 (foreground), 0 (background), -1, 2 or 3")
    return coords, types.astype(np.int32)


def check_boxes(box: Any) -> np.ndarray:
    """Converts boxes ``(4)`` or ``(B, 4)`` XYXY to corners ``(B, 2, 2)``. For an empty list, B is 0.

    Raises:
        ValueError: If the shape is wrong, or the corners of a box are swapped.
    """
    boxes = check_numbers(box, "box")
    if boxes.ndim not in (1, 2) or boxes.shape[-1] != 4 and boxes.shape != (0,):
        raise ValueError(f"box has shape {boxes.shape}; expected (4) or (B, 4)")
    corners = boxes.reshape(-1, 2, 2)
    if (corners[:, 1] < corners[:, 0]).any():
        raise ValueError("box has its corners the wrong way round; expected x0 <= x1 and y0 <= y1")
    return corners


def joined_prompt(
    points: tuple[np.ndarray, np.ndarray] | None, corners: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Joins boxes, then points, to coordinates ``(B, P, 2)`` and labels ``(B, P)``. P is 0 without points and boxes.

    Raises:
        ValueError: If the number of point prompts differs from the number of boxes.
    """
    coords: np.ndarray = np.zeros((1, 0, 2), np.float32)
    types: np.ndarray = np.zeros((1, 0), np.int32)
    if points is not None and corners is not None and points[1].shape == (1, 0):
        points = None  # an empty list of points is valid with any number of boxes
    if points is not None:
        coords, types = points
    if corners is None:
        return coords, types
    if points is not None and len(coords) != len(corners):
        raise ValueError(f"{len(coords)} prompts of points do not fit {len(corners)} boxes; give the same number")
    labels = np.repeat(np.array([[2, 3]], np.int32), len(corners), axis=0)
    count = len(corners) if points is None else len(coords)
    coords, types = np.broadcast_to(coords, (count, *coords.shape[1:])), np.broadcast_to(types, (count, types.shape[1]))
    return np.concatenate([corners, coords], axis=1), np.concatenate([labels, types], axis=1)

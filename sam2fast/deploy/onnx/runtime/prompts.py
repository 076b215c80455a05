"""Checks prompts and converts them to arrays."""

from typing import Any

import numpy as np

POINT_LABELS = (-1, 0, 1, 2, 3)
# Low-resolution logits are clamped to [-32, 32], in results and in mask prompts.
LOGIT_LIMIT = 32.0
LARGEST = 1e15


def check_numbers(value: Any, name: str) -> np.ndarray:
    """``value`` as an fp32 array.

    Raises:
        ValueError: these are no real numbers, or some are NaN, infinite or beyond 1e15.
    """
    try:
        given = np.asarray(value)
        if given.dtype.kind not in "biufO":
            raise TypeError(f"a {type(value).__name__} of {given.dtype}")
        array = given.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is no array of numbers: {error}") from error
    if not (np.abs(array) <= LARGEST).all():
        raise ValueError(f"{name} holds NaN, infinite values or numbers beyond {LARGEST:g}")
    return array


def check_points(
    points: Any, labels: Any, points_name: str = "points", labels_name: str = "labels"
) -> tuple[np.ndarray, np.ndarray]:
    """Points ``(B, N, 2)`` fp32 and labels ``(B, N)`` int32; without B in the input, it is 1.

    Raises:
        ValueError: one is missing, of another shape, or a label is unknown.
    """
    if points is None or labels is None:
        raise ValueError(f"{points_name} and {labels_name} belong together: give both or neither")
    coords, kinds = check_numbers(points, points_name), check_numbers(labels, labels_name)
    if coords.ndim in (1, 2) and coords.shape[-1] == 0:  # [], or [[], []] for two objects
        coords = coords.reshape(*coords.shape, 2)
    if coords.ndim not in (2, 3) or coords.shape[-1] != 2:
        raise ValueError(f"{points_name} has shape {coords.shape}; expected (N, 2) or (B, N, 2)")
    given, expected = kinds.shape, coords.shape[:-1]
    coords = coords[None] if coords.ndim == 2 else coords
    kinds = kinds[None] if kinds.ndim == 1 else kinds
    if kinds.shape != coords.shape[:-1]:
        raise ValueError(f"{labels_name} has shape {given}; expected {expected}, one per point")
    if not np.isin(kinds, POINT_LABELS).all():
        raise ValueError(f"{labels_name} holds another value than 1 (foreground), 0 (background), -1, 2 or 3")
    return coords, kinds.astype(np.int32)


def check_boxes(box: Any) -> np.ndarray:
    """Boxes ``(4)`` or ``(B, 4)`` XYXY as corners ``(B, 2, 2)``; an empty list is no boxes.

    Raises:
        ValueError: the shape is wrong, or the corners are swapped.
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
    """Coordinates ``(B, P, 2)`` and labels ``(B, P)``, a box's corners first; P is 0 without either.

    Raises:
        ValueError: there is another number of points than of boxes.
    """
    coords, kinds = np.zeros((1, 0, 2), np.float32), np.zeros((1, 0), np.int32)
    if points is not None and corners is not None and points[1].shape == (1, 0):
        points = None  # no points beside any number of boxes
    if points is not None:
        coords, kinds = points
    if corners is None:
        return coords, kinds
    if points is not None and len(coords) != len(corners):
        raise ValueError(f"{len(coords)} prompts of points do not fit {len(corners)} boxes; give the same number")
    labels = np.repeat(np.array([[2, 3]], np.int32), len(corners), axis=0)
    count = len(corners) if points is None else len(coords)
    coords, kinds = np.broadcast_to(coords, (count, *coords.shape[1:])), np.broadcast_to(kinds, (count, kinds.shape[1]))
    return np.concatenate([corners, coords], axis=1), np.concatenate([labels, kinds], axis=1)

"""Makes the official ``sam2`` importable without CUDA, with the connected components that it lacks there."""

import sys
import types
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import importable_torchvision  # noqa: F401 (before torchvision)
import numpy as np
import scipy.ndimage
import torch
import torch.nn.functional as F
import torchvision

EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


def _connected_components(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """8-connected labels and per-pixel areas of ``(N, 1, H, W)`` masks, by scipy."""
    labels, areas = np.zeros(mask.shape, dtype=np.int32), np.zeros(mask.shape, dtype=np.int32)
    for n, image in enumerate(mask[:, 0].cpu().numpy()):
        labels[n, 0], _ = scipy.ndimage.label(image, structure=EIGHT_NEIGHBOURS)
        areas[n, 0] = np.where(labels[n, 0] > 0, np.bincount(labels[n, 0].ravel())[labels[n, 0]], 0)
    return torch.from_numpy(labels), torch.from_numpy(areas)


def _give_sam2_connected_components() -> None:
    extension: Any = types.ModuleType("sam2._C")
    extension.get_connected_componnets = _connected_components  # the official spelling
    sys.modules["sam2._C"] = extension

    import sam2

    sam2._C = extension


torchvision.extension._has_ops = lambda: True
torchvision.ops.boxes._assert_has_ops = lambda: None
if "sam2._C" not in sys.modules:
    _give_sam2_connected_components()


def _written_out_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout_p: float = 0.0) -> torch.Tensor:
    return torch.softmax((q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5, dim=-1) @ v


def written_out_attention() -> AbstractContextManager[Any]:
    """Returns a context manager in which attention does not use torch's kernels: a harmless change of rounding."""
    return patch.object(F, "scaled_dot_product_attention", _written_out_attention)

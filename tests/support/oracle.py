"""The official ``sam2`` package as a live oracle on machines without CUDA (test-only).

Importing this module makes ``sam2`` importable where torchvision's compiled part cannot be loaded, and gives it
the connected-components extension it lacks there, so that its hole filling really runs.
"""

import contextlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
import torch
import torch.nn.functional as F

EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)
# Handles must outlive the module, or torch drops the operators with them.
_libraries: list[torch.library.Library] = []


def _nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Greedy box NMS as torchvision defines it: kept indices, by falling score."""
    order = scores.argsort(descending=True, stable=True).tolist()
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    for i in order:
        top_left = torch.maximum(boxes[kept, :2], boxes[i, :2])
        bottom_right = torch.minimum(boxes[kept, 2:], boxes[i, 2:])
        overlap = (bottom_right - top_left).clamp(min=0).prod(dim=1)
        if not (overlap / (areas[kept] + areas[i] - overlap) > iou_threshold).any():
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int64)


def _connected_components(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """8-connected labels and per-pixel areas of ``(N, 1, H, W)`` masks, by scipy."""
    labels, areas = np.zeros(mask.shape, dtype=np.int32), np.zeros(mask.shape, dtype=np.int32)
    for n, image in enumerate(mask[:, 0].cpu().numpy()):
        labels[n, 0], _ = scipy.ndimage.label(image, structure=EIGHT_NEIGHBOURS)
        areas[n, 0] = np.where(labels[n, 0] > 0, np.bincount(labels[n, 0].ravel())[labels[n, 0]], 0)
    return torch.from_numpy(labels), torch.from_numpy(areas)


def _torchvision_is_compiled_for_this_torch() -> bool:
    """Whether its library loads, as beside a CUDA build of torch: to define its ops twice ends the process."""
    spec = importlib.util.find_spec("torchvision")
    assert spec is not None and spec.submodule_search_locations
    libraries = [path for folder in spec.submodule_search_locations for path in Path(folder).glob("_C*.so")]
    try:
        for path in libraries:
            torch.ops.load_library(path)
    except OSError:
        return False
    return bool(libraries)


def _make_torchvision_importable() -> None:
    if not _torchvision_is_compiled_for_this_torch():
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.impl("nms", _nms, "CPU")
        _libraries.append(library)

    import torchvision

    torchvision.extension._has_ops = lambda: True
    torchvision.ops.boxes._assert_has_ops = lambda: None


def _give_sam2_connected_components() -> None:
    extension: Any = types.ModuleType("sam2._C")
    extension.get_connected_componnets = _connected_components  # the official spelling
    sys.modules["sam2._C"] = extension

    import sam2

    sam2._C = extension


if "torchvision" not in sys.modules:
    _make_torchvision_importable()
if "sam2._C" not in sys.modules:
    _give_sam2_connected_components()


def _written_out_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout_p: float = 0.0) -> torch.Tensor:
    return torch.softmax((q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5, dim=-1) @ v


@contextlib.contextmanager
def written_out_attention() -> Iterator[None]:
    """Inside the block, the official modules compute attention without SDPA: a harmless change of rounding."""
    from sam2.modeling.backbones import hieradet
    from sam2.modeling.sam import transformer

    class _Functional:
        scaled_dot_product_attention = staticmethod(_written_out_attention)

        def __getattr__(self, name: str) -> Any:
            return getattr(F, name)

    hieradet.F = transformer.F = _Functional()
    try:
        yield
    finally:
        hieradet.F = transformer.F = F

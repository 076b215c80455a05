"""Makes torchvision, which the official package imports, importable where its compiled part is not torch's."""

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import torch

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


def _is_compiled_for_this_torch() -> bool:
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


# The official package does not call torchvision.ops.roi_align, which imports torch._dynamo for two seconds.
roi_align: Any = types.ModuleType("torchvision.ops.roi_align")
roi_align.roi_align = roi_align.RoIAlign = None
sys.modules.setdefault(roi_align.__name__, roi_align)

if importlib.util.find_spec("torchvision") and not _is_compiled_for_this_torch():
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", _nms, "CPU")
    _libraries.append(library)

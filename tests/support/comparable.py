"""Converts results of predictors and states of videos to values that ``==`` compares bit by bit."""

from typing import Any

import torch

from sam2fast.compat.video_state import VideoState
from sam2fast.tracking.outputs import FrameResult


def plain(x: Any) -> Any:
    """Nested answers: tensors and arrays by their bytes, mappings with the order of their keys."""
    if isinstance(x, torch.Tensor):
        values = x.detach().cpu().contiguous().reshape(-1)
        return str(x.dtype), tuple(x.shape), values.view(torch.uint8).numpy().tobytes()
    if hasattr(x, "tobytes") and hasattr(x, "dtype"):
        return str(x.dtype), x.shape, x.tobytes()
    if isinstance(x, dict):
        return [(key, plain(value)) for key, value in x.items()]
    if isinstance(x, list | tuple):
        return [plain(value) for value in x]
    return x


def snapshot(state: VideoState) -> list[Any]:
    """All objects, their prompts and results, memories included."""

    def known(x: Any) -> Any:
        if isinstance(x, FrameResult):
            memory = None if x.memory is None else plain(state.bank.read_memory(x.memory))
            return plain([x.mask, x.iou, x.score, state.bank.pointers.read(x.pointer)]), memory
        if isinstance(x, dict):
            return [(key, known(value)) for key, value in x.items()]
        return plain(x)

    return [(obj_id, known(vars(tracked))) for obj_id, tracked in state.objects.items()]

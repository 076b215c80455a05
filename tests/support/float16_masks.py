"""Compares masks in 16 bits with float32 masks, and prints the JSON for docs/devices.md.

    python tests/support/float16_masks.py > bench/results/YEAR/models/float16-masks-cpu-DATE.json

The CPU computes the masks with the operations of a GPU without kernels, which takes minutes.
"""

import contextlib
import datetime
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import numpy as np
import pytest
import torch
from fake_cuda import aten
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sam2fast import engine, mini, nano
from sam2fast.build_sam import build_sam2, build_sam2_video_predictor, cast_weights
from sam2fast.demo.clip import CLIP, read_clip, track
from sam2fast.kernels.connected_components import connected_components_reference
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.utils.testing import mask_iou

PHOTOGRAPHS = [CLIP.with_name("cat.jpg"), CLIP.with_name("coffee.jpg")]
CLICKS = 4  # clicks per row and column of a photograph
# Clicks on the first frame of the package's video.
PROMPTS = [{"points": [point], "labels": [1]} for point in ([480.0, 270.0], [300.0, 200.0])]
DTYPES = torch.float16, torch.bfloat16
# Modules that call faster functions on CPUs.
WITH_CPU_PATHS = "kernels.memory_attention", "kernels.window_attention", "kernels.mask_ops"


class LargestValue(TorchDispatchMode):
    """Stores the largest magnitude of results in 16 bits."""

    value = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        is_computed = isinstance(result, Tensor) and "empty" not in func.name()
        if is_computed and result.dtype in DTYPES and result.numel():
            self.value = max(self.value, result.abs().amax().item())
        return result


class Operations(TorchDispatchMode):
    """Counts operations, and operations that wait for a GPU, since values are read or determine a shape."""

    count, waits = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        if func is aten.index.Tensor:
            self.waits += any(x is not None and x.dtype == torch.bool for x in args[1])
        else:
            self.waits += not {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}.isdisjoint(func.tags)
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def by_torch() -> Iterator[list[Operations]]:
    """Context manager that computes on the CPU as on a GPU without kernels.

    Yields a list, to which each call of connected components appends its counts.
    """
    counts: list[Operations] = []

    def components(mask: Tensor) -> tuple[Tensor, Tensor]:
        with Operations() as mode:
            result = connected_components_reference(mask)
        counts.append(mode)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "_uses_cpu", lambda x: False)
        for module in WITH_CPU_PATHS:
            patch.setattr(f"sam2fast.{module}.is_cpu_inference", lambda x: False)
        patch.setattr("sam2fast.kernels.mask_ops.reference.connected_components", components)
        yield counts


def photograph_logits(model: Any, dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits ``(N, 3, h, w)`` and scores ``(N, 3)`` of N clicks on the package's photographs."""
    predictor, results = SAM2ImagePredictor(cast(build_sam2, model, dtype)), []
    for path in PHOTOGRAPHS:
        image = np.asarray(Image.open(path).convert("RGB"))
        predictor.set_image(image)
        places = (np.indices((CLICKS, CLICKS)).reshape(2, -1).T[:, None] + 0.5) / CLICKS * image.shape[1::-1]
        _, scores, logits = predictor.predict(places, np.ones((CLICKS**2, 1), np.int32))
        results.append((logits, scores))
    all_logits, all_scores = map(np.concatenate, zip(*results, strict=True))
    return all_logits, all_scores


def clip_masks(model: Any, dtype: torch.dtype) -> np.ndarray:
    """Returns masks ``(T, N, H, W)`` of N objects in the package's video."""
    return track(cast(build_sam2_video_predictor, model, dtype), read_clip(8), PROMPTS)


def cast(builder: Any, model: Any, dtype: torch.dtype) -> Any:
    """Builds nano or mini, also in float16, which builders refuse on the CPU."""
    return cast_weights(builder(model.CONFIG, model.WEIGHTS, device="cpu"), dtype)


def compare(models: Iterable[Any] = (nano, mini)) -> Iterator[dict[str, Any]]:
    """Yields the IoU of masks with float32 masks, and the largest value, for each model and dtype of 16 bits.

    For each click, the mask with the highest score in float32 is compared. ``components`` has the mean counts of a call
    of connected components, which fills holes in a frame of the video.
    """
    for model in models:
        with by_torch():
            logits, scores = photograph_logits(model, torch.float32)
            tracked = clip_masks(model, torch.float32)
        best = np.arange(len(logits)), scores.argmax(1)
        for dtype in DTYPES:
            with by_torch() as counts, LargestValue() as largest:
                clicked, video = photograph_logits(model, dtype)[0][best], clip_masks(model, dtype)
            row = {"model": model.__name__.rpartition(".")[2], "dtype": str(dtype).removeprefix("torch.")}
            row |= ious("photographs", logits[best], clicked) | ious("video", *map(np.concatenate, (tracked, video)))
            components = {name: fmean(getattr(x, name) for x in counts) for name in ("count", "waits")}
            yield row | {"components": components, "largest": largest.value}


def ious(name: str, expected: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """Returns the mean and the worst IoU of masks."""
    values = list(map(mask_iou, expected, found))
    return {f"{name}_mean": fmean(values), f"{name}_worst": min(values)}


if __name__ == "__main__":
    about = {"date": f"{datetime.date.today()}", "command": "python tests/support/float16_masks.py"}
    print(json.dumps(about | {"rows": list(compare())}, indent=1))

"""A small predictor to profile, and a check that it was not modified."""

from typing import Any

import torch
from torch import nn

from sam2fast import image_features, nano, sam2_image_predictor
from sam2fast.build_sam import build_sam2, build_sam2_video_predictor
from sam2fast.engine import cpu, static
from sam2fast.modeling import attention
from sam2fast.profiling import Limits
from sam2fast.tracking import step, tracker
from sam2fast.tracking.memory_bank import MemoryBank
from sam2fast.transforms import SAM2Transforms
from sam2fast.video_io import frames

SIDE = 128
# So that tests do not measure them.
LIMITS = Limits(1e10, {"float32": 1e11})
OWNERS = (
    *(attention, step, frames, tracker, image_features, sam2_image_predictor),
    *(frames.Frames, MemoryBank, SAM2Transforms),
    *(cpu, static, cpu.image, cpu.masks, cpu.memory, static.image, static.masks, static.memory),
)


def video_predictor() -> Any:
    """Nano at a quarter of its pixels."""
    return build_sam2_video_predictor(nano.CONFIG, nano.WEIGHTS, device="cpu", hydra_overrides_extra=overrides())


def image_model() -> Any:
    """The same for images."""
    return build_sam2(nano.CONFIG, nano.WEIGHTS, device="cpu", hydra_overrides_extra=overrides())


def overrides() -> list[str]:
    return [f"++model.image_size={SIDE}"]


def attributes(model: nn.Module) -> list[Any]:
    """Everything that a wrapper or a hook would change: attributes of all modules, their hooks, and functions."""
    found: list[Any] = []
    for name, module in model.named_modules():
        own = {key: value for key, value in vars(module).items() if not key.startswith("_")}
        found.append((name, sorted(own), [own[key] for key in sorted(own) if callable(own[key])]))
        found.append([len(getattr(module, hooks)) for hooks in ("_forward_hooks", "_forward_pre_hooks")])
    return found + [[value for value in vars(owner).values() if callable(value)] for owner in OWNERS]


def tracked(predictor: Any, clip: Any) -> torch.Tensor:
    """Logits of an object on all frames."""
    state = predictor.init_state(clip)
    predictor.add_new_points_or_box(state, 0, 1, points=[[40, 30]], labels=[1])
    return torch.cat([logits for _, _, logits in predictor.propagate_in_video(state, progress=False)])

"""The official training model and ours with the same tame weights, and one batch for both."""

import contextlib
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, patch

import numpy as np
import official_data
import tame_weights
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from sam2fast._official_names import MODULES, NAMES
from sam2fast.config import build_from_config, load_config
from sam2fast.training.config import TRAINING_TARGETS
from sam2fast.training.data.batch import ClipBatch
from sam2fast.training.model import ClipPrediction, SAM2Train

# Side of the input; small, since the official model is slow in fp64.
SIZE = 64
# Nothing that draws from the global generator.
DETERMINISTIC = (
    "++model.memory_attention.layer.dropout=0",
    "++model.memory_attention.layer.self_attention.dropout=0",
    "++model.memory_attention.layer.cross_attention.dropout=0",
)


def build_training_pair(config: str = "nano/sam2fast_nano") -> tuple[Any, SAM2Train]:
    """Returns both models in training mode, fp32, on the CPU."""
    overrides = [*DETERMINISTIC, f"model.image_size={SIZE}"]
    node = load_config(config, overrides).model
    node._target_ = "sam2fast.training.model.SAM2Train"
    ours = build_from_config(node, targets=TRAINING_TARGETS)
    official = instantiate(with_official_targets(OmegaConf.to_container(node)), _convert_="all")
    tame_weights.fill(official, 0)
    ours.load_state_dict(official.state_dict(), strict=True)
    return official.train(), ours.train()


def with_official_targets(node: Any) -> Any:
    """A configuration of ours that the official classes are built from."""
    if isinstance(node, dict):
        return {k: official_target(v) if k == "_target_" else with_official_targets(v) for k, v in node.items()}
    return [with_official_targets(child) for child in node] if isinstance(node, list) else node


def official_target(target: str) -> str:
    """The official name of a class of ours."""
    if target == "sam2fast.training.model.SAM2Train":
        return "training.model.sam2.SAM2Train"
    renamed = {ours: f"{module}.{name}" for module, names in NAMES.items() for name, ours in names.items()}
    modules = {ours: official for official, ours in MODULES.items()}
    module, _, name = target.rpartition(".")
    return renamed.get(target) or f"{modules[module]}.{name}"


def batch_of_discs(
    num_frames: int, objects: Sequence[int] = (2, 1), size: int = SIZE, absent: int | None = None
) -> ClipBatch:
    """Clips with so many moving discs each, over noise; object ``absent`` leaves after the first frame."""
    rng = np.random.default_rng(0)
    num_videos, num_objects = len(objects), sum(objects)
    frames = rng.integers(0, 256, (num_frames, num_videos, size, size, 3), dtype=np.uint8)
    y, x = np.mgrid[:size, :size]
    masks = np.zeros((num_frames, num_objects, size, size), dtype=bool)
    video = np.repeat(np.arange(num_videos), objects)
    for o in range(num_objects):
        centre, step = rng.uniform(0.3, 0.7, 2) * size, rng.uniform(-5, 5, 2)
        radius, colour = rng.uniform(0.1, 0.25) * size, rng.integers(0, 256, 3)
        for t in range(num_frames):
            if o == absent and t > 0:
                continue
            cx, cy = centre + t * step
            masks[t, o] = (x - cx) ** 2 + (y - cy) ** 2 < radius**2
            frames[t, video[o]][masks[t, o]] = colour
    seeds = tuple(int(s) for s in rng.integers(0, 2**31, num_videos))
    return ClipBatch(torch.from_numpy(frames), torch.from_numpy(masks), torch.from_numpy(video), seeds)


def official_batch(batch: ClipBatch) -> Any:
    """The parts of the official ``BatchedVideoDatapoint`` that its model reads."""
    mean = torch.tensor([0.485, 0.456, 0.406])
    std = torch.tensor([0.229, 0.224, 0.225])
    images = ((batch.frames.float() / 255 - mean) / std).permute(1, 0, 4, 2, 3)  # video-major
    T = batch.num_frames
    index = torch.stack([batch.video * T + t for t in range(T)])
    return SimpleNamespace(
        num_frames=T, masks=batch.masks, flat_img_batch=images.flatten(0, 1), flat_obj_to_img_idx=index
    )


@contextlib.contextmanager
def injected_prompts(prediction: ClipPrediction) -> Iterator[None]:
    """Returns a context manager in which the official model draws the clicks and boxes that ours drew."""
    first, later = [], []
    for t in prediction.plan.order(len(prediction.frames)):
        seen = 0
        for step, prompt in enumerate(prediction.frames[t].prompts):
            if prompt is None:
                continue
            new = prompt["point_coords"][:, seen:], prompt["point_labels"][:, seen:]
            seen = prompt["point_labels"].shape[1]
            # The official model draws what starts a track for all frames before the first is tracked.
            (first if step == 0 else later).append(new)
    queue: list[tuple[Tensor, Tensor]] = first + later
    draw = Mock(side_effect=queue)
    with patch.multiple(official_data.load("training.model.sam2"), get_next_point=draw, sample_box_points=draw):
        yield
    assert draw.call_count == len(queue), f"the official model drew {draw.call_count} of {len(queue)} prompts"

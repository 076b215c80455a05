"""Pairs of the official model and ours with identical tame weights, and random images."""

import copy
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import oracle  # noqa: F401  (makes the official package importable)
import pytest
import sam2.build_sam
import tame_weights
import torch
from numpy.typing import NDArray
from sam2.sam2_image_predictor import SAM2ImagePredictor as OfficialImagePredictor
from tame_weights import NothingDrawn

import sam2fast.build_sam

TOLERANCE = 1e-4
# Tests that also compare the oracle with itself under another rounding are slow if they take long.
CHECK_ITSELF = pytest.mark.parametrize(
    "check_itself", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["compared", "tame"]
)
# Overrides of any configuration for what does not depend on widths: every part of the tiny model, with thin layers and
# as few of them as show each kind (windows that fit and that stick out, pooled and not, and global attention).
NARROW = (
    "++model.image_encoder.trunk.embed_dim=16",
    "++model.image_encoder.trunk.stages=[1,1,2,1]",
    "++model.image_encoder.trunk.global_att_blocks=[3]",
    "++model.image_encoder.neck.backbone_channel_list=[128,64,32,16]",
    "++model.memory_attention.num_layers=2",
    "++model.memory_attention.layer.dim_feedforward=256",
    "++model.memory_encoder.fuser.num_layers=1",
)


_compose = functools.cache(sam2.build_sam.compose)


def _composed_once(config_name: str, overrides: Sequence[str]) -> Any:
    """Hydra's answer, of which the official package gets a copy: composing takes as long as building the model."""
    return copy.deepcopy(_compose(config_name=config_name, overrides=tuple(overrides)))


sam2.build_sam.compose = _composed_once


def config_name(size: str) -> str:
    """Official configuration of a short name such as ``sam2.1_b+``."""
    generation, letter = size.split("_")
    return f"configs/{generation}/{generation}_hiera_{letter}.yaml"


def build_pair(size: str, overrides: Sequence[str] = ()) -> tuple[Any, Any]:
    """Returns the official model and ours with identical weights, fp32, on the CPU."""
    name = config_name(size)
    with NothingDrawn():
        official = sam2.build_sam.build_sam2(name, None, device="cpu", hydra_overrides_extra=list(overrides))
        ours = sam2fast.build_sam.build_sam2(name, None, device="cpu", hydra_overrides_extra=overrides)
    tame_weights.fill(official, 0)
    ours.load_state_dict(official.state_dict(), strict=True)
    return official, ours


def official_image_predictor(model: Any, **options: Any) -> Any:
    """The official image predictor, which assumes 1024 pixels, for a model of any size."""
    predictor = OfficialImagePredictor(model, **options)
    predictor._bb_feat_sizes = [(model.image_size // stride,) * 2 for stride in (4, 8, 16)]
    return predictor


def random_image(height: int = 600, width: int = 800, seed: int = 0) -> NDArray[np.uint8]:
    """A uint8 RGB image with smooth areas, edges and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    image = np.stack([np.sin(9 * x + 4 * y), np.cos(7 * y * x + 1), np.sin(5 * (x - y))], axis=-1) * 60 + 120
    for _ in range(6):
        cx, cy, radius = rng.random(), rng.random() * height / width, 0.05 + 0.15 * rng.random()
        image[(x - cx) ** 2 + (y - cy) ** 2 < radius**2] = rng.integers(0, 255, 3)
    return (image + rng.normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8)


def random_map(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normal fp32 values."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))

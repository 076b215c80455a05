"""A small model with every part of SAM 2, which compiles and exports in seconds."""

import copy
import functools
from collections.abc import Sequence
from typing import Any

import tame_weights
import torch

from sam2fast import nano
from sam2fast.build_sam import build_sam2, build_sam2_video_predictor

# Of nano: fewer channels, and one block or layer of each kind.
NARROW = (
    "++model.image_encoder.trunk.embed_dim=16",
    "++model.image_encoder.trunk.stages=[1,1,1,1]",
    "++model.image_encoder.trunk.global_att_blocks=[2]",
    "++model.image_encoder.neck.backbone_channel_list=[128,64,32,16]",
    "++model.memory_attention.num_layers=1",
    "++model.memory_encoder.fuser.num_layers=1",
)
OVERRIDES = ("++model.image_size=128", *NARROW)


def mini_model(overrides: Sequence[str] = ()) -> Any:
    """For images, with tame weights."""
    return copy.deepcopy(_built_once(build_sam2, tuple(overrides)))


def mini_predictor(overrides: Sequence[str] = ()) -> Any:
    """The same for video."""
    return copy.deepcopy(_built_once(build_sam2_video_predictor, tuple(overrides)))


def mini_of(builder: Any, overrides: tuple[str, ...] = ()) -> Any:
    """Builds the same model again, without a copy."""
    with torch.inference_mode(False):  # tests in inference mode get copies that are made there
        changes = [*OVERRIDES, *overrides]
        return tame_weights.built(builder, nano.CONFIG, device="cpu", hydra_overrides_extra=changes)


_built_once = functools.cache(mini_of)

"""Checkpoints: read safely in every published layout, loaded whole, in part or not at all, and written again."""

from sam2fast.checkpoints.choosing import Choice, choose_config, guess_config
from sam2fast.checkpoints.errors import CheckpointError, NoConfigError
from sam2fast.checkpoints.folders import find_weights
from sam2fast.checkpoints.loading import VIDEO_ONLY, load_checkpoint
from sam2fast.checkpoints.partial import LoadReport, load_partial
from sam2fast.checkpoints.reading import read_checkpoint

__all__ = [
    "VIDEO_ONLY",
    "CheckpointError",
    "Choice",
    "LoadReport",
    "NoConfigError",
    "choose_config",
    "find_weights",
    "guess_config",
    "load_checkpoint",
    "load_partial",
    "read_checkpoint",
]

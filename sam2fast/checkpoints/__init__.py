"""Reads checkpoints of all published layouts safely, loads all or some weights, and writes checkpoints."""

from sam2fast.checkpoints.choosing import Choice, choose_config, guess_config
from sam2fast.checkpoints.loading import VIDEO_ONLY, LoadReport, load_checkpoint, load_partial
from sam2fast.checkpoints.reading import read_checkpoint
from sam2fast.checkpoints.weight_files import CheckpointError, NoConfigError, find_weights

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

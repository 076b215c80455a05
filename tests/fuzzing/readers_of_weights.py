"""Readers of checkpoints, saved sessions and configurations, as programs use the package."""

import contextlib
from functools import cache
from pathlib import Path

import seeds_weights
import torch

from sam2fast.build_sam import build_sam2
from sam2fast.checkpoints import CheckpointError, choose_config, load_checkpoint, load_partial, read_checkpoint
from sam2fast.checkpoints.converting import convert_checkpoint
from sam2fast.config import ConfigError, check_targets, load_config
from sam2fast.training.adapters import load_adapters
from sam2fast.training.config import TRAINING_TARGETS, check_training_config, load_training_config


@cache
def model() -> torch.nn.Module:
    return seeds_weights.tiny_model()


def whole_checkpoint(path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in model().state_dict().items()}
    try:
        load_checkpoint(model(), path, torch.device("cpu"), allow_image_only=True, assign=False)
    except CheckpointError:
        after = model().state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before), "a refused checkpoint changed the model"
        raise
    finally:
        model().load_state_dict(before)


def part_checkpoint(path: Path) -> None:
    try:
        load_partial(model(), path)
    finally:
        model().load_state_dict(seeds_weights.weights())


def any_checkpoint(path: Path) -> None:
    tensors = read_checkpoint(path, prefix="")
    assert all(isinstance(name, str) for name in tensors)
    assert tensors.keys() != seeds_weights.secret().keys(), "what lies outside was read"


def converted(path: Path) -> None:
    target = path.with_name("converted.safetensors")
    try:
        convert_checkpoint(path, target, "safetensors", dtype=torch.float16)
        read_checkpoint(target)
    finally:
        target.unlink(missing_ok=True)


def state(path: Path) -> None:
    predictor = seeds_weights.video_predictor()
    restored = predictor.load_state(path, seeds_weights.TINY_VIDEO)
    for _ in predictor.propagate_in_video(restored, progress=False):
        pass


def model_config(path: Path) -> None:
    config = load_config(path)
    if isinstance(config.get("model"), dict) or hasattr(config.get("model"), "keys"):
        check_targets(config.model)


def built_model(path: Path) -> None:
    """On the meta device, without memory for weights."""
    with torch.device("meta"):
        build_sam2(path, None, device="meta")


def training_config(path: Path) -> None:
    config = load_training_config(path, report=lambda note: None)
    check_targets(config.trainer, (), TRAINING_TARGETS)
    with contextlib.suppress(ConfigError):  # its data does not exist
        check_training_config(config)


def adapters(path: Path) -> None:
    load_adapters(seeds_weights.tiny_model(), path.parent)


def stream(path: Path) -> None:
    seeds_weights.video_predictor().restore_stream(path).close()


def choose_beside(path: Path) -> None:
    choose_config(path.parent)

"""The smallest training runs that still have every part."""

from pathlib import Path

from mini_model import NARROW

from sam2fast.training.config import build_trainer, load_training_config
from sam2fast.training.trainer import Trainer

RECIPE = "nano/sam2fast_nano_overfit"


def overrides(folder: Path, *more: str) -> list[str]:
    """Six updates of a narrow model on four clips of two frames and 64 x 64 pixels, with an average of the weights."""
    return [
        f"scratch.folder={folder}",
        *(f"++trainer.{change.removeprefix('++')}" for change in NARROW),
        "scratch.size=64",
        "scratch.updates=6",
        "clips.count=4",
        "clips.dataset.num_frames=2",
        "trainer.data.train.datasets.0.batch_size=2",
        "trainer.data.val.datasets.0.batch_size=2",
        "+trainer.ema={decay: 0.9}",
        "trainer.checkpoint.save_every_steps=2",
        "trainer.logging.log_freq=1",
        "+trainer.logging.progress=false",
        *more,
    ]


def build(folder: Path, *more: str) -> Trainer:
    return build_trainer(load_training_config(RECIPE, overrides(folder, *more)))

"""The smallest training runs that still have every part."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mini_model import NARROW
from torch.utils._pytree import tree_flatten_with_path

from sam2fast.training.config import build_trainer, load_training_config
from sam2fast.training.trainer import Trainer

RECIPE = "nano/sam2fast_nano_overfit"
# A task with parameters of its own.
AUXILIARY = "+trainer.auxiliary={_target_: dense_auxiliary.DenseAuxiliary, channels: 176}"


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


def build(folder: Path, *more: str, targets: Sequence[str] = ("dense_auxiliary",)) -> Trainer:
    return build_trainer(load_training_config(RECIPE, overrides(folder, *more)), targets)


def reports(folder: Path, *kinds: str) -> list[dict[str, Any]]:
    """The reports of a run, or those of some kinds; without a last line that a full disk has cut off."""
    file = folder / "logs/metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return [line for line in found if not kinds or line["kind"] in kinds]


def checkpoint_of(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints/checkpoint.pt", weights_only=True)


def assert_same(a: Any, b: Any) -> None:
    """Asserts that nested dicts and lists have the same entries, bitwise."""
    ours, theirs = (dict(tree_flatten_with_path(tree)[0]) for tree in (a, b))
    assert ours.keys() == theirs.keys()
    different = [name for name, value in theirs.items() if not _equal(ours[name], value)]
    assert not different, f"{len(different)} of {len(theirs)} differ, such as {different[:3]}"


def _equal(a: Any, b: Any) -> bool:
    both = isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)
    return torch.equal(a, b) if both else bool(a == b)

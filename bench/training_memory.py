"""What a training recipe keeps in memory: weights, gradients, the optimiser's state, and what the backward pass needs.

    python bench/training_memory.py 'sam2.1_training/sam2.1_hiera_b+_24GB' --side 256 512 --count 1024

Nothing is trained, and no data are read. The first three are counted. So is the fourth, the way `sam2fast train
--dry-run` does it: tensors without numbers go through model and loss. For every --side it is measured too: one batch of
discs is computed on the CPU, under autocast where the recipe has it, and every tensor that autograd keeps is added up,
each memory once. Both have the dearest prompts the recipe can draw, and attention in one piece, as on a GPU.

With --out, recipes and sizes that were measured on the same day stay in the file.
"""

import argparse
import json
import time
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from reports import write_rows
from side_by_side import machine

from sam2fast.config import build_from_config
from sam2fast.training.config import TRAINING_TARGETS, load_training_config
from sam2fast.training.data.batch import ClipBatch
from sam2fast.training.memory_estimate import MIB, optimizer_bytes
from sam2fast.training.saved_tensors import BatchShape, bytes_saved, bytes_saved_of, dearest_plan_seed
from sam2fast.training.settings import AmpConf


def discs(shape: BatchShape, side: int, plan_seed: int) -> ClipBatch:
    """Discs that move over noise."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (shape.num_frames, shape.num_clips, side, side, 3), dtype=np.uint8)
    y, x = np.mgrid[:side, :side] / side
    centres = rng.uniform(0.3, 0.6, (shape.num_clips * shape.num_objects, 2))
    masks = np.stack(
        [[(x - cx - t / 80) ** 2 + (y - cy) ** 2 < 0.02 for cx, cy in centres] for t in range(shape.num_frames)]
    )
    video = torch.arange(shape.num_clips).repeat_interleave(shape.num_objects)
    return ClipBatch(torch.from_numpy(frames), torch.from_numpy(masks), video, tuple(range(shape.num_clips)), plan_seed)


def read(recipe: str, side: int, overrides: list[str]) -> tuple[DictConfig, BatchShape]:
    """A recipe, and the batches of its last data set."""
    config = load_training_config(recipe, [*overrides, f"++trainer.model.image_size={side}"])
    source = config.trainer.data.train.datasets[-1]
    sampler = source.dataset.sampler
    return config, BatchShape(sampler.num_frames, sampler.max_num_objects, source.batch_size)


def look(recipe: str, side: int, overrides: list[str], is_measured: bool) -> dict[str, Any]:
    """The figures of a recipe whose pictures have this side."""
    config, shape = read(recipe, side, overrides)
    trainer = config.trainer
    torch.manual_seed(0)
    model = build_from_config(trainer.model, targets=TRAINING_TARGETS).train()
    loss = build_from_config(trainer.loss.all, targets=TRAINING_TARGETS)
    amp = AmpConf(**{k: v for k, v in (OmegaConf.select(trainer, "optim.amp") or {}).items() if k != "_target_"})
    numbers = {
        "all": sum(p.numel() for p in model.parameters()),
        "learning": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
    make_optimizer = build_from_config(trainer.optim.optimizer, targets=TRAINING_TARGETS)
    sizes = {
        "weights": 4 * numbers["all"],
        "gradients": 4 * numbers["learning"],
        "optimizer": optimizer_bytes(make_optimizer, numbers["learning"]),
        "saved": bytes_saved(model, loss, shape, amp),
        "saved_measured": None,
    }
    seconds = None
    if is_measured:
        batch = discs(shape, side, dearest_plan_seed(model.train_settings, shape.num_frames))
        start = time.perf_counter()
        sizes["saved_measured"] = bytes_saved_of(model, loss, batch, amp)
        seconds = round(time.perf_counter() - start, 1)
    return {
        "recipe": recipe,
        "overrides": overrides,
        "side": side,
        "frames": shape.num_frames,
        "objects": shape.num_clips * shape.num_objects,
        "parameters": numbers,
        "mib": {name: None if size is None else round(size / MIB, 1) for name, size in sizes.items()},
        "forward_s": seconds,
    }


def write(row: dict[str, Any], folder: Path) -> None:
    """Puts a row into the day's file in place of that of the same recipe and size."""
    about = {"command": "bench/training_memory.py", "machine": machine()}
    write_rows(folder, "training-memory-cpu", [row], itemgetter("recipe", "overrides", "side"), **about)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="+")
    parser.add_argument("--side", type=int, nargs="*", default=[], help="sizes to measure, and to count")
    parser.add_argument("--count", type=int, nargs="*", default=[], help="sizes to count alone")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="changes to the recipes")
    parser.add_argument("--out", type=Path, help="folder for a JSON file")
    arguments = parser.parse_args()
    for recipe in arguments.recipe:
        for side in sorted({*arguments.side, *arguments.count}):
            row = look(recipe, side, arguments.set, is_measured=side in arguments.side)
            print(json.dumps(row), flush=True)
            if arguments.out is not None:
                write(row, arguments.out)


if __name__ == "__main__":
    main()

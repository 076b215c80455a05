"""Measures J&F, the segmentation accuracy of a model on clips. Prompts follow the model's evaluation settings."""

from itertools import zip_longest

import numpy as np
import torch

from sam2fast.evaluation.j_and_f import boundary_f, jaccard
from sam2fast.training.data.batch import ClipBatch
from sam2fast.training.data.loader import ClipLoader
from sam2fast.training.distributed.ranks import Ranks
from sam2fast.training.model import SAM2Train


def validate(
    model: SAM2Train, loader: ClipLoader, device: torch.device, ranks: Ranks | None = None
) -> dict[str, float]:
    """Returns mean measures in percent over the objects of all batches. Batches are divided among the processes.

    ``J``, ``F`` and ``J&F`` of an object are means over all frames except the first, prompted frame. For clips with
    only one frame, the measures of this frame are used. ``first`` is the IoU of the selected mask after the first
    prompt.
    """
    ranks = ranks or Ranks(device)
    batches = loader.epoch(0, min(ranks.rank, len(loader)), ranks.world_size) if ranks.is_group else loader.epoch(0)
    shares = ranks.gather([measure(model, batch, device) for batch in batches])
    # Restores the order of batches, so that rounding errors of sums do not depend on the number of processes.
    objects = [row for turn in zip_longest(*shares, fillvalue=[]) for of_batch in turn for row in of_batch]
    region, boundary, first = zip(*objects, strict=True)
    j, f = 100 * float(np.mean(region)), 100 * float(np.mean(boundary))
    return {"J&F": (j + f) / 2, "J": j, "F": f, "first": 100 * float(np.mean(first)), "objects": float(len(first))}


def measure(model: SAM2Train, batch: ClipBatch, device: torch.device) -> list[tuple[float, float, float]]:
    """Returns J, F and the IoU after the first prompt, in [0, 1], for each object of a batch."""
    frames = model(batch.to(device)).frames
    predicted = np.stack([(frame.masks_high_res[-1][:, 0] > 0).cpu().numpy() for frame in frames])  # (T, O, S, S)
    truth = batch.masks.numpy()
    start = (frames[0].masks_high_res[0][:, 0] > 0).cpu().numpy()
    counted = range(1, len(frames)) if len(frames) > 1 else range(1)
    return [
        (
            float(np.mean([jaccard(predicted[t, o], truth[t, o]) for t in counted])),
            float(np.mean([boundary_f(predicted[t, o], truth[t, o]) for t in counted])),
            float(jaccard(start[o], truth[0, o])),
        )
        for o in range(truth.shape[1])
    ]

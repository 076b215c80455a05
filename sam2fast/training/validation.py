"""J&F of a model on clips, prompted as its configuration says for evaluation."""

import numpy as np
import torch

from sam2fast.evaluation.j_and_f import boundary_f, jaccard
from sam2fast.training.data.loader import ClipLoader
from sam2fast.training.model import SAM2Train


def validate(model: SAM2Train, loader: ClipLoader, device: torch.device) -> dict[str, float]:
    """Measures in percent over the objects of all batches.

    ``J``, ``F`` and ``J&F`` are means over an object's frames after the first, which is prompted, or of the first if
    there is no other; ``first`` is the IoU after the first prompt, of the mask that the model chooses.
    """
    region, boundary, first = [], [], []
    for batch in loader.epoch(0):
        frames = model(batch.to(device)).frames
        predicted = np.stack([(frame.masks_high_res[-1][:, 0] > 0).cpu().numpy() for frame in frames])  # (T, O, S, S)
        truth = batch.masks.numpy()
        start = (frames[0].masks_high_res[0][:, 0] > 0).cpu().numpy()
        counted = range(1, len(frames)) if len(frames) > 1 else range(1)
        for o in range(truth.shape[1]):
            first.append(jaccard(start[o], truth[0, o]))
            region.append(np.mean([jaccard(predicted[t, o], truth[t, o]) for t in counted]))
            boundary.append(np.mean([boundary_f(predicted[t, o], truth[t, o]) for t in counted]))
    j, f = 100 * float(np.mean(region)), 100 * float(np.mean(boundary))
    return {"J&F": (j + f) / 2, "J": j, "F": f, "first": 100 * float(np.mean(first)), "objects": float(len(first))}

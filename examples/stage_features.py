"""What each stage of the image encoder knows of objects: a linear probe on every position's features.

    python examples/stage_features.py

For each stage of the trunk and each level of the neck a ridge regression from features to "does this position belong
to a labelled object" is fitted on half of the clips' first frames, and tested on the other half. The measure is the
chance that a position inside gets a higher value than one outside (AUC): 50 % is guessing. Beside it: how many
principal components of the channels hold 90 % of the variance.
"""

import time

import numpy as np
import torch
import torch.nn.functional as F
from shared import arguments, finish, nano, synthetic_clips
from torch import Tensor

from sam2fast.research import stage_features
from sam2fast.sam2_image_predictor import SAM2ImagePredictor

RIDGE = 1e-2


def positions(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Features ``(P, C)`` and labels ``(P,)`` bool of all positions of ``(B, C, H, W)`` and masks ``(B, 1, S, S)``."""
    small = F.interpolate(labels, size=features.shape[-2:], mode="area")
    return features.permute(0, 2, 3, 1).flatten(0, 2).double(), small.flatten() > 0.5


def auc(values: Tensor, labels: Tensor) -> float:
    """The share of pairs of a position inside and one outside whose values are in that order."""
    ranks = values.argsort().argsort().double() + 1
    inside, outside = int(labels.sum()), int((~labels).sum())
    return float((ranks[labels].sum() - inside * (inside + 1) / 2) / (inside * outside))


def probe(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> float:
    """AUC on ``test`` of a ridge regression fitted to ``train``."""
    mean, std = train[0].mean(dim=0), train[0].std(dim=0) + 1e-6
    x = (train[0] - mean) / std
    y = train[1].double() - train[1].double().mean()
    gram = x.T @ x / len(x) + RIDGE * torch.eye(x.shape[1], dtype=x.dtype)
    weights = torch.linalg.solve(gram, x.T @ y / len(x))
    return auc((test[0] - mean) / std @ weights, test[1])


def components(x: Tensor, share: float = 0.9) -> int:
    """How many principal components of ``x (P, C)`` hold a share of its variance."""
    variances = torch.linalg.eigvalsh(torch.cov(x.T)).flip(0).cumsum(0)
    return int((variances < share * variances[-1]).sum()) + 1


def main() -> None:
    args = arguments(__doc__, clips=40, frames=1).parse_args()
    start = time.perf_counter()
    predictor = SAM2ImagePredictor(nano(args.device))
    clips = synthetic_clips(args, max_objects=5)
    labels = torch.from_numpy(np.stack([clip.masks[0].any(axis=0) for clip in clips]))[:, None].float()
    with torch.inference_mode():
        found = stage_features(predictor, [clip.frames[0] for clip in clips])
        half, rows = len(clips) // 2, []
        for kind, maps in zip(("stage", "level"), found, strict=True):
            for i, features in enumerate(maps):
                x = features.cpu()
                train, test = positions(x[:half], labels[:half]), positions(x[half:], labels[half:])
                rows.append(
                    {
                        "features": f"{kind} {i}",
                        "channels": x.shape[1],
                        "side": x.shape[-1],
                        "AUC %": round(100 * probe(train, test), 2),
                        "components of 90 %": components(train[0]),
                    }
                )
    finish(args, start, rows)


if __name__ == "__main__":
    main()

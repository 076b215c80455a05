"""The mask of three by a strategy of one's own, beside the highest predicted IoU: J&F from one click on each object.

python examples/mask_choice.py
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from shared import arguments, finish, nano, synthetic_clips, variants
from torch import Tensor

from sam2fast.tracking.strategies import Decided, MaskCandidates, Sam2, Strategy

DELTA = 1.0  # logits above and below zero between which an outline is uncertain


@dataclass(frozen=True)
class Highest(Strategy):
    """The mask with the highest value, the first of equals.

    Args:
        values: ``(B, M)`` of the candidates.
    """

    values: Callable[[MaskCandidates], Tensor]

    def choose(self, candidates: MaskCandidates, state: Tensor) -> Decided:
        return Decided(self.values(candidates).argmax(dim=1, keepdim=True))


def stability(candidates: MaskCandidates) -> Tensor:
    """IoU of each mask cut a little above and a little below zero."""
    inner = (candidates.masks > DELTA).sum(dim=(-2, -1)).float()
    outer = (candidates.masks > -DELTA).sum(dim=(-2, -1)).float()
    return inner / outer.clamp(min=1)


def both(candidates: MaskCandidates) -> Tensor:
    return candidates.ious + stability(candidates)


def size(candidates: MaskCandidates) -> Tensor:
    return (candidates.masks > 0).sum(dim=(-2, -1))


def equal(candidates: MaskCandidates) -> Tensor:
    return candidates.ious.new_zeros(candidates.ious.shape)


def main() -> None:
    args = arguments(__doc__, clips=8, frames=12).parse_args()
    start = time.perf_counter()
    strategies = {
        "predicted IoU": Sam2(),
        "stability": Highest(stability),
        "IoU + stability": Highest(both),
        "largest": Highest(size),
        "first": Highest(equal),
    }
    found = variants(nano(args.device), synthetic_clips(args), strategies, prompt="click")
    finish(args, start, [{"rule": name, **measure} for name, measure in found])


if __name__ == "__main__":
    main()

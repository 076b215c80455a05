"""The mask of three by a custom rule, beside the highest predicted IoU: J&F from one click on each object.

python examples/mask_choice.py
"""

import time

from shared import arguments, finish, nano, synthetic_clips, variants
from torch import Tensor

DELTA = 1.0  # logits above and below zero between which an outline is uncertain


def stability(masks: Tensor) -> Tensor:
    """IoU ``(B, M)`` of each mask cut a little above and a little below zero."""
    inner = (masks > DELTA).sum(dim=(-2, -1)).float()
    outer = (masks > -DELTA).sum(dim=(-2, -1)).float()
    return inner / outer.clamp(min=1)


def most_stable(masks: Tensor, ious: Tensor, scores: Tensor) -> Tensor:
    return stability(masks).argmax(dim=1, keepdim=True)


def both(masks: Tensor, ious: Tensor, scores: Tensor) -> Tensor:
    return (ious + stability(masks)).argmax(dim=1, keepdim=True)


def largest(masks: Tensor, ious: Tensor, scores: Tensor) -> Tensor:
    return (masks > 0).sum(dim=(-2, -1)).argmax(dim=1, keepdim=True)


def first(masks: Tensor, ious: Tensor, scores: Tensor) -> Tensor:
    return ious.new_zeros(len(ious), 1).long()


def main() -> None:
    args = arguments(__doc__, clips=8, frames=12).parse_args()
    start = time.perf_counter()
    rules = {
        "predicted IoU": None,
        "stability": most_stable,
        "IoU + stability": both,
        "largest": largest,
        "first": first,
    }
    chosen = {name: {"mask_selection": rule} for name, rule in rules.items()}
    found = variants(nano(args.device), synthetic_clips(args), chosen, prompt="click")
    finish(args, start, [{"rule": name, **measure} for name, measure in found])


if __name__ == "__main__":
    main()

"""Losses and gradients that are no numbers, named in all processes of a run alike."""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from sam2fast.training.distributed.ranks import Ranks
from sam2fast.training.distributed.strategies import Alone


class NonFiniteError(FloatingPointError):
    """A loss or gradient that is no number; names what it is of."""


def wrong_loss(own: Mapping[str, float], total: float, clips: Sequence[str], ranks: Ranks) -> str | None:
    """What is wrong with a batch's loss, in every process the same; None if it is finite. Every process asks.

    Args:
        own: this process's terms.
        total: the loss, averaged over the processes.
        clips: names of those in this process's batch.
    """
    if math.isfinite(total):
        return None
    wrong = [name for name, value in own.items() if not math.isfinite(value)]
    found = f"{', '.join(wrong)} is not finite for clips {', '.join(clips)}" if wrong else ""
    return next(filter(None, ranks.gather(found)))


def wrong_gradient(norm: float, model: nn.Module, clips: Sequence[str], parallel: Alone, ranks: Ranks) -> str | None:
    """What is wrong with an update's gradient, in every process the same; None if it is finite. Every process asks.

    Args:
        norm: of the whole gradient.
        clips: names of those in this process's batches.
    """
    if math.isfinite(norm):
        return None
    everyones = ", ".join(name for share in ranks.gather(list(clips)) for name in share)
    gradients: dict[str, Tensor] = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    own = {name for name, gradient in gradients.items() if not parallel.local(gradient).isfinite().all()}
    wrong: set[str] = set().union(*ranks.gather(own))
    names = [name for name in gradients if name in wrong] or ["the auxiliary task"]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"the gradient of {names[0]}{more} is not finite for clips {everyones}"

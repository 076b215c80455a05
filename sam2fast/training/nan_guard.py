"""Detects losses and gradients that are not finite. All processes of a run raise the same NonFiniteError."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from sam2fast.training.distributed.ranks import Ranks
from sam2fast.training.distributed.strategies import is_sharded
from sam2fast.utils.errors import FixableError


class NonFiniteError(FixableError, FloatingPointError):
    """Raised if a loss or gradient is not finite. The error message names the loss or the parameter."""


def find_nonfinite_loss(own: Mapping[str, float], total: float, clips: Sequence[str], ranks: Ranks) -> str | None:
    """Returns a message, equal in all processes, if ``total``, the mean loss of all processes, is not finite.

    Collective. ``own`` has the loss terms of this process, and ``clips`` has the names of the clips in this process's
    batch.
    """
    if math.isfinite(total):
        return None
    wrong = [name for name, value in own.items() if not math.isfinite(value)]
    message = f"{', '.join(wrong)} is not finite for clips {', '.join(clips)}" if wrong else ""
    return next(filter(None, ranks.gather(message)))


def find_nonfinite_gradient(norm: float, model: nn.Module, clips: Sequence[str], ranks: Ranks) -> str | None:
    """Returns a message, equal in all processes, if the gradient's ``norm`` is not finite. Collective."""
    if math.isfinite(norm):
        return None
    everyones = ", ".join(name for share in ranks.gather(list(clips)) for name in share)
    gradients: dict[str, Any] = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    shards = {name: x.to_local() if is_sharded(x) else x for name, x in gradients.items()}
    own = {name for name, shard in shards.items() if not shard.isfinite().all()}
    wrong: set[str] = set().union(*ranks.gather(own))
    names = [name for name in gradients if name in wrong] or ["the auxiliary task"]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"the gradient of {names[0]}{more} is not finite for clips {everyones}"

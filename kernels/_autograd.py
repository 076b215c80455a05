"""Gradients of operators whose kernels have none of their own."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def twin_gradients(
    twin: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: Sequence[Tensor | None],
    rest: Sequence[Any],
    wanted: Sequence[bool],
    grads: Tensor | Sequence[Tensor],
) -> tuple[Tensor | None, ...]:
    """Those of ``twin(*inputs, *rest)``, computed again, by the wanted inputs; None for the others.

    Args:
        inputs: of the operator's forward, as saved.
        wanted: which of them need a gradient.
        grads: of the output, or of each output.
    """
    # With gradients enabled here, someone differentiates the gradient itself.
    again = torch.is_grad_enabled()
    leaves = [
        x if x is None or not w else x.view_as(x) if again else x.detach().requires_grad_()
        for x, w in zip(inputs, wanted, strict=False)
    ]
    chosen = [x for x, w in zip(leaves, wanted, strict=False) if w and x is not None]
    with torch.enable_grad():
        outs = twin(*leaves, *rest)
    each_out = (outs,) if isinstance(outs, Tensor) else outs
    each_grad = (grads,) if isinstance(grads, Tensor) else grads
    pairs = [(out, grad.to(out.dtype)) for out, grad in zip(each_out, each_grad, strict=True) if out.requires_grad]
    found: list[Tensor | None] = [None] * len(chosen)
    if pairs:
        ends, seeds = zip(*pairs, strict=True)
        found = list(torch.autograd.grad(ends, chosen, seeds, allow_unused=True, create_graph=again))
    each = iter(found)
    return tuple(next(each) if w and x is not None else None for x, w in zip(inputs, wanted, strict=False))

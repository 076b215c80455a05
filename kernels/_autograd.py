"""Gradients of operators whose kernels have none of their own."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def twin_gradients(
    twin: Callable[..., Tensor],
    inputs: Sequence[Tensor | None],
    rest: Sequence[Any],
    wanted: Sequence[bool],
    grad: Tensor,
) -> tuple[Tensor | None, ...]:
    """Those of ``twin(*inputs, *rest)``, computed again, by the wanted inputs; None for the others.

    Args:
        inputs: of the operator's forward, as saved.
        wanted: which of them need a gradient.
        grad: of the output.
    """
    # With gradients enabled here, someone differentiates the gradient itself.
    again = torch.is_grad_enabled()
    leaves = [
        x if x is None or not w else x.view_as(x) if again else x.detach().requires_grad_()
        for x, w in zip(inputs, wanted, strict=False)
    ]
    chosen = [x for x, w in zip(leaves, wanted, strict=False) if w and x is not None]
    with torch.enable_grad():
        out = twin(*leaves, *rest)
    found: list[Tensor | None] = [None] * len(chosen)
    if out.requires_grad:
        found = list(torch.autograd.grad(out, chosen, grad.to(out.dtype), allow_unused=True, create_graph=again))
    each = iter(found)
    return tuple(next(each) if w and x is not None else None for x, w in zip(inputs, wanted, strict=False))

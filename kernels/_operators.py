"""Calls operators of torch where it pays to have them."""

from typing import Any

import torch


def call(operator: Any, *arguments: Any) -> Any:
    """``operator(*arguments)`` in a graph that is being made, else the function that the operator was made of.

    Outside graphs an operator does nothing for ops without a gradient, and the first call of any makes torch import its
    compiler, which takes seconds.

    Args:
        operator: what ``torch.library.custom_op`` made of a function, without a gradient of its own.
    """
    if torch.compiler.is_compiling():
        return operator(*arguments)
    with torch.no_grad():  # as below autograd, where an operator without a gradient runs
        return operator._init_fn(*(x.detach() if isinstance(x, torch.Tensor) else x for x in arguments))

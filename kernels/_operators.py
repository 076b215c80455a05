"""Operators of torch, and calls of them where it pays to have them.

An operator is one node of graphs, and takes tens of microseconds of the host's time at each call.
"""

from collections.abc import Callable
from typing import Any

import torch

# Operator -> the function that it was made of.
_functions: dict[Any, Callable[..., Any]] = {}
# Torch has no public names for these. A version without them has its operators called at any rate.
_dispatch_modes: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)
_has_transforms: Callable[[], bool] = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
_PLAIN = (torch.Tensor, torch.nn.Parameter)


def registered(name: str) -> Callable[[Callable[..., Any]], Any]:
    """``torch.library.custom_op(name, mutates_args=())``, whose function :func:`call` and its like can also reach."""

    def register(function: Callable[..., Any]) -> Any:
        operator = torch.library.custom_op(name, mutates_args=())(function)
        _functions[operator] = function
        return operator

    return register


def call(operator: Any, *arguments: Any) -> Any:
    """``operator(*arguments)`` in a graph that is being made, else the function that the operator was made of.

    Outside graphs an operator does nothing for ops without a gradient, and the first call of any makes torch import its
    compiler, which takes seconds.

    Args:
        operator: what :func:`registered` made of a function, without a gradient of its own.
    """
    if torch.compiler.is_compiling():
        return operator(*arguments)
    with torch.no_grad():  # as below autograd, where an operator without a gradient runs
        return _functions[operator](*(x.detach() if isinstance(x, torch.Tensor) else x for x in arguments))


def call_with_gradient(operator: Any, *arguments: Any) -> Any:
    """``operator(*arguments)`` where a gradient may be wanted or somebody looks on, else the function itself.

    Args:
        operator: what :func:`registered` made of a function whose result has no gradient unless the operator gives it.
    """
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or _is_watched(arguments):
        return operator(*arguments)
    return _functions[operator](*arguments)


def _is_watched(arguments: tuple[Any, ...]) -> bool:
    """Whether something has to see the operator: torch.jit's tracer, a mode that sees all operators, as that of fake
    tensors, a transform as vmap, or a tensor of a class of its own. None of them sees a kernel that is launched.
    """
    return (
        torch.jit.is_tracing()
        or _dispatch_modes() > 0
        or _has_transforms()
        or any(type(x) not in _PLAIN and isinstance(x, torch.Tensor) for x in arguments)
    )

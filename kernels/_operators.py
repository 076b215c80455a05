"""Torch operators of the kernels, their calls, and their gradients.

An operator is one node of a graph. Outside graphs it costs tens of microseconds of host time per call, so its function
is called directly there.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from sam2fast.kernels._fallback import with_fallback

# Operator -> its function.
_functions: dict[Any, Callable[..., Any]] = {}
# Torch has no public names for these. In a version without them operators are always called.
_dispatch_modes: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)
_has_transforms: Callable[[], bool] = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
_PLAIN = (torch.Tensor, torch.nn.Parameter)


def register_operator(
    name: str, reference: Callable[..., Any] | None = None, kind: Callable[..., Hashable] | None = None
) -> Callable[[Callable[..., Any]], Any]:
    """``torch.library.custom_op(name, mutates_args=())`` that :func:`call` and :func:`call_with_gradient` accept.

    Args:
        reference, kind: what computes where the kernel cannot run on a GPU; see
            :func:`sam2fast.kernels._fallback.with_fallback`.
    """

    def register(function: Callable[..., Any]) -> Any:
        computed = with_fallback(name.removeprefix("sam2fast::"), function, reference, kind)
        operator = torch.library.custom_op(name, mutates_args=())(computed)
        _functions[operator] = computed
        return operator

    return register


def call(operator: Any, *arguments: Any) -> Any:
    """``operator(*arguments)`` while a graph is traced, else its function.

    The first call of any operator makes torch import its compiler, which takes seconds.

    Args:
        operator: from :func:`register_operator`, without a gradient.
    """
    if torch.compiler.is_compiling():
        return operator(*arguments)
    with torch.no_grad():  # as in an operator without a gradient
        return _functions[operator](*(x.detach() if isinstance(x, torch.Tensor) else x for x in arguments))


def call_with_gradient(operator: Any, *arguments: Any) -> Any:
    """``operator(*arguments)`` where a gradient may be needed or torch must see the operator, else its function.

    Args:
        operator: from :func:`register_operator`, with a gradient that its function alone does not have.
    """
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or _must_be_visible(arguments):
        return operator(*arguments)
    return _functions[operator](*arguments)


def _must_be_visible(arguments: tuple[Any, ...]) -> bool:
    """Whether torch must see the operator, since it does not see kernel launches.

    That is so for torch.jit's tracer, dispatch modes such as fake tensors, transforms such as vmap, and tensor
    subclasses.
    """
    return (
        torch.jit.is_tracing()
        or _dispatch_modes() > 0
        or _has_transforms()
        or any(type(x) not in _PLAIN and isinstance(x, torch.Tensor) for x in arguments)
    )


def reference_backward(
    reference: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: Sequence[Tensor | None],
    rest: Sequence[Any],
    needs_grad: Sequence[bool],
    grads: Tensor | Sequence[Tensor],
) -> tuple[Tensor | None, ...]:
    """Gradients of ``reference(*inputs, *rest)``, which is recomputed; None for inputs that need none.

    Args:
        reference: the reference implementation.
        inputs: of the operator's forward, as saved.
        rest: its other arguments.
        needs_grad: which inputs need a gradient.
        grads: of the output, or of each output.
    """
    # With gradients enabled here, the gradient itself is differentiated.
    is_double_backward = torch.is_grad_enabled()
    leaves = [
        x if x is None or not w else x.view_as(x) if is_double_backward else x.detach().requires_grad_()
        for x, w in zip(inputs, needs_grad, strict=False)
    ]
    chosen = [x for x, w in zip(leaves, needs_grad, strict=False) if w and x is not None]
    with torch.enable_grad():
        outs = reference(*leaves, *rest)
    each_out = (outs,) if isinstance(outs, Tensor) else outs
    each_grad = (grads,) if isinstance(grads, Tensor) else grads
    pairs = [(out, grad.to(out.dtype)) for out, grad in zip(each_out, each_grad, strict=True) if out.requires_grad]
    found: list[Tensor | None] = [None] * len(chosen)
    if pairs:
        ends, seeds = zip(*pairs, strict=True)
        found = list(torch.autograd.grad(ends, chosen, seeds, allow_unused=True, create_graph=is_double_backward))
    each = iter(found)
    return tuple(next(each) if w and x is not None else None for x, w in zip(inputs, needs_grad, strict=False))

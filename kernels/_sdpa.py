"""Computes torch's attention with the backend that a launch configuration names.

A backend's operator is called directly, since ``torch.nn.attention.sdpa_kernel`` changes settings of the whole process.
"""

import functools
from collections.abc import Callable, Hashable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]

# Numbers of attention backends: values of the key ``SDPA`` in a launch configuration.
KERNEL, DEFAULT, FLASH, CUDNN = 0, 1, 2, 3
NAMES = {KERNEL: "our kernel", DEFAULT: "torch's choice", FLASH: "FlashAttention", CUDNN: "cuDNN"}
WIDEST = 256  # maximum channels per head; more than 128 need Hopper and cuDNN 9.10 or newer in cuDNN's backend
# Backend, device, dtype and shapes of calls that failed in this process. For equal calls, the backend is not tried
# again.
refused: set[Hashable] = set()


def attention_by(choice: int, scale: float | None = None) -> Attend:
    """Returns a function that computes attention of ``(N, heads, tokens, d)`` tensors with the backend ``choice``.

    Torch chooses the backend itself if ``choice`` does not support the device, dtype or size of heads, if a gradient is
    needed, or if a call of ``choice`` with equal shapes has failed before.

    Args:
        choice: Number of a backend, as in :data:`NAMES`: a value of ``SDPA`` in a launch configuration.
        scale: Factor of attention scores, as in ``scaled_dot_product_attention``.
    """
    default = functools.partial(F.scaled_dot_product_attention, scale=scale)
    if choice not in _BACKENDS:
        return default
    backend = functools.partial(_BACKENDS[choice], scale=scale)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if not _is_supported(query, key, value):
            return default(query, key, value)
        if torch.compiler.is_compiling():  # try and except cannot be part of a graph
            return backend(query, key, value)
        request = choice, query.device, query.dtype, tuple(query.shape), tuple(key.shape)
        if request not in refused:
            try:
                return backend(query, key, value)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, NotImplementedError):
                refused.add(request)
        return default(query, key, value)

    return attend


def _is_supported(query: Tensor, key: Tensor, value: Tensor) -> bool:
    d = query.shape[-1]
    if not query.is_cuda or query.dtype not in (torch.bfloat16, torch.float16) or d % 8 or d > WIDEST:
        return False
    return not (torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad))


def _flash(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    out: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, scale=scale)[0]
    return out


def _cudnn(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    out: Tensor = torch.ops.aten._scaled_dot_product_cudnn_attention(query, key, value, None, False, scale=scale)[0]
    return out


_BACKENDS: dict[int, Callable[..., Tensor]] = {FLASH: _flash, CUDNN: _cudnn}

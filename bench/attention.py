"""Ways of computing attention to the memory bank and of a frame to itself, measured beside ours."""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from backend_calls import RefusedError, kernel_if_any, may_refuse
from inputs import MemoryArguments
from torch import Tensor

from sam2fast.kernels.memory_attention import (
    apply_rope,
    memory_attention,
    memory_attention_reference,
)

Call = Callable[[], Tensor]

# Scores that are held whole may take so much memory on a CPU, with their copies.
MOST_ON_CPU = 4 * 2**30


def reference(arguments: MemoryArguments, device: torch.device) -> Tensor:
    """The reference implementation, which refuses where its scores, in fp32 and four copies, have no room."""
    (objects, K), N, L = arguments.memory.page_table.shape, arguments.query.shape[2], arguments.memory.pointers.shape[1]
    room, scores = MOST_ON_CPU, objects * N * (K * N + L)
    if device.type == "cuda":
        room = torch.cuda.mem_get_info(device)[1] - torch.cuda.memory_allocated(device)
    if 16 * scores > room:
        raise RefusedError(f"{scores} scores do not fit into memory")
    return memory_attention_reference(*arguments)


def published_object(
    query: Tensor,  # (1, 1, N, d)
    maps: Tensor,  # (K, n, m)
    time: Tensor,  # (K, m)
    pointers: Tensor,  # (L, m)
    pointer_encoding: Tensor,  # (L, m)
    position_encoding: Tensor,  # (n, m)
    *shared: Tensor,  # weight and bias of keys, then of values, and the tables of the rotation
    attend: Callable[[Tensor, Tensor, Tensor], Any] = F.scaled_dot_product_attention,
) -> Tensor:
    """Attention of one object in the official formulation, with values projected for every token: ``(1, N, d)``."""
    key_weight, key_bias, value_weight, value_bias, cos, sin = shared
    dtype, rotated, N, n = query.dtype, maps.shape[0] * maps.shape[1], query.shape[2], maps.shape[1]
    encoded = (maps + position_encoding + time[:, None]).flatten(0, 1)
    keys = torch.cat([encoded, pointers + pointer_encoding]).to(dtype)
    values = torch.cat([maps.flatten(0, 1), pointers.to(dtype)])
    key = F.linear(keys, key_weight, key_bias)[None, None]
    value = F.linear(values, value_weight, value_bias)[None, None]
    key = torch.cat([apply_rope(key[:, :, :rotated], cos[-n:], sin[-n:]), key[:, :, rotated:]], dim=2)
    return attend(apply_rope(query, cos[:N], sin[:N]), key, value)[:, 0]


def published(arguments: MemoryArguments, one: Callable[..., Tensor] = published_object) -> Call:
    """One object after the other, each by ``one``; for banks without gaps."""
    memory = arguments.memory

    def call() -> Tensor:
        out = []
        for b, maps in enumerate(memory.pages.split(memory.page_table.shape[1])):
            own = arguments.query[b : b + 1], maps, memory.time_encoding, memory.pointers[b], memory.pointer_encoding[b]
            out.append(one(*own, memory.position_encoding, *arguments[2:]))
        return torch.cat(out)

    return call


def in_float32(arguments: MemoryArguments) -> MemoryArguments:
    """The same values; what is stored in fewer bits is widened."""
    query, memory, *rest = arguments
    wide = [x.float() for x in rest]
    return MemoryArguments(query.float(), memory._replace(pages=memory.pages.float()), *wide)


def compiled(arguments: MemoryArguments) -> dict[str, Call]:
    """The published way through torch's compiler as a whole, and with the compiler's own attention kernel alone."""
    from torch.nn.attention.flex_attention import flex_attention

    torch.compiler.reset()  # what an earlier case compiled counts towards the compiler's limit
    plain = torch.compile(published_object, dynamic=False)
    flexible = functools.partial(published_object, attend=torch.compile(flex_attention, dynamic=False))
    return {
        "projected values, torch.compile": may_refuse(published(arguments, plain)),
        "projected values, FlexAttention": may_refuse(published(arguments, flexible)),
    }


def memory_ways(arguments: MemoryArguments, device: torch.device, compilers: bool = False) -> dict[str, Call]:
    """Memory attention by subject; the baseline is the published formulation with the attention that torch chooses.

    Args:
        compilers: besides the baseline and ours what ``torch.compile`` makes of it, instead of the reference.
    """
    own = kernel_if_any(lambda: memory_attention(*arguments), device)
    others = compiled(arguments) if compilers else {"reference": lambda: reference(arguments, device)}
    return {"projected values, SDPA": published(arguments), "sam2fast": own, **others}


def rotated_before(query: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor) -> Call:
    """Self-attention by torch's own, of what is rotated now."""
    rotated = [apply_rope(x, cos, sin) for x in (query, key)]
    return lambda: F.scaled_dot_product_attention(*rotated, value)

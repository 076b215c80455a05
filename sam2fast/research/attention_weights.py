"""Softmax weights of memory attention, written out from the torch twin's own operands."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sam2fast.kernels.memory_attention import AttendedMemory, memory_attention_reference

# Queries whose weights are held at once.
BLOCK = 256


class Operands(NamedTuple):
    """What the twin hands to torch's attention for one object."""

    query: Tensor  # (heads, N, d), rotated
    key: Tensor  # (heads, M, d), those of maps rotated; page by page, then the pointers
    value: Tensor  # (heads, M, m)
    offset: Tensor  # (M,) fp32, added to the scores; -inf where nothing is attended to


class _Caught(TorchFunctionMode):
    """Takes the operands of torch's attention, and leaves out the attention."""

    def __init__(self) -> None:
        super().__init__()
        self.operands: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        query, key, value = args
        self.operands = query, key, value, kwargs["attn_mask"]
        return query.new_zeros(*query.shape[:-1], value.shape[-1])


def operands_of(b: int, query: Tensor, memory: AttendedMemory, *weights_and_tables: Tensor | None) -> Operands:
    """The twin's operands for object ``b``, from the arguments of :func:`memory_attention`."""
    one = slice(b, b + 1)
    own = memory._replace(
        page_table=memory.page_table[one],
        page_time=memory.page_time[one],
        pointers=memory.pointers[one],
        pointer_encoding=memory.pointer_encoding[one],
        pointer_valid=memory.pointer_valid[one],
    )
    with _Caught() as caught:
        memory_attention_reference(query if len(query) == 1 else query[one], own, *weights_and_tables)  # type: ignore[arg-type]
    assert caught.operands is not None
    query, key, value, mask = (x[0] for x in caught.operands)
    mask = mask[0, 0]
    offset = torch.where(mask, 0.0, -torch.inf) if mask.dtype == torch.bool else mask.float()
    return Operands(query, key, value, offset)


def weights_by_block(operands: Operands, head: int, queries: Tensor) -> Iterator[Tensor]:
    """Weights ``(n, M)`` fp32 of some queries after the other, which sum to one; 0 for what is not attended to.

    Args:
        queries: ``(Q,)`` int64 positions on the map.
    """
    key, scale = operands.key[head].float(), operands.query.shape[-1] ** -0.5
    with torch.autocast(key.device.type, enabled=False):
        for block in queries.split(BLOCK):
            scores = operands.query[head, block].float() * scale @ key.T + operands.offset
            yield scores.softmax(dim=-1)

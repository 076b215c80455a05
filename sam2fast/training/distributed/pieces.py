"""Tensors that are divided among the processes of a run: put together, and divided again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from sam2fast.training.distributed.ranks import Ranks


def divided_tensors(tree: Any) -> list[DTensor]:
    """Those in nested dictionaries and lists, in their order."""
    if isinstance(tree, DTensor):
        return [tree]
    children = tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, list | tuple) else ()
    return [tensor for child in children for tensor in divided_tensors(child)]


def replaced(tree: Any, by: Callable[[DTensor], Any]) -> Any:
    """Nested dictionaries and lists with something else in the place of each of them, asked for in their order."""
    if isinstance(tree, DTensor):
        return by(tree)
    if isinstance(tree, Mapping):
        return {key: replaced(value, by) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(replaced(value, by) for value in tree)
    return tree


def gathered(tensors: Sequence[DTensor], ranks: Ranks) -> list[Tensor | None]:
    """Each tensor as a whole, on the CPU, in the first process; None for each in the others.

    All of them travel at once: a thousand small ones would each wait for every process.
    """
    if any(tensor.placements != (Shard(0),) for tensor in tensors):
        raise ValueError("only tensors that are divided along their first dimension alone can be put together")
    mine = [tensor.to_local().detach().contiguous().cpu() for tensor in tensors]
    sizes: list[list[torch.Size]] = ranks.gather([piece.shape for piece in mine])
    flat = torch.cat([piece.flatten().view(torch.uint8) for piece in mine] or [torch.empty(0, dtype=torch.uint8)])
    lengths = [
        sum(size.numel() * tensor.element_size() for size, tensor in zip(of_rank, mine, strict=True))
        for of_rank in sizes
    ]
    # Every process sends as much as the one with most.
    padded = torch.cat([flat, flat.new_zeros(max(lengths) - len(flat))])
    if not ranks.is_main:
        dist.gather(padded, dst=0)
        return [None] * len(tensors)
    received = [torch.empty_like(padded) for _ in sizes]
    dist.gather(padded, received, dst=0)
    by_rank = [_cut(buffer, of_rank, mine) for buffer, of_rank in zip(received, sizes, strict=True)]
    return [torch.cat(pieces) for pieces in zip(*by_rank, strict=True)]


def _cut(buffer: Tensor, sizes: Sequence[torch.Size], like: Sequence[Tensor]) -> Iterator[Tensor]:
    """The pieces of one process, which lie in its buffer of bytes one behind the other."""
    start = 0
    for size, other in zip(sizes, like, strict=True):
        end = start + size.numel() * other.element_size()
        # A copy begins at an address that suits every dtype.
        yield buffer[start:end].clone().view(other.dtype).view(size)
        start = end


def divided(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor that every process has, as ``like`` is; itself where that is whole too."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)

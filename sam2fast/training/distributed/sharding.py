"""Sharded tensors (DTensor): gathered to one process, and sharded again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from sam2fast.training.distributed.ranks import Ranks


def find_dtensors(tree: Any) -> list[DTensor]:
    """The DTensors in nested dictionaries and lists, in order."""
    if isinstance(tree, DTensor):
        return [tree]
    children = tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, list | tuple) else ()
    return [tensor for child in children for tensor in find_dtensors(child)]


def map_dtensors(tree: Any, by: Callable[[DTensor], Any]) -> Any:
    """Nested dictionaries and lists with each DTensor replaced by ``by(tensor)``, in order."""
    if isinstance(tree, DTensor):
        return by(tree)
    if isinstance(tree, Mapping):
        return {key: map_dtensors(value, by) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(map_dtensors(value, by) for value in tree)
    return tree


def gather_full(tensors: Sequence[DTensor], ranks: Ranks) -> list[Tensor | None]:
    """The full tensors on the CPU in the first process; None for each in other processes. Collective.

    All tensors are sent in one buffer, since each message waits for all processes.
    """
    if any(tensor.placements != (Shard(0),) for tensor in tensors):
        raise ValueError("only tensors that are sharded along their first dimension alone can be gathered")
    mine = [tensor.to_local().detach().contiguous().cpu() for tensor in tensors]
    sizes: list[list[torch.Size]] = ranks.gather([shard.shape for shard in mine])
    flat = torch.cat([shard.flatten().view(torch.uint8) for shard in mine] or [torch.empty(0, dtype=torch.uint8)])
    lengths = [
        sum(size.numel() * tensor.element_size() for size, tensor in zip(of_rank, mine, strict=True))
        for of_rank in sizes
    ]
    # All processes send equally many bytes.
    padded = torch.cat([flat, flat.new_zeros(max(lengths) - len(flat))])
    if not ranks.is_main:
        dist.gather(padded, dst=0)
        return [None] * len(tensors)
    received = [torch.empty_like(padded) for _ in sizes]
    dist.gather(padded, received, dst=0)
    by_rank = [_split_buffer(buffer, of_rank, mine) for buffer, of_rank in zip(received, sizes, strict=True)]
    return [torch.cat(shards) for shards in zip(*by_rank, strict=True)]


def _split_buffer(buffer: Tensor, sizes: Sequence[torch.Size], like: Sequence[Tensor]) -> Iterator[Tensor]:
    """The shards of one process, which are consecutive in its byte buffer."""
    start = 0
    for size, other in zip(sizes, like, strict=True):
        end = start + size.numel() * other.element_size()
        # A copy is aligned for every dtype.
        yield buffer[start:end].clone().view(other.dtype).view(size)
        start = end


def shard_like(value: Tensor, like: Tensor) -> Tensor:
    """A full tensor, which every process has, sharded as ``like``; unchanged if ``like`` is not sharded."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)

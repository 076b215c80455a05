"""The integers that say what one step reads and writes: made on the CPU, copied to the device at once."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Tables begin at multiples of so many integers, 16 bytes: Triton tells such addresses apart.
ALIGNMENT = 4


class StepShape(NamedTuple):
    """Capacities of a step; what shapes of tensors follow from."""

    objects: int
    memories: int  # of each object
    pointers: int


class StepTables(NamedTuple):
    """Views of one int32 tensor."""

    page_table: Tensor  # (C, K) rows of the pool of memories; -1 for none
    page_time: Tensor  # (C, K) rows of maskmem_tpos_enc
    pointer_table: Tensor  # (C, P) rows of the pool of pointers; -1 for none
    distance: Tensor  # (C, P) frames from the current one to each pointer's
    written_pages: Tensor  # (C,) rows for the new memories
    written_pointers: Tensor  # (C,)

    @classmethod
    def size(cls, shape: StepShape) -> int:
        """How many integers they are."""
        return sum(_aligned(rows * columns) for rows, columns in _shapes(shape))

    @classmethod
    def views(cls, integers: Tensor, shape: StepShape) -> "StepTables":
        """The tables in ``integers (size,)`` int32."""
        tables, start = [], 0
        for rows, columns in _shapes(shape):
            tables.append(integers[start : start + rows * columns].view(rows, columns))
            start += _aligned(rows * columns)
        pages, times, pointers, distances, written_pages, written_pointers = tables
        return cls(pages, times, pointers, distances, written_pages[:, 0], written_pointers[:, 0])

    @classmethod
    def blank(cls, shape: StepShape, pinned: bool = False) -> tuple[Tensor, "StepTables"]:
        """Integers on the CPU, and tables in them that name nothing.

        Args:
            pinned: nobody waits when they are copied to CUDA with ``non_blocking``. Torch gives their memory to nobody
                else before that copy is made, and they may be forgotten at once; they may not be written again.
        """
        integers = torch.zeros(cls.size(shape), dtype=torch.int32, device="cpu", pin_memory=pinned)
        tables = cls.views(integers, shape)
        for table in (tables.page_table, tables.pointer_table):
            table.fill_(-1)
        return integers, tables


def fill_rows(table: Tensor, rows: Sequence[Sequence[int]]) -> None:
    """Writes lists of different lengths into the first columns of the first rows of a table on the CPU."""
    values = table.numpy()
    for b, row in enumerate(rows):
        values[b, : len(row)] = row


def _shapes(shape: StepShape) -> list[tuple[int, int]]:
    C, K, P = shape
    return [(C, K), (C, K), (C, P), (C, P), (C, 1), (C, 1)]


def _aligned(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT

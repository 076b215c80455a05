"""Stores a session's memories in pools of pages, and fills the tables of which object attends to which page."""

import math
from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sam2fast.kernels.memory_attention import Fp8
from sam2fast.modeling.memory_selection import MemoryRules
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.tracking.approximations import EXACT, Approximations
from sam2fast.tracking.page_pool import Page, PagePool
from sam2fast.tracking.strategies import SAM2, Strategy
from sam2fast.utils.async_copies import PendingCopies

# Capacities of tables, in objects and in conditioning frames, so that shapes seldom change.
BUCKETS = (1, 2, 4, 8, 16, 32, 64)
# Tables begin at multiples of this many integers, 16 bytes: Triton specializes kernels on such addresses.
ALIGNMENT = 4
# Number of frames for which an object's states stay in the pool. They are small, and moving one to the CPU is a copy.
STATES_KEPT = 64


def bucket(count: int) -> int:
    """Returns the smallest bucket that holds ``count``. Beyond the largest bucket, its multiples are buckets."""
    return BUCKETS[bisect_left(BUCKETS, count)] if count <= BUCKETS[-1] else -(-count // BUCKETS[-1]) * BUCKETS[-1]


class AttendedPages(NamedTuple):
    """Stores the pages that one object attends to."""

    pages: list[Page]  # of memories
    times: list[int]  # of each page its AttendedMemory.page_time
    pointers: list[Page]
    distances: list[int]  # of each pointer, in frames
    conditioning: int  # how many conditioning frames may be among them, besides the recent frames
    span: int = 0  # what distances are divided by; 0 for the model's, of the video's length
    state: Page | None = None  # what the session's strategy knows of the object
    factors: tuple[list[float], list[float]] | None = None  # of the keys of each page, and of each pointer


@dataclass(frozen=True)
class MemoryLayout:
    """Stores the shapes of a model's memories, and their device."""

    device: torch.device
    image_size: int
    mask: tuple[int, int]  # (h, w) of low-resolution masks
    size: tuple[int, int]  # (H, W) of a spatial memory
    channels: int  # C_mem
    pointer: int  # C of an object pointer

    @classmethod
    def of(cls, model: SAM2Base) -> "MemoryLayout":
        return cls(
            device=model.device,
            image_size=model.image_size,
            mask=model.sam_prompt_encoder.mask_input_size,
            size=model.memory_size,
            channels=model.mem_dim,
            pointer=model.hidden_dim,
        )


class MemoryBank:
    """Stores spatial memories ``(H * W, C_mem)`` and object pointers ``(C,)`` fp32 in pools of pages.

    Memories keep the dtype they are computed in. A third pool stores a strategy's states in fp64, if it keeps any.

    Args:
        layout: Layout of the model's memories.
        approximations, strategy: Settings of the session.
        fp8: If True, memory attention scores are computed in fp8.
    """

    def __init__(
        self,
        layout: MemoryLayout,
        approximations: Approximations = EXACT,
        fp8: Fp8 = False,
        strategy: Strategy = SAM2,
    ) -> None:
        self.layout = layout
        self.approximations = approximations
        self.fp8: Fp8 = fp8
        self.pending = PendingCopies()
        self.memories: PagePool | None = None  # made with the first memory, whose dtype it takes
        self.pointers = PagePool((layout.pointer,), torch.float32, layout.device, self.pending)
        self.strategy, size = strategy, strategy.state_size
        self.states = PagePool((size,), torch.float64, layout.device, self.pending) if size else None
        self.pools: tuple[PagePool | None, PagePool, PagePool | None] = None, self.pointers, self.states
        self._reserved: tuple[StepShape, PagePool | None] | None = None
        self.page_shape = math.prod(layout.size), layout.channels

    def emptied(self) -> "MemoryBank":
        """Returns a new bank without pages, with the same settings."""
        return MemoryBank(self.layout, self.approximations, self.fp8, self.strategy)

    def begin_step(self) -> None:
        """Begins a step. Pages that it neither reads nor writes may be archived."""
        self.pending.begin_step()
        for pool in self.pools:
            if pool is not None:
                pool.begin_step()

    def write_memories(self, memories: Tensor) -> list[Page]:
        """Stores ``memories (B, C_mem, H, W)`` in new pages."""
        return self.begin_memories(memories.dtype).write(as_pages(memories))

    def begin_memories(self, dtype: torch.dtype) -> PagePool:
        """Returns the pool of memories. Creates it if there is none."""
        if self.memories is None:
            self.memories = PagePool(self.page_shape, dtype, self.layout.device, self.pending)
            self.pools = self.memories, *self.pools[1:]
        return self.memories

    def write_pointers(self, pointers: Tensor) -> list[Page]:
        """Stores ``pointers (B, C)`` in new pages."""
        return self.pointers.write(pointers)

    def read_memory(self, memory: Page) -> Tensor:
        """Returns a copy ``(1, C_mem, H, W)``."""
        assert self.memories is not None
        return self.memories.read(memory).t().unflatten(1, self.layout.size)[None]

    def shape_of(self, objects: Sequence[AttendedPages], rules: MemoryRules, in_buckets: bool) -> "StepShape":
        """Returns capacities for these objects, with as many rows as objects or, if ``in_buckets``, as a bucket."""
        conditioning, rows = bucket(max(o.conditioning for o in objects)), len(objects)
        if in_buckets:
            each = self.strategy.hypotheses
            rows = each * bucket(rows // each)
        return self.capacity(rows, conditioning, rules)

    def capacity(self, objects: int, conditioning: int, rules: MemoryRules) -> "StepShape":
        """Returns capacities for a number of objects with a number of conditioning frames each."""
        others = objects if self.strategy.sees_others else 0
        return StepShape(objects, rules.recent + conditioning, rules.max_pointers - 1 + conditioning, others)

    def reserve(self, shape: "StepShape") -> None:
        """Reserves the pages that the objects of a step of this shape read, and one page per object to write."""
        if self._reserved == (shape, self.memories):  # pools do not shrink
            return
        self._reserved, rows = (shape, self.memories), bucket(shape.objects)
        if self.memories is not None:
            self.memories.reserve(rows * (shape.memories + 1))
        self.pointers.reserve(rows * (shape.pointers + 1))
        if self.states is not None:
            self.states.reserve(STATES_KEPT * rows)

    def attended_rows(self, objects: Sequence[AttendedPages]) -> "Rows":
        """Returns the table entries of the pages that objects attend to. They are valid until the next step."""
        weights = [o.factors for o in objects if o.factors is not None]  # of all or none
        return {
            "page_table": [] if self.memories is None else [self.memories.rows(o.pages) for o in objects],
            "page_time": [o.times for o in objects],
            "page_factor": [of_memories for of_memories, _ in weights],
            "pointer_table": [self.pointers.rows(o.pointers) for o in objects],
            "pointer_valid": [[1] * len(o.pointers) for o in objects],
            "distance": [o.distances for o in objects],
            "pointer_factor": [of_pointers for _, of_pointers in weights],
            "span": [o.span for o in objects],
            "read_states": [] if self.states is None else _row_of_each(self.states, [o.state for o in objects]),
        }

    def allocate(self, count: int) -> tuple[list[Page], list[Page], list[Page], "Rows"]:
        """Returns ``count`` new pages of each pool, for memories, pointers and states, and their table entries."""
        memories, pointers, states = ([] if pool is None else pool.allocate(count) for pool in self.pools)
        written = {"written_pages": memories, "written_pointers": pointers, "written_states": states}
        return memories, pointers, states, {name: [page.row for page in pages] for name, pages in written.items()}


def _row_of_each(pool: PagePool, pages: Sequence[Page | None]) -> list[int]:
    """Returns the rows of pages of a pool; -1 for None."""
    rows = iter(pool.rows(page for page in pages if page is not None))
    return [-1 if page is None else next(rows) for page in pages]


def select_states(states: Tensor, rows: Tensor) -> Tensor:
    """Returns the rows ``(B,)`` of ``states (n, state_size)``; zeros for row -1."""
    return torch.where((rows >= 0)[:, None], states.index_select(0, rows.clamp(min=0)), 0.0)


def as_pages(maps: Tensor) -> Tensor:
    """Returns ``maps (B, C, H, W)`` as ``(B, H * W, C)``."""
    return maps.flatten(2).transpose(1, 2)


class StepShape(NamedTuple):
    """Stores the capacities of a step, from which the shapes of its tensors follow."""

    objects: int
    memories: int  # per object
    pointers: int
    others: int  # number of objects that each object is compared with


class Table(NamedTuple):
    """Describes one table of a step, with a row for each of C objects."""

    name: str
    columns: str | None  # field of :class:`StepShape` with their number; None for one number
    dtype: torch.dtype
    absent: int  # value of empty entries

    @property
    def width(self) -> int:
        """Returns the number of int32 values per entry."""
        return self.dtype.itemsize // 4


TABLES = (
    Table("page_table", "memories", torch.int32, -1),
    Table("page_time", "memories", torch.int32, 0),
    Table("page_factor", "memories", torch.float32, 0),
    Table("pointer_table", "pointers", torch.int32, 0),
    Table("pointer_valid", "pointers", torch.int32, 0),
    Table("distance", "pointers", torch.float32, 0),
    Table("pointer_factor", "pointers", torch.float32, 0),
    Table("span", None, torch.int32, 0),
    Table("read_states", None, torch.int32, -1),
    Table("written_pages", None, torch.int64, 0),
    Table("written_pointers", None, torch.int64, 0),
    Table("written_states", None, torch.int64, 0),
    Table("pairs", "others", torch.int32, 0),
)
# Format characters of Python's arrays.
_KINDS = {torch.int32: "i", torch.float32: "f", torch.int64: "q"}
# By a table's name, for each of the first objects: a list of its first columns, or a number.
Rows = Mapping[str, Sequence[Any]]


class StepTables(NamedTuple):
    """The :data:`TABLES` of a step: views of one int32 tensor."""

    page_table: Tensor  # (C, K) rows of the pool of memories
    page_time: Tensor  # (C, K) rows of maskmem_tpos_enc
    page_factor: Tensor  # (C, K) of keys
    pointer_table: Tensor  # (C, P) rows of the pool of pointers; 0 for none
    pointer_valid: Tensor  # (C, P) 1 for each pointer, 0 for none
    distance: Tensor  # (C, P) frames from the current one to each pointer's
    pointer_factor: Tensor  # (C, P) of keys
    span: Tensor  # (C,) what an object's distances are divided by; 0 for the model's
    read_states: Tensor  # (C,) rows of the pool of states
    written_pages: Tensor  # (C,) rows for the new memories; int64, which index_copy_ takes
    written_pointers: Tensor  # (C,)
    written_states: Tensor  # (C,)
    pairs: Tensor  # (C, C) see :func:`~sam2fast.tracking.shared_prompts.pairs_of`; (C, 0) if objects are not compared

    @classmethod
    def views(cls, integers: Tensor, shape: StepShape) -> "StepTables":
        """Returns the tables in the int32 tensor of :meth:`integers`."""
        made = {}
        for table, width, start, columns in _layout(shape)[0]:
            view = integers[start : start + shape.objects * columns * width].view(table.dtype)
            made[table.name] = view if table.columns is None else view.view(shape.objects, columns)
        return cls(**made)

    @classmethod
    def integers(cls, shape: StepShape, rows: Rows, pinned: bool = False) -> Tensor:
        """Returns all tables as one int32 tensor on the CPU, see :meth:`views`.

        Args:
            rows: Entries of the tables. Missing entries are filled with ``absent``.
            pinned: If True, uses pinned memory, for a copy to CUDA with ``non_blocking``. The caller may free the
                tensor at once, since torch reuses its memory only after the copy, but must not write to it.
        """
        layout, absent = _layout(shape)
        values = absent[:]
        words = memoryview(values).cast("B")
        targets: dict[str, Any] = {"i": words.cast("i"), "f": words.cast("f"), "q": words.cast("q")}
        for table, width, start, columns in layout:
            kind = _KINDS[table.dtype]
            target, start, of_table = targets[kind], start // width, rows.get(table.name, ())
            for row in of_table if table.columns else [of_table]:
                target[start : start + len(row)] = array(kind, row)
                start += columns
        integers = torch.frombuffer(values, dtype=torch.int32)
        return torch.empty_like(integers, pin_memory=True).copy_(integers) if pinned else integers


@lru_cache
def _layout(shape: StepShape) -> tuple[list[tuple[Table, int, int, int]], "array[int]"]:
    """Returns width, start and number of columns of each table, and the integers of empty tables."""
    layout: list[tuple[Table, int, int, int]] = []
    values = array("i")
    for table in TABLES:
        columns = 1 if table.columns is None else getattr(shape, table.columns)
        layout.append((table, table.width, len(values), columns))
        values.extend([table.absent] * (shape.objects * columns * table.width))
        values.extend([0] * (-len(values) % ALIGNMENT))
    return layout, values

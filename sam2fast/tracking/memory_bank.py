"""Memories of a session in pools of pages, and the integer tables that say which object attends to which page."""

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
# Of so many frames an object's states stay in the pool: they are small, and moving one to the CPU takes a copy.
STATES_KEPT = 64


def bucket(count: int) -> int:
    """The smallest bucket that holds ``count``; beyond the largest its multiples."""
    return BUCKETS[bisect_left(BUCKETS, count)] if count <= BUCKETS[-1] else -(-count // BUCKETS[-1]) * BUCKETS[-1]


class AttendedPages(NamedTuple):
    """What one object attends to."""

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
    """Shapes of a model's memories, and where they are."""

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
    """Pools of pages: spatial memories ``(H * W, C_mem)``, and object pointers ``(C,)`` in fp32.

    Memories keep the dtype they are computed in. A third pool has a strategy's states in fp64, if it keeps any.

    Args:
        layout: of the model's memories.
        approximations: of the session.
        fp8: whether memory attention scores are computed in fp8.
        strategy: of the session.
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
        self.page_shape = math.prod(layout.size), layout.channels

    def emptied(self) -> "MemoryBank":
        """A new bank without pages, with the same settings."""
        return MemoryBank(self.layout, self.approximations, self.fp8, self.strategy)

    @property
    def pools(self) -> tuple[PagePool | None, PagePool, PagePool | None]:
        """Of memories, pointers and states."""
        return self.memories, self.pointers, self.states

    def begin_step(self) -> None:
        """Pages that this step neither reads nor writes may be archived."""
        self.pending.begin_step()
        for pool in self.pools:
            if pool is not None:
                pool.begin_step()

    def write_memories(self, memories: Tensor) -> list[Page]:
        """Pages for ``memories (B, C_mem, H, W)``."""
        return self.begin_memories(memories.dtype).write(as_pages(memories))

    def begin_memories(self, dtype: torch.dtype) -> PagePool:
        """The pool of memories; made if there is none."""
        if self.memories is None:
            self.memories = PagePool(self.page_shape, dtype, self.layout.device, self.pending)
        return self.memories

    def write_pointers(self, pointers: Tensor) -> list[Page]:
        """Pages for ``pointers (B, C)``."""
        return self.pointers.write(pointers)

    def write_states(self, states: Tensor) -> list[Page | None]:
        """Pages for ``states (B, state_size)``; None where nothing is kept."""
        return [None] * len(states) if self.states is None else list(self.states.write(states))

    def read_memory(self, memory: Page) -> Tensor:
        """A copy ``(1, C_mem, H, W)``."""
        assert self.memories is not None
        return self.memories.read(memory).t().unflatten(1, self.layout.size)[None]

    def shape_of(self, objects: Sequence[AttendedPages], rules: MemoryRules, in_buckets: bool) -> "StepShape":
        """Capacities for these objects; the number of rows is a bucket, or exactly theirs."""
        conditioning, rows = bucket(max(o.conditioning for o in objects)), len(objects)
        if in_buckets:
            each = self.strategy.hypotheses
            rows = each * bucket(rows // each)
        return self.capacity(rows, conditioning, rules)

    def capacity(self, objects: int, conditioning: int, rules: MemoryRules) -> "StepShape":
        """Capacities for so many objects with so many conditioning frames each."""
        others = objects if self.strategy.sees_others else 0
        return StepShape(objects, rules.recent + conditioning, rules.max_pointers - 1 + conditioning, others)

    def reserve(self, shape: "StepShape") -> None:
        """Makes room for a step of this shape: the pages that its objects read, and one more each to be written."""
        rows = bucket(shape.objects)
        if self.memories is not None:
            self.memories.reserve(rows * (shape.memories + 1))
        self.pointers.reserve(rows * (shape.pointers + 1))
        if self.states is not None:
            self.states.reserve(STATES_KEPT * rows)

    def attended_rows(self, objects: Sequence[AttendedPages]) -> "Rows":
        """What the tables say of the pages that objects attend to; rows of the pools are valid until the next step."""
        weights = [o.factors for o in objects if o.factors is not None]  # of all or none
        return {
            "page_table": [] if self.memories is None else [self.memories.rows(o.pages) for o in objects],
            "page_time": [o.times for o in objects],
            "page_factor": [of_memories for of_memories, _ in weights],
            "pointer_table": [self.pointers.rows(o.pointers) for o in objects],
            "distance": [o.distances for o in objects],
            "pointer_factor": [of_pointers for _, of_pointers in weights],
            "span": [o.span for o in objects],
            "read_states": [] if self.states is None else _row_of_each(self.states, [o.state for o in objects]),
        }

    def allocate(self, count: int) -> tuple[list[Page], list[Page], list[Page], "Rows"]:
        """New pages of so many memories, pointers and states, none where there is no pool; and what the tables say."""
        memories, pointers, states = ([] if pool is None else pool.allocate(count) for pool in self.pools)
        written = {"written_pages": memories, "written_pointers": pointers, "written_states": states}
        return memories, pointers, states, {name: [page.row for page in pages] for name, pages in written.items()}


def _row_of_each(pool: PagePool, pages: Sequence[Page | None]) -> list[int]:
    """The rows of pages of a pool; -1 where there is none."""
    rows = iter(pool.rows(page for page in pages if page is not None))
    return [-1 if page is None else next(rows) for page in pages]


def select_states(states: Tensor, rows: Tensor) -> Tensor:
    """The rows ``(B,)`` of ``states (n, state_size)``; zeros where a row is -1."""
    return torch.where((rows >= 0)[:, None], states.index_select(0, rows.clamp(min=0)), 0.0)


def as_pages(maps: Tensor) -> Tensor:
    """``maps (B, C, H, W)`` as ``(B, H * W, C)``."""
    return maps.flatten(2).transpose(1, 2)


class StepShape(NamedTuple):
    """Capacities of a step, which the shapes of its tensors follow from."""

    objects: int
    memories: int  # of each object
    pointers: int
    others: int  # that each object is compared with


class Table(NamedTuple):
    """One table of a step, with a row for each of C objects."""

    name: str
    columns: str | None  # as many as a :class:`StepShape` says; None for one number
    dtype: torch.dtype
    absent: int  # where there is nothing


TABLES = (
    Table("page_table", "memories", torch.int32, -1),
    Table("page_time", "memories", torch.int32, 0),
    Table("page_factor", "memories", torch.float32, 0),
    Table("pointer_table", "pointers", torch.int32, -1),
    Table("distance", "pointers", torch.float32, 0),
    Table("pointer_factor", "pointers", torch.float32, 0),
    Table("span", None, torch.int32, 0),
    Table("read_states", None, torch.int32, -1),
    Table("written_pages", None, torch.int32, 0),
    Table("written_pointers", None, torch.int32, 0),
    Table("written_states", None, torch.int32, 0),
    Table("pairs", "others", torch.int32, 0),
)
# By a table's name, for each of the first objects: a list of its first columns, or a number.
Rows = Mapping[str, Sequence[Any]]


class StepTables(NamedTuple):
    """The :data:`TABLES` of a step: views of one int32 tensor."""

    page_table: Tensor  # (C, K) rows of the pool of memories
    page_time: Tensor  # (C, K) rows of maskmem_tpos_enc
    page_factor: Tensor  # (C, K) of keys
    pointer_table: Tensor  # (C, P) rows of the pool of pointers
    distance: Tensor  # (C, P) frames from the current one to each pointer's
    pointer_factor: Tensor  # (C, P) of keys
    span: Tensor  # (C,) what an object's distances are divided by; 0 for the model's
    read_states: Tensor  # (C,) rows of the pool of states
    written_pages: Tensor  # (C,) rows for the new memories
    written_pointers: Tensor  # (C,)
    written_states: Tensor  # (C,)
    pairs: Tensor  # (C, C) see :func:`~sam2fast.tracking.shared_prompts.pairs_of`; (C, 0) if objects are not compared

    @classmethod
    def size(cls, shape: StepShape) -> int:
        """How many integers the tables have."""
        return len(_layout(shape)[1])

    @classmethod
    def views(cls, integers: Tensor, shape: StepShape) -> "StepTables":
        """The tables in ``integers (size,)`` int32."""
        made = {}
        for table, start, columns in _layout(shape)[0]:
            view = integers[start : start + shape.objects * columns].view(table.dtype)
            made[table.name] = view if table.columns is None else view.view(shape.objects, columns)
        return cls(**made)

    @classmethod
    def integers(cls, shape: StepShape, rows: Rows, pinned: bool = False) -> Tensor:
        """The integers on the CPU that :meth:`views` are of.

        Args:
            rows: of the tables; what is missing is absent.
            pinned: in pinned memory, for a copy to CUDA with ``non_blocking``. The caller may drop them at once, since
                torch reuses their memory only after the copy; it must not write to them again.
        """
        layout, absent = _layout(shape)
        values = absent[:]
        in_int32 = memoryview(values)
        in_fp32 = in_int32.cast("B").cast("f")
        for table, start, columns in layout:
            kind, target = ("f", in_fp32) if table.dtype is torch.float32 else ("i", in_int32)
            of_table = rows.get(table.name, ())
            for row in of_table if table.columns else [of_table]:
                target[start : start + len(row)] = array(kind, row)
                start += columns
        integers = torch.frombuffer(values, dtype=torch.int32)
        return torch.empty_like(integers, pin_memory=True).copy_(integers) if pinned else integers


@lru_cache
def _layout(shape: StepShape) -> tuple[list[tuple[Table, int, int]], "array[int]"]:
    """Where each table begins and how many columns it has, and the integers of tables where there is nothing."""
    layout: list[tuple[Table, int, int]] = []
    values = array("i")
    for table in TABLES:
        columns = 1 if table.columns is None else getattr(shape, table.columns)
        layout.append((table, len(values), columns))
        values.extend([table.absent] * (shape.objects * columns))
        values.extend([0] * (-len(values) % ALIGNMENT))
    return layout, values

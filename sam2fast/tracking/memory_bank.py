"""Stores a session's memories in pools of pages, and builds the tables of the pages that each object attends to."""

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

# Tables are padded to these numbers of objects and of conditioning frames, so that table shapes seldom change.
BUCKETS = (1, 2, 4, 8, 16, 32, 64)
# Alignment of tables in int32 values: Triton specializes kernels on addresses that are multiples of 16 bytes.
ALIGNMENT = 4
# Number of strategy states per object that stay in the pool. States are small, and moving each state to the CPU would
# be a separate copy.
STATES_KEPT = 64


def bucket(count: int) -> int:
    """Returns the smallest bucket of at least ``count``. Multiples of the largest bucket are also buckets."""
    return BUCKETS[bisect_left(BUCKETS, count)] if count <= BUCKETS[-1] else -(-count // BUCKETS[-1]) * BUCKETS[-1]


class AttendedPages(NamedTuple):
    """Stores the pages that one object attends to."""

    pages: list[Page]  # pages of memories
    times: list[int]  # AttendedMemory.page_time of each page
    pointers: list[Page]  # pages of pointers
    distances: list[int]  # temporal distance of each pointer in frames
    conditioning: int  # upper bound on the number of conditioning frames, for the width of the tables
    span: int = 0  # normalizer of distances; 0: the model's normalizer, from the video's length
    state: Page | None = None  # the strategy's state of the object
    factors: tuple[list[float], list[float]] | None = None  # factors of attention keys, per page and per pointer


@dataclass(frozen=True)
class MemoryLayout:
    """Stores the shapes and the device of a model's memories."""

    device: torch.device
    image_size: int
    mask: tuple[int, int]  # (h, w) of low-resolution masks
    size: tuple[int, int]  # (H, W) of a spatial memory
    channels: int  # number of channels C_mem of a spatial memory
    pointer: int  # number of channels C of an object pointer

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

    Memories are stored in the memory encoder's output dtype. If the strategy keeps states, a third pool stores the
    states in fp64.

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
        self.memories: PagePool | None = None  # created with the dtype of the first memory
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
        """Begins a step. Pages that this step neither reads nor writes may be archived."""
        self.pending.begin_step()
        for pool in self.pools:
            if pool is not None:
                pool.begin_step()

    def write_memories(self, memories: Tensor) -> list[Page]:
        """Stores ``memories (B, C_mem, H, W)`` in new pages."""
        return self.begin_memories(memories.dtype).write(as_pages(memories))

    def begin_memories(self, dtype: torch.dtype) -> PagePool:
        """Returns the pool of memories. Creates the pool on the first call."""
        if self.memories is None:
            self.memories = PagePool(self.page_shape, dtype, self.layout.device, self.pending)
            self.pools = self.memories, *self.pools[1:]
        return self.memories

    def write_pointers(self, pointers: Tensor) -> list[Page]:
        """Stores ``pointers (B, C)`` in new pages."""
        return self.pointers.write(pointers)

    def read_memory(self, memory: Page) -> Tensor:
        """Returns a copy ``(1, C_mem, H, W)`` of a memory."""
        assert self.memories is not None
        return self.memories.read(memory).t().unflatten(1, self.layout.size)[None]

    def shape_of(self, objects: Sequence[AttendedPages], rules: MemoryRules, in_buckets: bool) -> "StepShape":
        """Returns the capacities of a step. If ``in_buckets``, pads the number of objects to a bucket."""
        conditioning, rows = bucket(max(o.conditioning for o in objects)), len(objects)
        if in_buckets:
            per_object = self.strategy.hypotheses
            rows = per_object * bucket(rows // per_object)
        return self.capacity(rows, conditioning, rules)

    def capacity(self, objects: int, conditioning: int, rules: MemoryRules) -> "StepShape":
        """Returns the capacities of a step with ``objects`` rows and ``conditioning`` conditioning frames per row."""
        others = objects if self.strategy.sees_others else 0
        return StepShape(objects, rules.recent + conditioning, rules.max_pointers - 1 + conditioning, others)

    def reserve(self, shape: "StepShape") -> None:
        """Reserves the pages that a step of this shape reads, and one new page per object."""
        if self._reserved == (shape, self.memories):  # pools do not shrink
            return
        self._reserved, rows = (shape, self.memories), bucket(shape.objects)
        if self.memories is not None:
            self.memories.reserve(rows * (shape.memories + 1))
        self.pointers.reserve(rows * (shape.pointers + 1))
        if self.states is not None:
            self.states.reserve(STATES_KEPT * rows)

    def attended_rows(self, objects: Sequence[AttendedPages]) -> "Rows":
        """Returns table entries for the pages that objects attend to. The entries are valid until the next step."""
        weights = [o.factors for o in objects if o.factors is not None]  # either all objects or no objects have factors
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
        """Allocates ``count`` pages each of memories, pointers and states. Returns pages and table entries."""
        memories, pointers, states = ([] if pool is None else pool.allocate(count) for pool in self.pools)
        written = {"written_pages": memories, "written_pointers": pointers, "written_states": states}
        return memories, pointers, states, {name: [page.row for page in pages] for name, pages in written.items()}


def _row_of_each(pool: PagePool, pages: Sequence[Page | None]) -> list[int]:
    """Returns the pool's row of each page, and -1 for None."""
    rows = iter(pool.rows(page for page in pages if page is not None))
    return [-1 if page is None else next(rows) for page in pages]


def select_states(states: Tensor, rows: Tensor) -> Tensor:
    """Selects ``rows (B,)`` of ``states (n, state_size)``. The index -1 selects zeros."""
    return torch.where((rows >= 0)[:, None], states.index_select(0, rows.clamp(min=0)), 0.0)


def as_pages(maps: Tensor) -> Tensor:
    """Converts feature maps ``(B, C, H, W)`` to pages ``(B, H * W, C)``."""
    return maps.flatten(2).transpose(1, 2)


class StepShape(NamedTuple):
    """Stores the capacities of a step. The capacities determine the shapes of the step's tensors."""

    objects: int  # number of table rows, including padding
    memories: int  # per object
    pointers: int  # per object
    others: int  # number of objects that each object is compared with


class Table(NamedTuple):
    """Describes one table of a step, with a row for each of C objects."""

    name: str
    columns: str | None  # field of :class:`StepShape` with the number of columns; None for a single value per row
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
# Type codes of Python's ``array`` for the dtypes of tables.
_KINDS = {torch.int32: "i", torch.float32: "f", torch.int64: "q"}
# Maps a table's name to one entry per object: a list for the first columns, or a number. Other table cells are padding.
Rows = Mapping[str, Sequence[Any]]


class StepTables(NamedTuple):
    """Stores the :data:`TABLES` of a step, as views of one int32 tensor."""

    page_table: Tensor  # (C, K) rows of the pool of memories; -1 for padding
    page_time: Tensor  # (C, K) rows of maskmem_tpos_enc
    page_factor: Tensor  # (C, K) factors of each page's attention keys
    pointer_table: Tensor  # (C, P) rows of the pool of pointers; 0 for padding
    pointer_valid: Tensor  # (C, P) 1 for pointers, 0 for padding
    distance: Tensor  # (C, P) distance in frames from the current frame to the pointer's frame
    pointer_factor: Tensor  # (C, P) factors of each pointer's attention keys
    span: Tensor  # (C,) normalizer of an object's distances; 0: the model's normalizer
    read_states: Tensor  # (C,) rows of the pool of states; -1 if the object has no state
    written_pages: Tensor  # (C,) rows for the new memories; int64, as index_copy_ requires
    written_pointers: Tensor  # (C,) rows for the new pointers
    written_states: Tensor  # (C,) rows for the new states
    pairs: Tensor  # (C, C) see :func:`~sam2fast.tracking.shared_prompts.pairs_of`; (C, 0) if objects are not compared

    @classmethod
    def views(cls, integers: Tensor, shape: StepShape) -> "StepTables":
        """Returns the tables as views of the int32 tensor that :meth:`integers` returned."""
        made = {}
        for table, width, start, columns in _layout(shape)[0]:
            view = integers[start : start + shape.objects * columns * width].view(table.dtype)
            made[table.name] = view if table.columns is None else view.view(shape.objects, columns)
        return cls(**made)

    @classmethod
    def integers(cls, shape: StepShape, rows: Rows, pinned: bool = False) -> Tensor:
        """Packs all tables in one int32 tensor on the CPU. :meth:`views` unpacks the tensor.

        Args:
            rows: Entries of the tables. Missing entries are filled with :attr:`Table.absent`.
            pinned: If True, uses pinned memory, for a copy to CUDA with ``non_blocking=True``. The caller may free the
                tensor after starting the copy, since torch reuses the tensor's memory only after the copy. The caller
                must not write to the tensor.
        """
        layout, absent = _layout(shape)
        values = absent[:]
        words = memoryview(values).cast("B")
        targets: dict[str, Any] = {"i": words.cast("i"), "f": words.cast("f"), "q": words.cast("q")}
        for table, width, start, columns in layout:
            code = _KINDS[table.dtype]
            target, start, of_table = targets[code], start // width, rows.get(table.name, ())
            for row in of_table if table.columns else [of_table]:
                target[start : start + len(row)] = array(code, row)
                start += columns
        integers = torch.frombuffer(values, dtype=torch.int32)
        return torch.empty_like(integers, pin_memory=True).copy_(integers) if pinned else integers


@lru_cache
def _layout(shape: StepShape) -> tuple[list[tuple[Table, int, int, int]], "array[int]"]:
    """Returns a list of tables, each with width, start and number of columns; and the int32 values of empty tables."""
    layout: list[tuple[Table, int, int, int]] = []
    values = array("i")
    for table in TABLES:
        columns = 1 if table.columns is None else getattr(shape, table.columns)
        layout.append((table, table.width, len(values), columns))
        values.extend([table.absent] * (shape.objects * columns * table.width))
        values.extend([0] * (-len(values) % ALIGNMENT))
    return layout, values

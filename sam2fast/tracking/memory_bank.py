"""The memories of all objects of a video, and the tables that say who attends to which."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.kernels.memory_attention import MEANS, AttendedMemory
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.tracking.approximations import EXACT, Approximations
from sam2fast.tracking.arrivals import Arrivals
from sam2fast.tracking.fp8_scores import fp8_scores
from sam2fast.tracking.page_pool import Page, PagePool
from sam2fast.tracking.saved_checks import Shapes
from sam2fast.tracking.step_tables import StepShape, StepTables, fill_rows

# Numbers of objects and of conditioning frames that tables are made for, so that shapes seldom change.
BUCKETS = (1, 2, 4, 8, 16, 32, 64)


def bucket(count: int) -> int:
    """The smallest bucket that holds ``count``; beyond the largest its multiples."""
    return next((size for size in BUCKETS if size >= count), -(-count // BUCKETS[-1]) * BUCKETS[-1])


# The pages of a spatial memory: one with the whole map. Where memories are pooled, one with its means of 2x2 tokens;
# behind it, if it is a prompt's, the four quarters of the map, to be attended to as that of a conditioning frame.
Memory: TypeAlias = tuple[Page, ...]


class AttendedPages(NamedTuple):
    """What one object attends to."""

    memories: list[tuple[Page, int]]  # and what is in AttendedMemory.page_time
    pointers: list[tuple[Page, int]]  # and the distance in frames
    conditioning: int  # how many conditioning frames may be among them, besides the recent frames


class MemoryBank:
    """Two pools of pages: spatial memories ``(H * W, C_mem)``, and object pointers ``(C,)`` in fp32.

    Memories are kept in the dtype they are computed in. Where they are pooled, pages have a quarter of the positions.

    Args:
        model: whose memories they are.
        approximations: of the session that these are the memories of; by default those of the model, if it has any.
    """

    def __init__(self, model: SAM2Base, approximations: Approximations | None = None) -> None:
        side = model.sam_image_embedding_size
        self.model = model
        if approximations is None:
            approximations = getattr(model, "approximations", EXACT)
        self.approximations: Approximations = approximations
        self.fp8 = fp8_scores(model, approximations)
        self.arrivals = Arrivals()
        self.memories: PagePool | None = None  # their dtype shows with the first one
        self.pointers = PagePool((model.hidden_dim,), torch.float32, model.device, self.arrivals)
        self._memory_shape = (side * side // (MEANS if self.is_pooled else 1), model.mem_dim)

    def begin_step(self) -> None:
        """Pages that this step neither reads nor writes may be archived."""
        self.arrivals.begin_step()
        self.pointers.begin_step()
        if self.memories is not None:
            self.memories.begin_step()

    @property
    def shapes(self) -> Shapes:
        """Of what is kept of each frame."""
        pages = (1, 1 + MEANS) if self.is_pooled else (1,)
        low_res = self.model.sam_prompt_encoder.mask_input_size
        return Shapes(self.model.image_size, low_res, self.model.hidden_dim, self._memory_shape, pages)

    @property
    def is_pooled(self) -> bool:
        """Whether pages are quarters and means."""
        return self.approximations.pooled_memory

    def write_memories(self, memories: Tensor, from_prompt: bool) -> list[Memory]:
        """Pages for ``memories (B, C_mem, H, W)``."""
        pool = self.begin_memories(memories.dtype)
        pages = pool.write(as_pages(memories, self._memory_shape[0]))
        if not (self.is_pooled and from_prompt):
            return [(page,) for page in pages]
        quarters = pool.write(memories.flatten(2).transpose(1, 2).reshape(-1, *self._memory_shape))
        return [(page, *quarters[MEANS * i : MEANS * (i + 1)]) for i, page in enumerate(pages)]

    def begin_memories(self, dtype: torch.dtype) -> PagePool:
        """The pool of memories, made if there have been none."""
        if self.memories is None:
            self.memories = PagePool(self._memory_shape, dtype, self.model.device, self.arrivals)
        return self.memories

    def write_pointers(self, pointers: Tensor) -> list[Page]:
        """Pages for ``pointers (B, C)``."""
        return self.pointers.write(pointers)

    def read_memory(self, memory: Memory) -> Tensor:
        """A copy ``(1, C_mem, H, W)``; means stand where the tokens did that they are of."""
        assert self.memories is not None
        side = self.model.sam_image_embedding_size
        if self.is_pooled and len(memory) == 1:
            means = self.memories.read(memory[0]).t().unflatten(1, (side // 2, side // 2))[None]
            return means.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        pages = [self.memories.read(page) for page in memory[1:] or memory]
        tokens = pages[0] if len(pages) == 1 else torch.cat([page.to(self.model.device) for page in pages])
        return tokens.t().unflatten(1, (side, side))[None]

    def pages_to_attend(self, memory: Memory, time: int, conditioning: bool) -> list[tuple[Page, int]]:
        """What attending to a memory reads, each page with its ``AttendedMemory.page_time``.

        Args:
            time: row of ``maskmem_tpos_enc``.
            conditioning: attended to as that of a conditioning frame.
        """
        if not self.is_pooled:
            return [(memory[0], time)]
        rows = self.model.num_maskmem
        if conditioning and len(memory) > 1:
            return [(page, rows * quarter + time) for quarter, page in enumerate(memory[1:])]
        return [(memory[0], rows * MEANS + time)]

    @property
    def recent(self) -> int:
        """How many pages of recent frames an object attends to, at most."""
        slots = self.approximations.memory_slots
        return (self.model.num_maskmem if slots is None else slots) - 1

    @property
    def pages_of_conditioning(self) -> int:
        """How many pages attending to a conditioning frame reads."""
        return MEANS if self.is_pooled else 1

    def attended(self, objects: Sequence[AttendedPages], num_frames: int) -> AttendedMemory:
        """What these objects attend to, in their order, in tables sized by buckets of what they may hold.

        Where parts are compiled for CUDA the number of rows is a bucket too, and the rows beyond the objects attend to
        nothing. Elsewhere nothing is made here that a new shape would spoil, and idle rows would only cost time.
        """
        assert self.memories is not None
        shape = self.shape_of(objects, in_buckets=self.model.device.type == "cuda" and _is_compiled(self.model))
        self.reserve(shape)
        integers, tables = StepTables.blank(shape, pinned=self.memories.data.is_cuda)
        self.fill(tables, objects)
        on_device = integers.to(self.memories.data.device, non_blocking=True)
        tables = StepTables.views(on_device, shape)
        return attended_by_tables(self.model, self.memories.data, self.pointers.data, tables, num_frames)

    def shape_of(self, objects: Sequence[AttendedPages], in_buckets: bool) -> StepShape:
        """Capacities for these objects; the number of rows a bucket, or what they are."""
        conditioning = bucket(max(o.conditioning for o in objects))
        rows = bucket(len(objects)) if in_buckets else len(objects)
        memories = self.recent + self.pages_of_conditioning * conditioning
        return StepShape(rows, memories, self.model.max_obj_ptrs_in_encoder - 1 + conditioning)

    def reserve(self, shape: StepShape) -> None:
        """Makes room for a step of this shape: what its objects read, and a page each to be written."""
        assert self.memories is not None
        rows = bucket(shape.objects)
        self.memories.reserve(rows * (shape.memories + 1))
        self.pointers.reserve(rows * (shape.pointers + 1))

    def fill(self, tables: StepTables, objects: Sequence[AttendedPages]) -> None:
        """Writes what the objects attend to into tables on the CPU; rows of the pools are valid until the next step."""
        assert self.memories is not None
        fill_rows(tables.page_table, [self.memories.rows(page for page, _ in o.memories) for o in objects])
        fill_rows(tables.page_time, [[time for _, time in o.memories] for o in objects])
        fill_rows(tables.pointer_table, [self.pointers.rows(page for page, _ in o.pointers) for o in objects])
        fill_rows(tables.distance, [[distance for _, distance in o.pointers] for o in objects])


def _is_compiled(model: SAM2Base) -> bool:
    """Whether a part that computes all objects together is compiled for each number of them, or may be.

    By :func:`sam2fast.deploy.compilation.compile_model`; as the original's predictor for speed does it,
    ``part.forward = torch.compile(part.forward)``; by ``part.compile()``; or as a
    whole, for torch's own module has such a forward.
    """
    parts = (model.memory_attention, model.sam_mask_decoder, model.memory_encoder)
    names = ("forward", "attend", "_compiled_call_impl")
    return any(vars(part).get(name) is not None for part in parts for name in names)


def as_pages(maps: Tensor, positions: int) -> Tensor:
    """``maps (B, C, H, W)`` as ``(B, positions, C)``: all tokens, or the means of 2x2 if there is room for those."""
    if positions != maps.shape[2] * maps.shape[3]:
        maps = F.avg_pool2d(maps, 2)
    return maps.flatten(2).transpose(1, 2)


def attended_by_tables(
    model: SAM2Base, pages: Tensor, pointers: Tensor, tables: StepTables, num_frames: int
) -> AttendedMemory:
    """What tables on the device say of the pools there; nothing is read back.

    Args:
        pages: ``(rows, n, C_mem)`` of the pool of memories.
        pointers: ``(rows, C)`` of the pool of pointers.
        num_frames: length of the video.
    """
    return attended_memory(
        model,
        pages,
        tables.page_table,
        tables.page_time,
        pointers[tables.pointer_table.clamp(min=0).long()],
        tables.distance.float(),
        tables.pointer_table >= 0,
        num_frames,
    )


def attended_memory(
    model: SAM2Base,
    pages: Tensor,
    page_table: Tensor,
    page_time: Tensor,
    pointers: Tensor,
    distance: Tensor,
    valid: Tensor,
    num_frames: int,
) -> AttendedMemory:
    """Adds the model's encodings of space and time to memories and pointers.

    Args:
        pages, page_table, page_time: see :class:`AttendedMemory`.
        pointers: ``(B, P, C)``.
        distance: ``(B, P)`` frames from the current one to each pointer's.
        valid: ``(B, P)`` bool.
        num_frames: length of the video.
    """
    side, m = model.sam_image_embedding_size, model.mem_dim
    B, P, C = pointers.shape
    position = model.memory_encoder.position_encoding(pages.new_zeros(1, m, side, side))
    places = as_pages(position, side * side)[0]
    if pages.shape[1] != side * side:
        places = torch.cat([places, as_pages(position, pages.shape[1])[0]])
    encoding = model._encode_pointer_distances(distance, num_frames)
    # A pointer is wider than a memory token and becomes several, with the same encoding.
    split = C // m
    return AttendedMemory(
        pages=pages,
        page_table=page_table,
        page_time=page_time,
        position_encoding=places,
        time_encoding=model.maskmem_tpos_enc[:, 0, 0],
        pointers=pointers.reshape(B, P * split, m),
        pointer_encoding=encoding.repeat_interleave(split, dim=1).to(pointers.dtype),
        pointer_valid=valid.repeat_interleave(split, dim=1),
    )

"""The memories of all objects of a video, and the tables that say who attends to which."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sam2fast.kernels.memory_attention import AttendedMemory
from sam2fast.modeling.position_encoding import sine_1d
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.tracking.arrivals import Arrivals
from sam2fast.tracking.page_pool import Page, PagePool
from sam2fast.tracking.step_tables import StepShape, StepTables, fill_rows

# Numbers of objects and of conditioning frames that tables are made for, so that shapes seldom change.
BUCKETS = (1, 2, 4, 8, 16, 32, 64)


def bucket(count: int) -> int:
    """The smallest bucket that holds ``count``; beyond the largest its multiples."""
    return next((size for size in BUCKETS if size >= count), -(-count // BUCKETS[-1]) * BUCKETS[-1])


class AttendedPages(NamedTuple):
    """What one object attends to."""

    memories: list[tuple[Page, int]]  # and the row of maskmem_tpos_enc
    pointers: list[tuple[Page, int]]  # and the distance in frames
    conditioning: int  # how many conditioning frames may be among them, besides the recent frames


class MemoryBank:
    """Two pools of pages: spatial memories ``(H * W, C_mem)``, and object pointers ``(C,)`` in fp32.

    Memories are kept in the dtype they are computed in.

    Args:
        model: whose memories they are.
    """

    def __init__(self, model: SAM2Base) -> None:
        side = model.sam_image_embedding_size
        self.model = model
        self.arrivals = Arrivals()
        self.memories: PagePool | None = None  # their dtype shows with the first one
        self.pointers = PagePool((model.hidden_dim,), torch.float32, model.device, self.arrivals)
        self._memory_shape = (side * side, model.mem_dim)

    def begin_step(self) -> None:
        """Pages that this step neither reads nor writes may be archived."""
        self.arrivals.begin_step()
        self.pointers.begin_step()
        if self.memories is not None:
            self.memories.begin_step()

    def write_memories(self, memories: Tensor) -> list[Page]:
        """Pages for ``memories (B, C_mem, H, W)``."""
        return self.begin_memories(memories.dtype).write(memories.flatten(2).transpose(1, 2))

    def begin_memories(self, dtype: torch.dtype) -> PagePool:
        """The pool of memories, made if there have been none."""
        if self.memories is None:
            self.memories = PagePool(self._memory_shape, dtype, self.model.device, self.arrivals)
        return self.memories

    def write_pointers(self, pointers: Tensor) -> list[Page]:
        """Pages for ``pointers (B, C)``."""
        return self.pointers.write(pointers)

    def read_memory(self, page: Page) -> Tensor:
        """A copy ``(1, C_mem, H, W)``."""
        assert self.memories is not None
        side = self.model.sam_image_embedding_size
        return self.memories.read(page).t().unflatten(1, (side, side))[None]

    def attended(self, objects: Sequence[AttendedPages], num_frames: int) -> AttendedMemory:
        """What these objects attend to, in their order, in tables sized by buckets of what they may hold.

        On CUDA the number of rows is a bucket too, and the rows beyond the objects attend to nothing. Elsewhere nothing
        is recorded that a new shape would spoil, and idle rows would only cost time.
        """
        assert self.memories is not None
        shape = self.shape_of(objects, in_buckets=self.model.device.type == "cuda")
        self.reserve(shape)
        integers, tables = StepTables.blank(shape)
        self.fill(tables, objects)
        on_device = integers.to(self.memories.data.device, non_blocking=True)
        return self.attended_by(StepTables.views(on_device, shape), num_frames)

    def shape_of(self, objects: Sequence[AttendedPages], in_buckets: bool) -> StepShape:
        """Capacities for these objects; the number of rows a bucket, or what they are."""
        conditioning = bucket(max(o.conditioning for o in objects))
        rows = bucket(len(objects)) if in_buckets else len(objects)
        recent, pointers = self.model.num_maskmem - 1, self.model.max_obj_ptrs_in_encoder - 1
        return StepShape(rows, recent + conditioning, pointers + conditioning)

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

    def attended_by(self, tables: StepTables, num_frames: int) -> AttendedMemory:
        """What tables on the device say; nothing is read back from there."""
        assert self.memories is not None
        return attended_memory(
            self.model,
            self.memories.data,
            tables.page_table,
            tables.page_time,
            self.pointers.data[tables.pointer_table.clamp(min=0).long()],
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
    encoding = pointers.new_zeros(B, P, m)
    if model.add_tpos_enc_to_obj_ptrs:
        # At least 1: in a video of one frame the original divides by zero.
        longest = max(1, min(num_frames, model.max_obj_ptrs_in_encoder) - 1)
        width = C if model.proj_tpos_enc_in_obj_ptrs else m
        encoding = model.obj_ptr_tpos_proj(sine_1d(distance / longest, width))
    # A pointer is wider than a memory token and becomes several, with the same encoding.
    split = C // m
    return AttendedMemory(
        pages=pages,
        page_table=page_table,
        page_time=page_time,
        position_encoding=position[0].flatten(1).t(),
        time_encoding=model.maskmem_tpos_enc[:, 0, 0],
        pointers=pointers.reshape(B, P * split, m),
        pointer_encoding=encoding.repeat_interleave(split, dim=1).to(pointers.dtype),
        pointer_valid=valid.repeat_interleave(split, dim=1),
    )

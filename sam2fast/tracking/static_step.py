"""One step of tracking on tensors that stay where they are: no allocation outside, nothing read back."""

from typing import NamedTuple

import torch
from torch import Tensor

from sam2fast.kernels.memory_attention import Fp8
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.tracking import steps
from sam2fast.tracking.features import FrameFeatures
from sam2fast.tracking.memory_bank import as_pages, attended_by_tables
from sam2fast.tracking.step_tables import StepShape, StepTables


class StepBuffers(NamedTuple):
    """What steps of one shape read, besides the pools, and what they leave."""

    features: FrameFeatures
    integers: Tensor  # the tables' (size,) int32
    tables: StepTables  # views of them
    masks: Tensor  # (C, 1, h, w) fp32, holes filled
    ious: Tensor  # (C, 1) fp32
    scores: Tensor  # (C, 1) fp32

    @classmethod
    def make(cls, model: SAM2Base, features: FrameFeatures, shape: StepShape) -> "StepBuffers":
        device, side = model.device, 4 * model.sam_image_embedding_size
        integers = StepTables.blank(shape)[0].to(device)
        return cls(
            features,
            integers,
            StepTables.views(integers, shape),
            torch.zeros(shape.objects, 1, side, side, device=device),
            torch.zeros(shape.objects, 1, device=device),
            torch.zeros(shape.objects, 1, device=device),
        )


class NarrowPagesError(Exception):
    """The pages would round the memories that are to be written.

    Attributes:
        dtype: of the memories.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__(f"memories are {dtype}")
        self.dtype = dtype


class Pools(NamedTuple):
    """The tensors of a memory bank."""

    pages: Tensor  # (rows, H * W, C_mem), or a quarter of the positions
    pointers: Tensor  # (rows, C) fp32


def static_step(
    model: SAM2Base, pools: Pools, buffers: StepBuffers, num_frames: int, fill_hole_area: float, fp8: Fp8 = False
) -> None:
    """Tracks the objects that the tables name; rows beyond them are computed too, and write where tables say.

    Args:
        num_frames: length of the video; it counts below ``max_obj_ptrs_in_encoder`` only.
        fill_hole_area: see :func:`fill_holes_in_mask_scores`; 0 for none.
        fp8: see :func:`sam2fast.kernels.memory_attention.memory_attention`.

    Raises:
        NarrowPagesError: nothing of the pools has been written then.
    """
    tables, features = buffers.tables, buffers.features
    memory = attended_by_tables(model, pools.pages, pools.pointers, tables, num_frames)
    prediction = steps.predict(model, features, memory, initial=False, fp8=fp8)
    # The memory sees the mask before its holes are filled.
    memories = steps.encode(model, features, prediction.mask, prediction.score, from_prompt=False)
    if torch.promote_types(memories.dtype, pools.pages.dtype) != pools.pages.dtype:
        raise NarrowPagesError(memories.dtype)
    pages = as_pages(memories, pools.pages.shape[1])
    pools.pages.index_copy_(0, tables.written_pages.long(), pages.to(pools.pages.dtype))
    pools.pointers.index_copy_(0, tables.written_pointers.long(), prediction.pointer.to(pools.pointers.dtype))
    buffers.masks.copy_(steps.filled(prediction.mask, fill_hole_area))
    buffers.ious.copy_(prediction.iou)
    buffers.scores.copy_(prediction.score)

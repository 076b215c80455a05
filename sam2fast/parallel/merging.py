"""Joins what several processes found of one video."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sam2fast.kernels.mask_ops import pack_masks, suppress_overlaps, unpack_masks, upsample_masks

if TYPE_CHECKING:
    from sam2fast.tracking.outputs import Output
    from sam2fast.tracking.saved_state import PackedState


def join(ids: Sequence[Sequence[Any]], parts: Sequence[np.ndarray], order: Sequence[Any]) -> Tensor:
    """Rows of several arrays, each of whose rows are the objects ``ids``, in the order of all objects."""
    place = {obj_id: row for row, obj_id in enumerate(i for each in ids for i in each)}
    rows = np.concatenate(parts)[[place[obj_id] for obj_id in order]]
    return torch.from_numpy(rows)


def returned(masks: Tensor, output: "Output", size: tuple[int, int], settle_overlaps: bool) -> Tensor:
    """Masks in the form that was asked for, as a predictor returns them.

    Args:
        masks: ``(N, 1, h, w)`` logits of any size; or, unless overlaps are to be settled, packed bits
            ``(N, 1, H, ceil(W / 8))`` for ``bool`` and ``bits``.
        size: (H, W) of the video.
        settle_overlaps: at each pixel only the object with the largest logit keeps it.
    """
    if output == "low_res" or masks.dtype == torch.uint8:
        return unpack_masks(masks, size[1]) if output == "bool" else masks
    if masks.shape[-2:] != size:
        masks = upsample_masks(masks, size)
    if settle_overlaps and len(masks):
        masks = suppress_overlaps(masks)
    if output == "logits":
        return masks
    return masks > 0 if output == "bool" else pack_masks(masks > 0)


def merged_state(parts: Sequence["PackedState"], order: Sequence[Any]) -> "PackedState":
    """One saved state with the objects of several, which are of the same video and the same model.

    Args:
        order: the ids of all objects, as they were first seen.
    """
    facts = dict(parts[0].facts)
    dtypes = [part.facts["memory_dtype"] for part in parts if part.facts["memory_dtype"] is not None]
    # Once there were others than the narrowest, all are computed with as those are.
    facts["memory_dtype"] = max(dtypes, key=lambda name: getattr(torch, name).itemsize, default=None)
    objects, tensors = [], {}
    found = {entry["id"]: (part, number, entry) for part in parts for number, entry in enumerate(part.facts["objects"])}
    for target, obj_id in enumerate(order):
        part, number, entry = found[obj_id]
        objects.append(entry)
        prefix = f"{number}."
        for name, tensor in part.tensors.items():
            if name.startswith(prefix):
                tensors[f"{target}.{name.removeprefix(prefix)}"] = tensor
    return parts[0]._replace(facts={**facts, "objects": objects}, tensors=tensors)

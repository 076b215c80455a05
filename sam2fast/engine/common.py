"""Computes what ``cpu`` and ``static`` share: the neck, the choice among masks, prompts and pointers of objects."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.engine.memory_plan import MemorySettings
from sam2fast.engine.plan import Conv, EncoderPlan, Level, Linear, MaskPlan, Norm, ScaledLevel
from sam2fast.kernels.choose_masks import choose_masks
from sam2fast.kernels.embed_patches import WHITE
from sam2fast.kernels.mask_ops import upsample_masks
from sam2fast.kernels.preprocess import resize_and_normalise
from sam2fast.modeling.sam2_base import NO_OBJ_SCORE, HypothesisSelection, ObjectPrediction, gather_chosen

# Function of a layer's number and the arguments of memory_attention.
AttendHook = Callable[..., None]
# High-resolution features, finest first.
Maps = Sequence[Tensor]
# point_coords (B, N, 2) in input pixels and point_labels (B, N), or None for one padding point in each prompt.
Clicks = dict[str, Tensor] | None
# Coordinates (B, N, 2) in input pixels, and labels (B, N).
Points = tuple[Tensor, Tensor]


class Masks(NamedTuple):
    """Stores the decoder's predictions for B prompts."""

    masks: Tensor  # (B, M, 4H, 4W) fp32 logits
    ious: Tensor  # (B, M)
    tokens: Tensor  # (B, M or 1, C), for object pointers
    scores: Tensor  # (B, 1) logits of the objects' presence


def by_head(heads: int, *tensors: Tensor) -> list[Tensor]:
    """Returns each tensor ``(B, N, heads * d)`` as ``(B, heads, N, d)``."""
    return [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in tensors]


def repeated(tokens: Tensor, times: int) -> Tensor:
    """Returns each token of ``(B, P, C)`` ``times`` times in a row."""
    return tokens[:, :, None].expand(-1, -1, times, -1).flatten(1, 2)


def add_into(fresh: Tensor, x: Tensor) -> Tensor:
    """Returns ``fresh + x``, in place if ``fresh`` has the dtype of the sum. Nothing else may use ``fresh``."""
    return fresh.add_(x) if fresh.dtype == torch.promote_types(fresh.dtype, x.dtype) else fresh + x


# ---- image ----


class Pixels(NamedTuple):
    """Stores images that are not normalized yet."""

    values: Tensor  # (B, S, S, 3) uint8
    mean: Sequence[float]  # of values divided by 255
    std: Sequence[float]


def normalized(images: Tensor | Pixels) -> Tensor:
    """Returns normalized images ``(B, 3, S, S)``."""
    if isinstance(images, Tensor):
        return images
    values, mean, std = images
    return resize_and_normalise(values, (values.shape[1], values.shape[2]), mean, std, WHITE)


def neck(
    plan: EncoderPlan,
    levels: Sequence[Level],
    direct: Sequence[Linear | None],
    maps: Sequence[Tensor],
    project: Callable[[Tensor, Linear], Tensor],
    one: Tensor | None = None,
) -> list[Tensor]:
    """Computes the levels ``(B, C_i, H_i, W_i)`` from the stages' maps ``(B, H_i, W_i, C_i)``, finest first.

    Args:
        levels: Levels of the plan.
        direct: Product of lateral and head for each direct level, otherwise None.
        project: Function that computes a 1x1 convolution.
        one: A 1 in fp32, ``(1)``, to double the nearest pixels and add them in one operation.
    """
    found: list[Tensor] = []
    coarser: Tensor | None = None
    for level, both, x in reversed(list(zip(levels, direct, maps, strict=True))):
        if both is not None:
            x = project(x, both)
        else:
            x = project(x, level.lateral)
            if level.adds_coarser:
                assert coarser is not None
                if one is None or plan.interpolation != "nearest":
                    x = x + _doubled(coarser, plan.interpolation)
                else:  # the factor makes torch compute the sum in fp32
                    blocks = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
                    x = torch.addcmul(blocks, coarser[:, :, None, :, None], one).flatten(3, 4).flatten(1, 2)
            coarser = x
            if level.head is not None:
                x = project(x, level.head)
        found.insert(0, x.permute(0, 3, 1, 2))
    return found[: len(found) - plan.scalp]


def neck_of_one_level(ops: Any, layers: Sequence[tuple[Conv, Norm | None]], x: Tensor) -> Tensor:
    """Computes ``(B, C, H, W)`` from a map ``(B, H, W, C_in)``, by the operations of ``cpu`` or ``static``."""
    x = x.permute(0, 3, 1, 2)
    for layer, norm in layers:
        x = ops.convolve(x, layer)
        if norm is not None:
            x = ops.normalize(x.permute(0, 2, 3, 1), norm, torch.promote_types(torch.float32, x.dtype))
            x = x.permute(0, 3, 1, 2)
    return x


def scaled_neck(ops: Any, levels: Iterable[ScaledLevel], x: Tensor) -> list[Tensor]:
    """Computes composed levels ``(B, C_i, H_i, W_i)`` of a map ``(B, H, W, C)`` by ``cpu.ops`` or ``static.ops``."""
    found = []
    for doublings, point, conv, _ in levels:
        y = x
        for layer in doublings:
            y = torch.ops.aten.gelu_(_from_blocks(ops.chunked(partial(ops.linear, layer=layer), y, 1)))
        y = ops.chunked(partial(ops.linear, layer=point), y, 1)
        y = _from_blocks(y) if len(point.weight) > conv.weight.shape[1] else y
        found.append(ops.convolve(y.permute(0, 3, 1, 2), conv))
    return found


def _from_blocks(x: Tensor) -> Tensor:
    """Returns ``(B, H, W, 4 * C)``, which has blocks of 2x2, as ``(B, 2 * H, 2 * W, C)``."""
    return x.unflatten(3, (2, 2, -1)).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _doubled(x: Tensor, mode: str) -> Tensor:
    """Returns ``(B, H, W, C)`` at twice the size in fp32."""
    align = None if mode == "nearest" else False
    larger = F.interpolate(x.permute(0, 3, 1, 2).float(), scale_factor=2.0, mode=mode, align_corners=align)
    return larger.permute(0, 2, 3, 1)


# ---- masks ----


def decode_in_groups(
    plan: MaskPlan, multimask: bool, count: int, size: int, decode: Callable[[slice, slice], Masks]
) -> Masks:
    """Decodes ``count`` prompts. Of their tokens, returns those of object pointers.

    Args:
        size: Number of prompts that are decoded at once.
        decode: Function that predicts the masks with these numbers for a group of prompts.
    """
    is_dynamic = plan.is_dynamic and not multimask
    numbers = slice(1, None) if multimask else slice(None) if is_dynamic else slice(1)
    pointers = slice(1, None) if multimask and plan.pointers_of_three else slice(1)
    whole: Masks | None = None
    for start in range(0, max(count, 1), size):
        group = slice(start, start + size)
        found = decode(group, numbers)
        found = found._replace(tokens=found.tokens[:, pointers])
        found = _most_stable(plan, found) if is_dynamic else found
        if count <= size:
            return found
        whole = whole or Masks(*(x.new_empty(count, *x.shape[1:]) for x in found))
        for every, some in zip(whole, found, strict=True):
            every[group] = some
    assert whole is not None
    return whole


def in_blocks(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns a view of ``(b, C, sH, sW)``, s = 2 or 4, as ``(b, H, W, 2, 2, ..., C)``, coarsest blocks first."""
    levels = (x.shape[2] // size[0]).bit_length() - 1
    x = x.unflatten(3, (size[1], *[2] * levels)).unflatten(2, (size[0], *[2] * levels))
    rows, columns = range(2, 3 + levels), range(3 + levels, 4 + 2 * levels)
    return x.permute(0, *(axis for pair in zip(rows, columns, strict=True) for axis in pair), 1)


def high_res_in_blocks(plan: MaskPlan, high_res: Sequence[Tensor], prompts: int) -> list[Tensor]:
    """Returns the high-resolution features in blocks for the prompts, coarser first, or none if they are not read."""
    levels = [in_blocks(x, plan.size) for x in reversed(high_res)] if plan.reads_high_res else []
    return [x.contiguous() if len(x) == 1 < prompts else x for x in levels]  # a copy pays where many prompts read it


def _most_stable(plan: MaskPlan, found: Masks) -> Masks:
    """Returns the single mask, or if it is unstable, the multimask output with the highest predicted IoU."""
    single = found.masks[:, 0]
    inner, outer = ((single > level).sum(dim=(1, 2)).float() for level in (plan.delta, -plan.delta))
    is_stable = torch.where(outer > 0, inner / outer, 1.0) >= plan.threshold
    chosen = torch.where(is_stable, 0, found.ious[:, 1:].argmax(dim=1) + 1)
    rows = torch.arange(len(single), device=single.device)
    return found._replace(masks=found.masks[rows, chosen][:, None], ious=found.ious[rows, chosen][:, None])


# ---- tracked objects ----


def tracked_prompts(
    plan: MaskPlan, points: dict[str, Tensor] | None, masks: Tensor | None, count: int
) -> tuple[Points | int, Tensor | None]:
    """Returns points and masks of ``count`` tracked objects in the form that decoders take."""
    size = 4 * plan.size[0], 4 * plan.size[1]
    if masks is not None and masks.shape[-2:] != size:
        masks = F.interpolate(masks.float(), size=size, mode="bilinear", align_corners=False, antialias=True)
    return (count if points is None else (points["point_coords"], points["point_labels"])), masks


def suppress_absent(plan: MaskPlan, found: Masks, presence: float | None) -> Masks:
    """Returns the masks in fp32, and -1024 for absent objects; see :meth:`Engine.propose`."""
    masks = found.masks.float()
    if presence is not None:
        of = plan.no_mask  # not of the masks, which a kept function would keep in memory
        lowest = plan.lowest(None, (of,), lambda: of.new_full((), NO_OBJ_SCORE, dtype=torch.float32))
        masks = torch.where((found.scores > presence)[:, None, None], masks, lowest)
    return found._replace(masks=masks)


def choose(
    pointers_of: Callable[[Tensor], Tensor],
    settings: MemorySettings,
    found: Masks,
    presence: float,
    selection: HypothesisSelection | None,
) -> ObjectPrediction:
    """Selects the mask of each object, and computes its pointer; see :meth:`SAM2Base.predict_objects`.

    Args:
        pointers_of: Function that computes the pointers of tokens ``(B, C)``.
        found: Predictions. Without a selection, masks of absent objects need not be suppressed yet.
    """
    masks, ious, tokens, scores = found
    if selection is None:
        limit = presence if settings.pred_obj_scores else None
        mask, iou, token, choice, seen = choose_masks(masks.float(), ious, tokens, scores, limit)
    else:
        choice = selection(masks, ious, scores)
        if selection.parents is not None:
            masks, ious, tokens, scores = (x[selection.parents] for x in (masks, ious, tokens, scores))
        mask, iou, seen = gather_chosen(masks, choice), gather_chosen(ious, choice), scores > presence
        token = (gather_chosen(tokens, choice) if tokens.shape[1] > 1 else tokens)[:, 0]
    pointer = pointers_of(token)
    if settings.pred_obj_scores:
        pointer = _mixed(settings, pointer, scores.float().sigmoid() if settings.soft_no_obj_ptr else seen)
    return ObjectPrediction(mask, iou, pointer, scores, choice)


def _mixed(settings: MemorySettings, pointer: Tensor, seen: Tensor) -> Tensor:
    """Moves pointers ``(B, C)`` towards that of an absent object if ``seen (B, 1)`` is False or below 1."""
    absent = settings.no_obj_ptr
    assert absent is not None
    if settings.fixed_no_obj_ptr and seen.dtype == torch.bool:
        return torch.where(seen, pointer.to(torch.promote_types(pointer.dtype, torch.float32)), absent)
    seen = seen.float()
    return (seen * pointer if settings.fixed_no_obj_ptr else pointer) + (1 - seen) * absent


def masks_for_memory(settings: MemorySettings, masks: Tensor) -> Tensor:
    """Returns logits at a size from which the ops upsample them once; see :meth:`SAM2Base.masks_for_memory`."""
    if settings.image_size in (settings.size, masks.shape[-2:]) or masks.shape[-2:] == settings.size:
        return masks
    return upsample_masks(masks, settings.image_size)


def prediction_from_masks(settings: MemorySettings, masks: Tensor, pointers: Tensor) -> ObjectPrediction:
    """Returns given masks ``(B, 1, S, S)`` and their pointers ``(B, C)`` as a prediction.

    See :meth:`SAM2Base._use_mask_as_output`.
    """
    masks = masks.float()
    logits = F.interpolate(
        20 * masks - 10, size=settings.mask_size, mode="bilinear", align_corners=False, antialias=True
    )
    is_given = (masks.flatten(1) > 0).any(dim=1, keepdim=True).float()
    if settings.no_obj_ptr is not None:
        pointers = _mixed(settings, pointers, is_given)
    ious = torch.ones_like(is_given)
    return ObjectPrediction(logits, ious, pointers, 20 * is_given - 10, torch.zeros_like(ious, dtype=torch.int64))

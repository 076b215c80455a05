"""Functions that ``cpu`` and ``static`` share: necks, mask selection, prompts and object pointers."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.engine.plans import Conv, EncoderPlan, Level, Linear, MaskPlan, Norm, ScaledLevel
from sam2fast.engine.plans.memory import MemorySettings
from sam2fast.kernels.choose_masks import choose_masks
from sam2fast.kernels.embed_patches import WHITE
from sam2fast.kernels.mask_ops import upsample_masks
from sam2fast.kernels.preprocess import resize_and_normalise
from sam2fast.modeling.sam2_base import (
    NO_OBJ_SCORE,
    MaskChooser,
    ObjectPrediction,
    gather_chosen,
    logits_of_given,
    mix_in_absence,
)

# Function that receives the layer index and the arguments of memory_attention.
AttendHook = Callable[..., None]
# High-resolution features, finest first.
Maps = Sequence[Tensor]
# Dict of point_coords (B, N, 2) in input pixels and point_labels (B, N). None means one padding point per prompt.
Clicks = dict[str, Tensor] | None
# Coordinates (B, N, 2) in input pixels, and labels (B, N).
Points = tuple[Tensor, Tensor]


class Masks(NamedTuple):
    """Predictions of the mask decoder for B prompts."""

    masks: Tensor  # (B, M, 4H, 4W) fp32 logits
    ious: Tensor  # (B, M) predicted IoUs
    tokens: Tensor  # (B, M or 1, C), mask tokens for object pointers
    scores: Tensor  # (B, 1) object score logits


def by_head(heads: int, *tensors: Tensor) -> list[Tensor]:
    """Splits tensors ``(B, N, heads * d)`` into heads ``(B, heads, N, d)``."""
    return [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in tensors]


def repeated(tokens: Tensor, times: int) -> Tensor:
    """Repeats each token of ``(B, P, C)`` ``times`` times."""
    return tokens[:, :, None].expand(-1, -1, times, -1).flatten(1, 2)


def add_into(fresh: Tensor, x: Tensor) -> Tensor:
    """Returns ``fresh + x``. May overwrite ``fresh`` with the sum, so no other code may use ``fresh``."""
    return fresh.add_(x) if fresh.dtype == torch.promote_types(fresh.dtype, x.dtype) else fresh + x


# ---- image ----


class Pixels(NamedTuple):
    """Images that are not normalized yet."""

    values: Tensor  # (B, S, S, 3) uint8
    mean: Sequence[float]  # mean per channel, for values divided by 255
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
    """Computes levels ``(B, C_i, H_i, W_i)`` from the stages' maps ``(B, H_i, W_i, C_i)``, finest first.

    Args:
        levels: Levels of the plan.
        direct: Composed lateral and head of each direct level, None for other levels.
        project: Function that computes a 1x1 convolution.
        one: Fp32 tensor ``(1)`` of value 1. If given, nearest upsampling and addition are one operation.
    """
    outputs: list[Tensor] = []
    coarser: Tensor | None = None
    for level, composed, x in reversed(list(zip(levels, direct, maps, strict=True))):
        if composed is not None:
            x = project(x, composed)
        else:
            x = project(x, level.lateral)
            if level.adds_coarser:
                assert coarser is not None
                if one is None or plan.interpolation != "nearest":
                    x = x + _doubled(coarser, plan.interpolation)
                else:  # the fp32 factor makes torch compute the sum in fp32
                    blocks = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
                    x = torch.addcmul(blocks, coarser[:, :, None, :, None], one).flatten(3, 4).flatten(1, 2)
            coarser = x
            if level.head is not None:
                x = project(x, level.head)
        outputs.insert(0, x.permute(0, 3, 1, 2))
    return outputs[: len(outputs) - plan.scalp]


def neck_of_one_level(ops: Any, layers: Sequence[tuple[Conv, Norm | None]], x: Tensor) -> Tensor:
    """Computes the level ``(B, C, H, W)`` of a map ``(B, H, W, C_in)``. ``ops`` is ``cpu.ops`` or ``static.ops``."""
    x = x.permute(0, 3, 1, 2)
    for layer, norm in layers:
        x = ops.convolve(x, layer)
        if norm is not None:
            x = ops.normalize(x.permute(0, 2, 3, 1), norm, torch.promote_types(torch.float32, x.dtype))
            x = x.permute(0, 3, 1, 2)
    return x


def scaled_neck(ops: Any, levels: Iterable[ScaledLevel], x: Tensor) -> list[Tensor]:
    """Computes levels ``(B, C_i, H_i, W_i)`` of a map ``(B, H, W, C)``. The layers are from :func:`composed_scaled`."""
    outputs = []
    for doublings, point, conv, _ in levels:
        y = x
        for layer in doublings:
            y = torch.ops.aten.gelu_(_from_blocks(ops.chunked(partial(ops.linear, layer=layer), y, 1)))
        y = ops.chunked(partial(ops.linear, layer=point), y, 1)
        y = _from_blocks(y) if len(point.weight) > conv.weight.shape[1] else y
        outputs.append(ops.convolve(y.permute(0, 3, 1, 2), conv))
    return outputs


def _from_blocks(x: Tensor) -> Tensor:
    """Converts blocks of 2x2 pixels ``(B, H, W, 4 * C)`` to a map ``(B, 2 * H, 2 * W, C)``."""
    return x.unflatten(3, (2, 2, -1)).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _doubled(x: Tensor, mode: str) -> Tensor:
    """Upsamples ``(B, H, W, C)`` by a factor of 2, in fp32."""
    align = None if mode == "nearest" else False
    larger = F.interpolate(x.permute(0, 3, 1, 2).float(), scale_factor=2.0, mode=mode, align_corners=align)
    return larger.permute(0, 2, 3, 1)


# ---- masks ----


def decode_in_groups(
    plan: MaskPlan, multimask: bool, count: int, size: int, decode: Callable[[slice, slice], Masks]
) -> Masks:
    """Decodes ``count`` prompts in groups. Returns only the mask tokens that object pointers need.

    Args:
        size: Number of prompts to decode at once.
        decode: Function that predicts masks for a group. Receives a slice of the prompts and a slice of mask indices.
    """
    is_dynamic = plan.is_dynamic and not multimask
    indices = slice(1, None) if multimask else slice(None) if is_dynamic else slice(1)
    pointers = slice(1, None) if multimask and plan.pointers_of_three else slice(1)
    outputs: Masks | None = None
    for start in range(0, max(count, 1), size):
        group = slice(start, start + size)
        masks = decode(group, indices)
        masks = masks._replace(tokens=masks.tokens[:, pointers])
        masks = _most_stable(plan, masks) if is_dynamic else masks
        if count <= size:
            return masks
        outputs = outputs or Masks(*(x.new_empty(count, *x.shape[1:]) for x in masks))
        for output, x in zip(outputs, masks, strict=True):
            output[group] = x
    assert outputs is not None
    return outputs


def in_blocks(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns a view of ``(b, C, sH, sW)``, s = 2 or 4, as nested 2x2 blocks ``(b, H, W, 2, 2, ..., C)``."""
    levels = (x.shape[2] // size[0]).bit_length() - 1
    x = x.unflatten(3, (size[1], *[2] * levels)).unflatten(2, (size[0], *[2] * levels))
    rows, columns = range(2, 3 + levels), range(3 + levels, 4 + 2 * levels)
    return x.permute(0, *(axis for pair in zip(rows, columns, strict=True) for axis in pair), 1)


def high_res_in_blocks(plan: MaskPlan, high_res: Sequence[Tensor], prompts: int) -> list[Tensor]:
    """Returns the high-resolution features in blocks, coarser first. Returns [] if the decoder uses none."""
    levels = [in_blocks(x, plan.size) for x in reversed(high_res)] if plan.reads_high_res else []
    return [x.contiguous() if len(x) == 1 < prompts else x for x in levels]  # faster if many prompts read one image


def _most_stable(plan: MaskPlan, output: Masks) -> Masks:
    """Selects mask 0 if mask 0 is stable, else the multimask output with the highest predicted IoU."""
    masks, ious = output.masks, output.ious
    inner, outer = ((masks[:, 0] > level).sum(dim=(1, 2)).float() for level in (plan.delta, -plan.delta))
    is_stable = torch.where(outer > 0, inner / outer, 1.0) >= plan.threshold
    indices = torch.where(is_stable, 0, ious[:, 1:].argmax(dim=1) + 1)
    rows = torch.arange(len(masks), device=masks.device)
    return output._replace(masks=masks[rows, indices][:, None], ious=ious[rows, indices][:, None])


# ---- tracked objects ----


def tracked_prompts(
    plan: MaskPlan, points: dict[str, Tensor] | None, masks: Tensor | None, count: int
) -> tuple[Points | int, Tensor | None]:
    """Converts points and masks of ``count`` tracked objects to arguments of ``decode``.

    Without points, the first argument is ``count``.
    """
    size = 4 * plan.size[0], 4 * plan.size[1]
    if masks is not None and masks.shape[-2:] != size:
        masks = F.interpolate(masks.float(), size=size, mode="bilinear", align_corners=False, antialias=True)
    return (count if points is None else (points["point_coords"], points["point_labels"])), masks


def suppress_absent(plan: MaskPlan, output: Masks, presence: float | None) -> Masks:
    """Returns fp32 masks. Sets masks of absent objects to -1024. See :meth:`Engine.propose`."""
    masks = output.masks.float()
    if presence is not None:
        weight = plan.no_mask  # the cached function keeps this tensor in memory; masks would be larger
        lowest = plan.lowest(None, (weight,), lambda: weight.new_full((), NO_OBJ_SCORE, dtype=torch.float32))
        masks = torch.where((output.scores > presence)[:, None, None], masks, lowest)
    return output._replace(masks=masks)


def build_prediction(
    pointers_of: Callable[[Tensor], Tensor],
    settings: MemorySettings,
    output: Masks,
    presence: float,
    chooser: MaskChooser | None,
) -> ObjectPrediction:
    """Selects a mask for each object, and computes its pointer. See :meth:`SAM2Base.predict_objects`.

    Args:
        pointers_of: Function that computes pointers from tokens ``(B, C)``.
        output: Output of the mask decoder. With ``chooser``, masks of absent objects must already be suppressed.
    """
    masks, ious, tokens, scores = output
    if chooser is None:
        limit = presence if settings.pred_obj_scores else None
        mask, iou, token, choice, seen = choose_masks(masks.float(), ious, tokens, scores, limit)
    else:
        choice = chooser(masks, ious, scores)
        if chooser.parents is not None:
            masks, ious, tokens, scores = (x[chooser.parents] for x in (masks, ious, tokens, scores))
        mask, iou, seen = gather_chosen(masks, choice), gather_chosen(ious, choice), scores > presence
        token = (gather_chosen(tokens, choice) if tokens.shape[1] > 1 else tokens)[:, 0]
    pointer = pointers_of(token)
    if settings.pred_obj_scores:
        assert settings.no_obj_ptr is not None
        seen = scores.float().sigmoid() if settings.soft_no_obj_ptr else seen
        pointer = mix_in_absence(pointer, seen, settings.no_obj_ptr, settings.fixed_no_obj_ptr)
    return ObjectPrediction(mask, iou, pointer, scores, choice)


def masks_for_memory(settings: MemorySettings, masks: Tensor) -> Tensor:
    """Upsamples mask logits to the model's input size, except if later operations resize the logits in one step.

    See :meth:`SAM2Base.masks_for_memory`.
    """
    if settings.image_size in (settings.size, masks.shape[-2:]) or masks.shape[-2:] == settings.size:
        return masks
    return upsample_masks(masks, settings.image_size)


def prediction_from_masks(settings: MemorySettings, masks: Tensor, pointers: Tensor) -> ObjectPrediction:
    """Converts input masks ``(B, 1, S, S)`` and object pointers ``(B, C)`` to a prediction.

    See :meth:`SAM2Base._use_mask_as_output`.
    """
    _, logits, not_empty = logits_of_given(masks.float(), settings.mask_size)
    if settings.no_obj_ptr is not None:
        pointers = mix_in_absence(pointers, not_empty, settings.no_obj_ptr, settings.fixed_no_obj_ptr)
    ious = torch.ones_like(not_empty)
    return ObjectPrediction(logits, ious, pointers, 20 * not_empty - 10, torch.zeros_like(ious, dtype=torch.int64))

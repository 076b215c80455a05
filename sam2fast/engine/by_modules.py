"""Computes by a model's modules what is otherwise computed from plans.

Changed modules are called object by object, as in the original, unchanged ones for all objects at once; memory
attention always object by object.
"""

from collections.abc import Callable, Sequence
from functools import partial, wraps
from types import FunctionType
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sam2fast.engine.common import Masks
from sam2fast.engine.parts import is_as_built
from sam2fast.kernels._cpu import emulates_bfloat16, in_float32, linear
from sam2fast.kernels.memory_attention import AttendedMemory, Fp8
from sam2fast.modeling.mask_selection import HypothesisSelection
from sam2fast.modeling.sam2_base import ObjectPrediction

Function = TypeVar("Function", bound=Callable[..., Any])


class FastProducts(TorchFunctionMode):
    """Context manager in which modules compute with plain tensors as plans do.

    - Linear layers are :func:`sam2fast.kernels._cpu.linear`, also for input of another dtype than their weights.
    - In bfloat16 sums, also of convolutions and attention, are in fp32 where the processor has no instructions for it.
    - Norms are computed in fp32, and stay so.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        is_plain = all(x in (Tensor, nn.Parameter) for x in types)  # without operations of their own
        if is_plain and func in _AS_PLANS:
            return _AS_PLANS[func](*args, **(kwargs or {}))
        if torch.compiler.is_compiling() and func in _METHODS_IN_PYTHON:  # which it knows as methods alone
            return getattr(args[0], func.__name__)(*args[1:], **(kwargs or {}))
        return func(*args, **(kwargs or {}))


_METHODS_IN_PYTHON = tuple(x for x in vars(Tensor).values() if isinstance(x, FunctionType))


def _product(
    func: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any
) -> Tensor:
    if emulates_bfloat16(x, weight):
        return in_float32(lambda *operands: func(*operands, *args, **kwargs), x, weight, bias)
    if x.dtype != weight.dtype and x.is_floating_point() and not torch.is_autocast_enabled(x.device.type):
        x = x.to(weight.dtype)
    return func(x, weight, bias, *args, **kwargs)


def _norm(x: Tensor, shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    if torch.float64 not in (x.dtype, None if weight is None else weight.dtype):
        x, weight, bias = (None if y is None else y.float() for y in (x, weight, bias))  # type: ignore[assignment]
    return F.layer_norm(x, shape, weight, bias, eps)


def _attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
    attend: Callable[..., Tensor] = F.scaled_dot_product_attention
    if not emulates_bfloat16(q, k):
        return attend(q, k, v, attn_mask, *args, **kwargs)
    mask = attn_mask.float() if attn_mask is not None and attn_mask.is_floating_point() else attn_mask
    return in_float32(lambda *operands: attend(*operands, mask, *args, **kwargs), q, k, v)


_AS_PLANS: dict[Callable[..., Any], Callable[..., Tensor]] = {
    F.linear: partial(_product, linear),
    F.conv2d: partial(_product, F.conv2d),
    F.conv_transpose2d: partial(_product, F.conv_transpose2d),
    F.layer_norm: _norm,
    F.scaled_dot_product_attention: _attention,
}


def _with_fast_products(function: Function) -> Function:
    """A function of a model and a tensor, within :class:`FastProducts` for inference."""

    @wraps(function)
    def call(model: Any, x: Tensor, *args: Any) -> Any:
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return function(model, x, *args)
        with FastProducts():
            return function(model, x, *args)

    return cast(Function, call)


def _are_as_built(*parts: nn.Module) -> bool:
    """Whether nobody changed these, so that all objects may be computed at once."""
    return is_as_built([module for part in parts for module in part.modules()])


@_with_fast_products
def encode(model: Any, images: Tensor) -> list[Tensor]:
    """See :meth:`Engine.encode`."""
    return list(model.encode_image(images))


@_with_fast_products
def decode(
    model: Any,
    embedding: Tensor,
    high_res: Sequence[Tensor],
    points: tuple[Tensor, Tensor] | None,
    prompts: Tensor | None,
    multimask: bool,
) -> Masks:
    """See :meth:`Engine.decode`."""
    sparse, dense = model.sam_prompt_encoder(points=points, boxes=None, masks=prompts)
    return Masks(
        *model.sam_mask_decoder(
            image_embeddings=embedding,
            image_pe=model.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
            repeat_image=len(sparse) > 1,
            high_res_features=high_res or None,
        )
    )


@_with_fast_products
def attend(model: Any, features: Tensor, memory: AttendedMemory, fp8: Fp8) -> Tensor:
    """See :meth:`Engine.attend`."""
    if model.memory_attention.training:  # where dropout would make objects differ
        raise RuntimeError("tracking needs evaluation mode: call eval() on the predictor, or build it with mode='eval'")
    position = model.image_encoder.neck.position_encoding(features)
    if fp8 is True:
        raise RuntimeError(
            "a module of memory_attention was hooked, patched or replaced, which fp8_attention does not reach: open "
            "the session without it"
        )
    tokens, encoding = (x.flatten(2).permute(2, 0, 1) for x in (features, position))
    maps = []
    for i, valid in enumerate(memory.pointer_valid):
        pages, times = memory.page_table[i], memory.page_time[i]
        is_page = pages >= 0
        own, times = memory.pages[pages[is_page].long()], times[is_page].long()
        spatial = memory.position_encoding + memory.time_encoding[times, None]
        pointers, pointer_encoding = memory.pointers[i, valid], memory.pointer_encoding[i, valid]
        if memory.key_factors is not None:  # made part of the encodings, which only keys have
            of_pages, of_pointers = memory.key_factors[i].split([len(is_page), len(valid)])
            spatial = (own + spatial) * of_pages[is_page, None, None] - own
            pointer_encoding = (pointers + pointer_encoding) * of_pointers[valid, None] - pointers
        attended = model.memory_attention(
            curr=[tokens],
            curr_pos=[encoding],
            memory=torch.cat([own.flatten(0, 1), pointers])[:, None],
            memory_pos=torch.cat([spatial.flatten(0, 1), pointer_encoding])[:, None],
            num_obj_ptr_tokens=len(pointers),
        )
        maps.append(attended.permute(1, 2, 0).unflatten(2, features.shape[2:]))
    return torch.cat(maps)


@_with_fast_products
def propose(
    model: Any,
    conditioned: Tensor,
    high_res: Sequence[Tensor],
    points: dict[str, Tensor] | None,
    prompts: Tensor | None,
    multimask: bool,
    presence: float,
) -> Masks:
    """See :meth:`Engine.propose`."""
    is_known = _are_as_built(model.sam_prompt_encoder, model.sam_mask_decoder)
    objects = [conditioned] if is_known else conditioned.split(1)
    each = [model._decode(x, points, prompts, list(high_res) or None, multimask, presence) for x in objects]
    return Masks(*(each[0] if len(each) == 1 else map(torch.cat, zip(*each, strict=True))))


@_with_fast_products
def track(
    model: Any,
    conditioned: Tensor,
    high_res: Sequence[Tensor],
    points: dict[str, Tensor] | None,
    prompts: Tensor | None,
    multimask: bool,
    presence: float,
    selection: HypothesisSelection | None,
) -> ObjectPrediction:
    """See :meth:`Engine.track`."""
    levels = list(high_res) or None
    if _are_as_built(model.sam_prompt_encoder, model.sam_mask_decoder, model.obj_ptr_proj):
        found: ObjectPrediction = model.predict_objects(
            conditioned, levels, points, prompts, multimask, presence, selection
        )
        return found
    objects = conditioned.split(1)
    if selection is None:
        each = [model.predict_objects(x, levels, points, prompts, multimask, presence) for x in objects]
        return ObjectPrediction(*map(torch.cat, zip(*each, strict=True)))
    decoded = propose(model, conditioned, high_res, points, prompts, multimask, presence)
    best: ObjectPrediction = model._best(*decoded, presence, selection)
    return best


@_with_fast_products
def choose(model: Any, found: Masks, presence: float, selection: HypothesisSelection | None) -> ObjectPrediction:
    """The selected mask of each object, and its pointer."""
    if selection is not None or _are_as_built(model.obj_ptr_proj):
        best: ObjectPrediction = model._best(*found, presence, selection)
        return best
    each = [model._best(*one, presence) for one in zip(*(x.split(1) for x in found), strict=True)]
    return ObjectPrediction(*map(torch.cat, zip(*each, strict=True)))


@_with_fast_products
def use_mask(
    model: Any, features: Tensor, high_res: Sequence[Tensor], masks: Tensor, presence: float
) -> ObjectPrediction:
    """See :meth:`Engine.use_mask`."""
    above = (presence,) if presence else ()  # a user's method may be the original's, without it
    _, _, iou, low_res, _, pointer, score = model._use_mask_as_output(features, list(high_res) or None, masks, *above)
    return ObjectPrediction(low_res, iou, pointer, score, torch.zeros_like(iou, dtype=torch.int64))


@_with_fast_products
def encode_memory(model: Any, features: Tensor, masks: Tensor, scores: Tensor, from_prompt: bool) -> Tensor:
    """See :meth:`Engine.encode_memory`."""
    parts = [x for x in (model.memory_encoder, model.spatial_perceiver) if x is not None]
    if _are_as_built(*parts):
        memories: Tensor = model.encode_memory(features, masks, scores, from_prompt)
        return memories
    each = zip(masks.split(1), scores.split(1), strict=True)
    return torch.cat([model.encode_memory(features, x, score, from_prompt) for x, score in each])


@_with_fast_products
def encode_distances(model: Any, distance: Tensor, valid: Tensor, num_frames: int) -> Tensor:
    """See :meth:`Engine.encode_distances`."""
    if _are_as_built(model.obj_ptr_tpos_proj):
        encoding: Tensor = model._encode_pointer_distances(distance, num_frames)
        return encoding
    rows = []
    for times, present in zip(distance, valid, strict=True):
        row = distance.new_zeros(len(times), model.mem_dim)
        if present.any():
            row[present] = model._encode_pointer_distances(times[present], num_frames).to(row)
        rows.append(row)
    return torch.stack(rows)

"""Computes the four parts of a model by calling their modules. See :class:`Engine`.

In tracking, modified modules are called once per object, as in the official package. Unmodified modules are called once
for all objects. Memory attention is always called once per object.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sam2fast.engine.common import AttendHook, Clicks, Maps, Masks, Pixels, normalized, repeated
from sam2fast.engine.unmodified import is_unmodified
from sam2fast.kernels._cpu import emulates_bfloat16, in_float32, linear
from sam2fast.kernels.memory_attention import AttendedMemory, Fp8
from sam2fast.modeling.sam2_base import ObjectPrediction


class FastProducts(TorchFunctionMode):
    """Context manager that runs modules on plain tensors with the operations of plans.

    - Linear layers call :func:`sam2fast.kernels._cpu.linear`. Inputs are converted to the dtype of the weights.
    - If the processor has no bfloat16 instructions, linear layers, convolutions and attention sum in fp32.
    - Norms are computed in fp32, and return fp32.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_plain = all(x in (Tensor, nn.Parameter) for x in types)  # no subclasses, which may define operations
        if is_plain and func in _AS_PLANS:
            return _AS_PLANS[func](*args, **(kwargs or {}))
        if torch.compiler.is_compiling() and func in _METHODS_IN_PYTHON:  # torch.compile supports these only as methods
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


class _ByModules:
    """Base class. Calls modules inside :class:`FastProducts`, unless gradients or torch.compile are active."""

    def __init__(self, model: Any) -> None:
        is_plain = torch.is_grad_enabled() or torch.compiler.is_compiling()
        self.model, self.context = model, nullcontext if is_plain else FastProducts


class ImageByModules(_ByModules):
    def encode(self, images: Tensor | Pixels) -> list[Tensor]:
        with self.context():
            return list(self.model.encode_image(normalized(images)))


class MasksByModules(_ByModules):
    def decode(self, embedding: Tensor, high_res: Maps, points: Any, prompts: Any, multimask: bool) -> Masks:
        with self.context():
            encoder = self.model.sam_prompt_encoder
            sparse, dense = encoder(points=points, boxes=None, masks=prompts)
            return Masks(
                *self.model.sam_mask_decoder(
                    image_embeddings=embedding,
                    image_pe=encoder.get_dense_pe(),
                    sparse_prompt_embeddings=sparse,
                    dense_prompt_embeddings=dense,
                    multimask_output=multimask,
                    repeat_image=len(sparse) > 1,
                    high_res_features=high_res or None,
                )
            )

    def propose(self, x: Tensor, high_res: Maps, points: Clicks, prompts: Any, *how: Any) -> Masks:
        with self.context():
            model, levels = self.model, list(high_res) or None
            at_once = is_unmodified(model.sam_prompt_encoder, model.sam_mask_decoder)
            batches = [x] if at_once else x.split(1)
            outputs = [model._decode(batch, points, prompts, levels, *how) for batch in batches]
            return Masks(*(outputs[0] if len(outputs) == 1 else map(torch.cat, zip(*outputs, strict=True))))

    def track(self, chooser: Any, x: Tensor, high_res: Maps, *inputs: Any) -> ObjectPrediction:
        with self.context():
            model, levels = self.model, list(high_res) or None
            if is_unmodified(model.sam_prompt_encoder, model.sam_mask_decoder, model.obj_ptr_proj):
                return model.predict_objects(x, levels, *inputs, chooser)
            if chooser is None:
                outputs = [model.predict_objects(features, levels, *inputs) for features in x.split(1)]
                return ObjectPrediction(*map(torch.cat, zip(*outputs, strict=True)))
            *_, presence = inputs
            return model._best(*self.propose(x, high_res, *inputs), presence, chooser)

    def use_mask(self, x: Tensor, high_res: Maps, mask: Tensor, presence: float) -> ObjectPrediction:
        with self.context():
            above = (presence,) if presence else ()  # left out if 0, since custom methods may lack it
            use = self.model._use_mask_as_output
            _, _, iou, low_res, _, pointer, score = use(x, list(high_res) or None, mask, *above)
            return ObjectPrediction(low_res, iou, pointer, score, torch.zeros_like(iou, dtype=torch.int64))


class AttentionByModules(_ByModules):
    def attend(self, features: Tensor, memory: AttendedMemory, fp8: Fp8, hook: AttendHook | None) -> Tensor:
        model = self.model
        if hook is not None:
            raise RuntimeError(
                "attention maps need unmodified modules in memory_attention, but a module was hooked, patched or "
                "replaced, the model is in training mode, or gradients are enabled: undo this to collect maps"
            )
        if model.memory_attention.training:  # dropout would differ between objects
            raise RuntimeError(
                "tracking needs evaluation mode: call eval() on the predictor, or build it with mode='eval'"
            )
        if fp8 is True:
            raise RuntimeError(
                "fp8_attention needs unmodified modules in memory_attention, but a module was hooked, patched or "
                "replaced: open the session without fp8_attention"
            )
        with self.context():
            position = model.image_encoder.neck.position_encoding(features)
            tokens, encoding = (x.flatten(2).permute(2, 0, 1) for x in (features, position))
            maps = [
                model.memory_attention(curr=[tokens], curr_pos=[encoding], **_tokens_of(memory, i))
                for i in range(len(memory.pointer_valid))
            ]
            return torch.cat([x.permute(1, 2, 0).unflatten(2, features.shape[2:]) for x in maps])


def _tokens_of(memory: AttendedMemory, i: int) -> dict[str, Any]:
    """Returns the memories and pointers of object ``i`` as arguments of memory attention."""
    valid, pages, times = memory.pointer_valid[i], memory.page_table[i], memory.page_time[i]
    is_page = pages >= 0
    memories, times = memory.pages[pages[is_page].long()], times[is_page].long()
    spatial = memory.position_encoding + memory.time_encoding[times, None]
    pointers, encoding = memory.pointers[i, valid], memory.pointer_encoding[i, valid]
    if memory.key_factors is not None:  # scales keys through their encodings, which are not added to values
        page_factors, pointer_factors = memory.key_factors[i].split([len(is_page), len(valid)])
        spatial = (memories + spatial) * page_factors[is_page, None, None] - memories
        encoding = (pointers + encoding) * pointer_factors[valid, None] - pointers
    return {
        "memory": torch.cat([memories.flatten(0, 1), pointers])[:, None],
        "memory_pos": torch.cat([spatial.flatten(0, 1), encoding])[:, None],
        "num_obj_ptr_tokens": len(pointers),
    }


class MemoryByModules(_ByModules):
    def encode_memory(self, features: Tensor, logits: Tensor, scores: Tensor, from_prompt: bool) -> Tensor:
        with self.context():
            model = self.model
            if is_unmodified(*(x for x in (model.memory_encoder, model.spatial_perceiver) if x is not None)):
                return model.encode_memory(features, logits, scores, from_prompt)
            rows = zip(logits.split(1), scores.split(1), strict=True)
            return torch.cat([model.encode_memory(features, x, score, from_prompt) for x, score in rows])

    def encode_distances(self, distance: Tensor, valid: Tensor, num_frames: int) -> Tensor:
        with self.context():
            model, tokens = self.model, self.model.hidden_dim // self.model.mem_dim
            if is_unmodified(model.obj_ptr_tpos_proj):
                return repeated(model._encode_pointer_distances(distance, num_frames), tokens)
            rows = []
            for times, present in zip(distance, valid, strict=True):
                row = distance.new_zeros(len(times), model.mem_dim)
                if present.any():
                    row[present] = model._encode_pointer_distances(times[present], num_frames).to(row)
                rows.append(row)
            return repeated(torch.stack(rows), tokens)

"""Inference without the modules of a model: functions of their weights, for the parts that nobody changed.

``modeling`` has the modules, which are trained, exported, hooked and replaced. Here, a *plan* of a part holds its
weights in the order in which they are read, and the functions in ``cpu`` compute what the modules do. This file chooses
between the two, once for each call of a predictor.
"""

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from sam2fast.engine.cpu import image, masks
from sam2fast.engine.eligible import Watch, is_as_built
from sam2fast.engine.plan import plan_image, plan_masks
from sam2fast.kernels._dispatch import current_backend
from sam2fast.modeling.sam2_base import SAM2Base

__all__ = ["Engine", "Parts", "engine_for"]

Plan = TypeVar("Plan")


class Parts(NamedTuple):
    """Which parts of a model are computed from plans."""

    image: bool  # image encoder, and the mask decoder's projections of its finer levels
    masks: bool  # prompt encoder and mask decoder


class Engine:
    """Computes the parts of a model, those that are as built from plans and others by their modules."""

    def __init__(self, model: Any) -> None:
        self._model = ref(model)
        self._image, self._masks = _Part(_image_roots, plan_image), _Part(_mask_roots, plan_masks)

    def parts(self) -> Parts:
        """Which parts would be computed from plans now, for input on the model's device."""
        model = self._model()
        is_here = model is not None and _is_plain_inference(torch.empty(0, device=model.device))
        return Parts(*(is_here and part.plan(model) is not None for part in (self._image, self._masks)))

    def encode(self, images: Tensor) -> list[Tensor]:
        """What the mask decoder reads of normalised images ``(B, 3, S, S)``: see :meth:`SAM2Base.encode_image`."""
        model: Any = self._model()
        plan = self._image.plan(model) if _is_plain_inference(images) else None
        if plan is None:
            return list(model.encode_image(images))
        return image.encode(plan, images)[-model.num_feature_levels :]

    def decode(
        self,
        embedding: Tensor,
        finer: Sequence[Tensor],
        points: tuple[Tensor, Tensor] | None,
        prompts: Tensor | None,
        multimask: bool,
    ) -> masks.Masks:
        """The masks of B prompts.

        Args:
            embedding: ``(B or 1, C, H, W)``.
            finer: ``(B or 1, C/8, 4H, 4W)`` and ``(B or 1, C/4, 2H, 2W)``, or none.
            points: ``(B, N, 2)`` in input pixels with labels ``(B, N)``, or None.
            prompts: mask logits ``(B or 1, 1, 4H, 4W)``, or None.
            multimask: three masks rather than one.
        """
        model: Any = self._model()
        plan = self._masks.plan(model) if _is_plain_inference(embedding) else None
        if plan is not None:
            return masks.decode(plan, embedding, finer, points, prompts, multimask)
        sparse, dense = model.sam_prompt_encoder(points=points, boxes=None, masks=prompts)
        return masks.Masks(
            *model.sam_mask_decoder(
                image_embeddings=embedding,
                image_pe=model.sam_prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=multimask,
                repeat_image=len(sparse) > 1,
                high_res_features=finer or None,
            )
        )


_engines: "WeakKeyDictionary[Any, Engine]" = WeakKeyDictionary()


def engine_for(model: Any) -> Engine:
    """The engine of a model, or of what takes its place in a predictor."""
    return _engines.get(model) or _engines.setdefault(model, Engine(model))


def _is_plain_inference(x: Tensor) -> bool:
    """Whether ``x`` is on the CPU, and its values are all that is computed, by the usual ops."""
    return (
        x.is_cpu
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch._C._len_torch_dispatch_stack()
        and current_backend() in ("auto", "torch")
    )


class _Found(NamedTuple, Generic[Plan]):
    """A part that is as built, and its plan if it is of a kind that has one."""

    roots: tuple[nn.Module, ...]
    watch: Watch
    plan: Plan | None


class _Part(Generic[Plan]):
    """The plan of a part, which is made when it is first asked for, and again after a change.

    Args:
        roots: the modules that the part consists of, with all below them; none where a method of the model is replaced.
        make: its plan, if there is one.
    """

    def __init__(
        self, roots: Callable[[SAM2Base], tuple[nn.Module, ...]], make: Callable[[SAM2Base], Plan | None]
    ) -> None:
        self._roots, self._make = roots, make
        self._found: _Found[Plan] | None = None  # one attribute, so that other threads see what belongs together

    def plan(self, model: Any) -> Plan | None:
        """The plan of the part as it is now; None where its modules have to be called."""
        if not isinstance(model, SAM2Base):
            return None
        roots, found = self._roots(model), self._found
        if found is None or found.roots != roots or not found.watch.is_unchanged():
            found = self._found = self._look(model, roots)
        return None if found is None else found.plan

    def _look(self, model: SAM2Base, roots: tuple[nn.Module, ...]) -> _Found[Plan] | None:
        below = [module for root in roots for module in root.modules()]
        watch = Watch(below)  # first, so that it notices what is changed meanwhile; hooks it notices in less time
        is_known = below and watch.is_unchanged() and is_as_built(below)
        return _Found(roots, watch, self._make(model)) if is_known else None


def _image_roots(model: SAM2Base) -> tuple[nn.Module, ...]:
    if model._replaces("encode_image", "forward_image", "_prepare_backbone_features", "_level_heads"):
        return ()
    return (model.image_encoder, *model._level_heads().values())


def _mask_roots(model: SAM2Base) -> tuple[nn.Module, ...]:
    return model.sam_prompt_encoder, model.sam_mask_decoder

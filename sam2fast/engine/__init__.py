"""Inference without the modules of a model: functions of their weights, for the parts that nobody changed.

``modeling`` has the modules, which are trained, exported, hooked and replaced. Here, a *plan* of a part holds its
weights in the order in which they are read, and the functions in ``cpu``, or on other devices those in ``gpu``, compute
what the modules do. Only position encodings stay calls of modules. This file chooses between them, once for each call
of a predictor.
"""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from sam2fast.engine import by_modules, common, cpu, gpu
from sam2fast.engine.common import AttendHook, Masks
from sam2fast.engine.constants import is_recorded
from sam2fast.engine.memory_plan import plan_attention, plan_memory, settings_of
from sam2fast.engine.parts import Plan, PlannedPart, Watch, attention_roots, image_roots, mask_roots, memory_roots
from sam2fast.engine.plan import EncoderPlan, MaskPlan, in_dtype, plan_masks
from sam2fast.engine.relatives import plan_encoder
from sam2fast.kernels import _dispatch
from sam2fast.kernels.memory_attention import AttendedMemory, Fp8
from sam2fast.modeling.mask_selection import HypothesisSelection
from sam2fast.modeling.sam2_base import (
    OF_DISTANCES,
    OF_GIVEN_MASKS,
    OF_IMAGES,
    OF_OBJECTS,
    ObjectPrediction,
)

__all__ = ["Engine", "Parts", "engine_for"]


class Parts(NamedTuple):
    """Which parts of a model are computed from plans."""

    image: bool  # image encoder, and the mask decoder's projections of its high-resolution features
    masks: bool  # prompt encoder and mask decoder
    attention: bool  # memory attention
    memory: bool  # memory encoder and object pointers


class _Step(NamedTuple):
    """What :meth:`Engine.one_step` decided for the calls inside it."""

    engine: "Engine"
    variant: Any  # see _variant_for
    plans: dict[PlannedPart[Any], Any]


class Engine:
    """Computes the parts of a model, those that are as built from plans and others by their modules.

    Attributes:
        attend_hook: called with the number of a layer of memory attention and the arguments of
            :func:`sam2fast.kernels.memory_attention.memory_attention` before it attends to the memory, or None.
    """

    def __init__(self, model: Any) -> None:
        self.attend_hook: AttendHook | None = None
        self._model = ref(model)
        self._image: PlannedPart[EncoderPlan] = PlannedPart(image_roots, plan_encoder, OF_IMAGES)
        self._masks = PlannedPart(mask_roots, plan_masks)
        self._attention = PlannedPart(attention_roots, plan_attention)
        self._memory = PlannedPart(memory_roots, plan_memory, OF_OBJECTS)
        self._all: tuple[PlannedPart[Any], ...] = self._image, self._masks, self._attention, self._memory

    def parts(self) -> Parts:
        """Which parts would be computed from plans now, for input on the model's device."""
        x = self._example()
        return Parts(*(self._plan(part, x)[0] is not None for part in self._all))

    def _example(self) -> Tensor:
        """A tensor on the model's device."""
        model: Any = self._model()
        return torch.empty(0, device=model.device)

    def unchanged_modules(self) -> list[nn.Module]:
        """Returns all modules of the model if all are unmodified, otherwise none."""
        found = [part.found(self._model()) for part in self._all]
        return [module for each in found if each for module in each.modules] if all(found) else []

    def watches(self) -> list[Watch | None]:
        """Returns the watch of each part. A part gets another watch after a change."""
        return [part.watch for part in self._all]

    @contextmanager
    def one_step(self) -> Iterator[list[nn.Module]]:
        """Context manager that decides now, until it ends, which parts are computed from plans and by which functions;
        yields :meth:`unchanged_modules`."""
        modules = self.unchanged_modules()
        plans = {part: part.plan(self._model(), trusts_last=True) for part in self._all}
        token = _step.set(_Step(self, _variant_for(self._example()), plans))
        try:
            yield modules
        finally:
            _step.reset(token)

    def _plan(self, part: "PlannedPart[Plan]", x: Tensor) -> tuple[Plan | None, Any]:
        """The plan of a part for input like ``x``, and the package whose functions compute it; None and None where the
        part's modules have to be called."""
        step = _step.get()
        if step is None or step.engine is not self:
            variant = _variant_for(x)
            plan = None if variant is None else part.plan(self._model())
        else:
            variant = _variant_for(x) if is_recorded() else step.variant  # a recording begins within a step
            plan = step.plans[part]
        if plan is None or variant is None:
            return None, None
        if plan.compiled:
            return plan, gpu
        if variant is cpu and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):  # some weights are multiplied before they are cast
                plan = in_dtype(plan, torch.get_autocast_dtype("cpu"))
        return plan, variant

    def state_of_image(self, images: Tensor) -> Hashable | None:
        """What recordings of :meth:`encode` depend on: the plan, and where its weights are; None without a plan."""
        model: Any = self._model()
        plan, _ = self._plan(self._image, images)
        return None if plan is None else (self._image.state(), model.num_feature_levels)

    def state_of_masks(self, embedding: Tensor) -> Hashable | None:
        """What recordings of :meth:`decode` depend on: the plan, and where its weights are; None without a plan."""
        return None if self._plan(self._masks, embedding)[0] is None else self._masks.state()

    def encode(self, images: Tensor) -> list[Tensor]:
        """What the mask decoder reads of normalised images ``(B, 3, S, S)``: see :meth:`SAM2Base.encode_image`."""
        model: Any = self._model()
        plan, variant = self._plan(self._image, images)
        if plan is None:
            return by_modules.encode(model, images)
        with _computing(variant):
            return variant.encode(plan, images)[-model.num_feature_levels :]

    def decode(
        self,
        embedding: Tensor,
        high_res: Sequence[Tensor],
        points: tuple[Tensor, Tensor] | None,
        prompts: Tensor | None,
        multimask: bool,
    ) -> Masks:
        """The masks of B prompts.

        Args:
            embedding: ``(B or 1, C, H, W)``.
            high_res: ``(B or 1, C/8, 4H, 4W)`` and ``(B or 1, C/4, 2H, 2W)``, or none.
            points: ``(B, N, 2)`` in input pixels with labels ``(B, N)``; None for no token of points at all.
            prompts: mask logits ``(B or 1, 1, 4H, 4W)``, or None.
            multimask: three masks rather than one.
        """
        model: Any = self._model()
        plan, variant = self._plan(self._masks, embedding)
        if plan is None:
            return by_modules.decode(model, embedding, high_res, points, prompts, multimask)
        with _computing(variant):
            return variant.masks.decode(plan, embedding, high_res, points, prompts, multimask)

    def attend(self, features: Tensor, memories: AttendedMemory, fp8: Fp8 = False) -> Tensor:
        """A frame's map ``(1, C, H, W)`` for B objects, each conditioned on its own memory: ``(B, C, H, W)``.

        Args:
            memories: what the objects attend to.
            fp8: see :func:`sam2fast.kernels.memory_attention.memory_attention`.

        Raises:
            RuntimeError: If the modules of memory attention are called, and ``fp8`` is True, there is an
                :attr:`attend_hook`, or the model is in training mode.
        """
        model: Any = self._model()
        plan, variant = self._plan(self._attention, features)
        if plan is None and self.attend_hook is not None:
            raise RuntimeError(
                "memory_attention is not computed from a plan (a module of it was hooked, patched or replaced, it is "
                "in training mode, or gradients are enabled), and modules report no attention: undo it to collect maps"
            )
        if plan is None:
            return by_modules.attend(model, features, memories, fp8)
        position = model.image_encoder.neck.position_encoding(features)
        with _computing(variant):
            return variant.memory.attend(plan, features, position, memories, fp8, self.attend_hook)

    def propose(
        self,
        conditioned: Tensor,
        high_res: Sequence[Tensor],
        points: dict[str, Tensor] | None,
        prompts: Tensor | None,
        multimask: bool,
        presence: float = 0.0,
    ) -> Masks:
        """All masks among which :meth:`track` selects, in fp32, those of absent objects lowered."""
        model: Any = self._model()
        plan, variant = self._plan(self._masks, conditioned)
        if plan is None or model._replaces(*OF_OBJECTS):
            return by_modules.propose(model, conditioned, high_res, points, prompts, multimask, presence)
        return self._propose(plan, variant, conditioned, high_res, points, prompts, multimask, presence)

    def _propose(
        self,
        plan: MaskPlan,
        variant: Any,
        conditioned: Tensor,
        high_res: Sequence[Tensor],
        points: dict[str, Tensor] | None,
        prompts: Tensor | None,
        multimask: bool,
        presence: float,
    ) -> Masks:
        """:meth:`propose` from a plan."""
        model: Any = self._model()
        with _computing(variant):
            tracked = common.tracked_prompts(plan, points, prompts, len(conditioned))
            found = variant.masks.decode(plan, conditioned, high_res, *tracked, multimask)
            return common.lowered(plan, found, presence if model.pred_obj_scores else None)

    def track(
        self,
        conditioned: Tensor,
        high_res: Sequence[Tensor],
        points: dict[str, Tensor] | None,
        prompts: Tensor | None,
        multimask: bool,
        presence: float = 0.0,
        selection: HypothesisSelection | None = None,
    ) -> ObjectPrediction:
        """The chosen mask, score and pointer of B objects.

        Args:
            conditioned: ``(B, C, H, W)``.
            points: ``point_coords (B, N, 2)`` in input pixels and ``point_labels (B, N)``; None for one padding point
                in each prompt.
            prompts: mask logits ``(B, 1, h, w)``, or None.
            high_res, multimask: as of :meth:`decode`.
            presence, selection: see :meth:`SAM2Base.predict_objects`.
        """
        model: Any = self._model()
        plan, variant = self._plan(self._masks, conditioned)
        if plan is None or model._replaces(*OF_OBJECTS):
            return by_modules.track(model, conditioned, high_res, points, prompts, multimask, presence, selection)
        found = self._propose(plan, variant, conditioned, high_res, points, prompts, multimask, presence)
        memory_plan, variant = self._plan(self._memory, conditioned)
        if memory_plan is None:
            return by_modules.choose(model, found, presence, selection)
        with _computing(variant):
            pointers_of = partial(variant.memory.pointers_of, memory_plan)
            return common.choose(pointers_of, settings_of(model), found, presence, selection)

    def use_mask(
        self, features: Tensor, high_res: Sequence[Tensor], given: Tensor, presence: float = 0.0
    ) -> ObjectPrediction:
        """Given masks ``(B, 1, S, S)`` as if predicted, with pointers that the mask decoder predicts of them.

        Args:
            features: ``(B, C, H, W)``, not conditioned on memory.
            high_res, presence: as of :meth:`track`.
        """
        model: Any = self._model()
        plan, variant = self._plan(self._memory, features)
        if plan is None or model._replaces(*OF_GIVEN_MASKS):
            return by_modules.use_mask(model, features, high_res, given, presence)
        pointers = given.new_zeros(len(given), model.hidden_dim, dtype=torch.float32)
        if plan.mask_downsample is not None:
            with _computing(variant):
                prompts = variant.memory.downsampled(plan, given)
            pointers = self.track(features, high_res, None, prompts, False, presence).pointer
        with _computing(variant):
            return common.given_as_predicted(settings_of(model), given, pointers)

    def encode_memory(self, features: Tensor, logits: Tensor, scores: Tensor, from_prompt: bool) -> Tensor:
        """Memories ``(B, C_mem, H, W)`` of B objects on a frame.

        Args:
            features: ``(1 or B, C, H, W)`` of the frame, not conditioned on memory.
            logits: masks ``(B, 1, h, w)``, which are upsampled to the image's size.
            scores: ``(B, 1)`` logits of the objects' presence.
            from_prompt: the masks come from prompts, and are binarised if so configured.
        """
        model: Any = self._model()
        plan, variant = self._plan(self._memory, features)
        if plan is None:
            return by_modules.encode_memory(model, features, logits, scores, from_prompt)
        with _computing(variant):
            return variant.memory.encode(plan, settings_of(model), features, logits, scores, from_prompt)

    def encode_distances(self, distance: Tensor, valid: Tensor, num_frames: int) -> Tensor:
        """Encodings ``(B, P, C_mem)`` of how far object pointers are, in frames.

        Args:
            distance: ``(B, P)``.
            valid: ``(B, P)`` bool, of pointers that there are.
            num_frames: length of the video.
        """
        model: Any = self._model()
        plan, variant = self._plan(self._memory, distance)
        if plan is None or model._replaces(*OF_DISTANCES):
            return by_modules.encode_distances(model, distance, valid, num_frames)
        with _computing(variant):
            encoding: Tensor = variant.memory.encode_distances(plan, settings_of(model), distance, num_frames)
        return encoding


_engines: "WeakKeyDictionary[Any, Engine]" = WeakKeyDictionary()
_step: ContextVar[_Step | None] = ContextVar("sam2fast_step", default=None)


def engine_for(model: Any) -> Engine:
    """The engine of a model, or of what takes its place in a predictor."""
    return _engines.get(model) or _engines.setdefault(model, Engine(model))


def _variant_for(x: Tensor) -> Any:
    """The package that computes plans where ``x`` is; None where modules have to be called: with gradients, compilers
    and meta tensors, and for ``cpu`` with subclasses of tensors and tracers."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return None
    if not _uses_cpu(x):
        return None if x.is_meta else gpu
    return None if type(x) is not Tensor or _is_traced() else cpu


def _uses_cpu(x: Tensor) -> bool:
    """Returns True if ``cpu`` computes: ``x`` is on the CPU, nothing is recorded, and no op backend was chosen.

    Otherwise ``gpu`` computes, also on the CPU: it looks at no values, keeps addresses, and calls ops.
    """
    is_chosen = "cpu" in _dispatch.KERNEL_DEVICES or _dispatch.current_backend() not in ("auto", "torch")
    return x.is_cpu and not is_chosen and not is_recorded()


def _computing(variant: Any) -> AbstractContextManager[Any]:
    """Context manager without autocast for ``cpu``, which would cast in each operation; ``gpu`` sees to its own."""
    if variant is cpu and torch.is_autocast_enabled("cpu"):
        return torch.autocast("cpu", enabled=False)
    return nullcontext()


def _is_traced() -> bool:
    """Returns True if a dispatch mode of torch is active, as in tracers. Users' modes see the ops of plans."""
    if not torch._C._len_torch_dispatch_stack():
        return False
    return any(getattr(mode, "_mode_key", None) is not None for mode in _get_current_dispatch_mode_stack())

"""Runs unmodified parts of a model as functions of their weights, instead of calling the modules.

The modules in ``modeling`` are for training, export, hooks and replacements. The *plan* of a part stores weights in
the order of inference. Functions in ``cpu`` or ``static`` compute the results of the modules from a plan. Only position
encodings are computed by modules. This file selects plans or modules once per call or video frame.
"""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor

from sam2fast.engine import cpu, static
from sam2fast.engine.by_modules import AttentionByModules, ImageByModules, MasksByModules, MemoryByModules
from sam2fast.engine.by_plan import AttentionByPlan, ImageByPlan, MasksByPlan, MemoryByPlan
from sam2fast.engine.common import AttendHook, Clicks, Maps, Masks, Pixels, Points
from sam2fast.engine.derived import current_step, is_recorded
from sam2fast.engine.plans import plan_masks
from sam2fast.engine.plans.encoders import plan_encoder
from sam2fast.engine.plans.memory import plan_attention, plan_memory
from sam2fast.engine.unmodified import (
    PlannedPart,
    Watch,
    attention_roots,
    image_roots,
    mask_roots,
    memory_roots,
    replaced_methods,
)
from sam2fast.kernels import _dispatch
from sam2fast.kernels.memory_attention import AttendedMemory, Fp8
from sam2fast.modeling.sam2_base import (
    OF_DISTANCES,
    OF_GIVEN_MASKS,
    OF_IMAGES,
    OF_OBJECTS,
    MaskChooser,
    ObjectPrediction,
)

__all__ = ["Engine", "Parts", "engine_for"]


class Parts(NamedTuple):
    """Flag for each part of a model. True computes the part from a plan. False calls the modules of the part."""

    image: bool  # image encoder, and the mask decoder's projections of high-resolution features
    masks: bool  # prompt encoder, mask decoder and object pointers
    attention: bool  # memory attention
    memory: bool  # memory encoder, and temporal distances of object pointers


@dataclass(eq=False)
class _Step:
    """Selection of plans or modules for all calls inside :meth:`Engine.one_step`. Replays do not read the selection."""

    engine: "Engine"
    variant: Any = None  # result of _variant_for
    replaced: Any = None  # names from replaced_methods; None before the first call
    selected: dict[Any, Any] = field(default_factory=dict)  # (part, has unmodified methods) -> object, see _choose
    switches: dict[torch.device, Hashable] = field(default_factory=dict)  # torch's flags, from graphs.numerics


class Engine:
    """Computes unmodified parts of a model from plans. Modified parts are computed by calling modules.

    Attributes:
        attend_hook: Function to call before each layer of memory attention attends to the memory, or None. Receives the
            layer index and the arguments of :func:`sam2fast.kernels.memory_attention.memory_attention`.
    """

    def __init__(self, model: Any) -> None:
        self.attend_hook: AttendHook | None = None
        self._model = ref(model)
        self._image = PlannedPart(image_roots, plan_encoder, ImageByPlan, ImageByModules, OF_IMAGES)
        self._masks = PlannedPart(mask_roots, plan_masks, MasksByPlan, MasksByModules)
        self._attention = PlannedPart(attention_roots, plan_attention, AttentionByPlan, AttentionByModules)
        self._memory = PlannedPart(memory_roots, plan_memory, MemoryByPlan, MemoryByModules, OF_OBJECTS)
        self._all = self._image, self._masks, self._attention, self._memory

    def parts(self) -> Parts:
        """Returns a flag for each part: True if the part is computed from a plan, for input on the model's device."""
        model: Any = self._model()
        example = torch.empty(0, device=model.device)
        return Parts(*(self._is_planned(part, example) for part in self._all))

    def _is_planned(self, part: PlannedPart, x: Tensor) -> bool:
        """Returns True if the part is currently computed from a plan, for input with the type and device of ``x``."""
        return isinstance(self._choose(part, x), part.by_plan)

    def watches(self) -> list[Watch | None]:
        """Returns the :class:`Watch` of each part, or None for a modified part. A changed part gets a new watch."""
        return [None if (unmodified := part.look(self._model())) is None else unmodified.watch for part in self._all]

    @contextmanager
    def one_step(self) -> Iterator[list[Watch | None]]:
        """Context manager for several calls. Selects plans or modules, and reads torch's global flags, only once.

        Yields the result of :meth:`watches`.
        """
        watches, token = self.watches(), current_step.set(_Step(self))
        try:
            yield watches
        finally:
            current_step.reset(token)

    def _choose(self, part: PlannedPart, x: Tensor, *methods: str) -> Any:
        """Returns the object that computes a part on the device of ``x``. All calls of a step get the same object.

        Args:
            methods: Other methods of the model that call the part's modules. A replaced method disables the plan.
        """
        model: Any = self._model()
        step = current_step.get()
        if step is None or step.engine is not self:
            step = _Step(self, _variant_for(x), replaced_methods(model))
            if step.variant is not None:
                part.look(model)
        elif step.replaced is None:
            step.variant, step.replaced = _variant_for(x), replaced_methods(model)
        is_original = step.replaced.isdisjoint((*part.methods, *methods))
        key = part, is_original
        if key not in step.selected:
            unmodified = part.unmodified if is_original and step.variant is not None else None
            plan = None if unmodified is None else unmodified.plan
            step.selected[key] = part.by_modules(model) if plan is None else part.by_plan(model, plan, step.variant)
        return step.selected[key]

    def state_of_image(self, images: Tensor) -> Hashable | None:
        """Returns the plan and the addresses of its weights, as key of recordings of :meth:`encode`, or None."""
        model: Any = self._model()
        return (self._image.state(), model.num_feature_levels) if self._is_planned(self._image, images) else None

    def state_of_masks(self, embedding: Tensor) -> Hashable | None:
        """Returns the plan and the addresses of its weights, as key of recordings of :meth:`decode`, or None."""
        return self._masks.state() if self._is_planned(self._masks, embedding) else None

    def encode(self, images: Tensor | Pixels) -> list[Tensor]:
        """Encodes normalized images ``(B, 3, S, S)`` or :class:`Pixels`. See :meth:`SAM2Base.encode_image`."""
        return self._choose(self._image, images if isinstance(images, Tensor) else images.values).encode(images)

    def decode(
        self, embedding: Tensor, high_res: Maps, points: Points | None, prompts: Tensor | None, multimask: bool
    ) -> Masks:
        """Predicts masks for B prompts.

        Args:
            embedding: Embedding ``(B or 1, C, H, W)``.
            high_res: Features ``(B or 1, C/8, 4H, 4W)`` and ``(B or 1, C/4, 2H, 2W)``, or an empty sequence.
            points: Points ``(B, N, 2)`` in input pixels and labels ``(B, N)``. None adds no point tokens.
            prompts: Mask logits ``(B or 1, 1, 4H, 4W)``, or None.
            multimask: If True, predicts three masks instead of one.
        """
        return self._choose(self._masks, embedding).decode(embedding, high_res, points, prompts, multimask)

    def attend(self, features: Tensor, memories: AttendedMemory, fp8: Fp8 = False) -> Tensor:
        """Conditions a frame's map ``(1, C, H, W)`` on the memories of B objects. Returns ``(B, C, H, W)``.

        Args:
            memories: Memories and pointers of the objects.
            fp8: Use of float8, see :func:`sam2fast.kernels.memory_attention.memory_attention`.

        Raises:
            RuntimeError: If memory attention is not computed from a plan, and ``fp8`` is True, :attr:`attend_hook` is
                set, or the model is in training mode.
        """
        return self._choose(self._attention, features).attend(features, memories, fp8, self.attend_hook)

    def propose(
        self, features: Tensor, high_res: Maps, points: Clicks, prompts: Tensor | None, multimask: bool, presence: float
    ) -> Masks:
        """Predicts all fp32 masks, from which :meth:`track` selects. Sets the masks of absent objects to -1024."""
        masks = self._choose(self._masks, features, *OF_OBJECTS)
        return masks.propose(features, high_res, points, prompts, multimask, presence)

    def track(
        self,
        features: Tensor,
        high_res: Maps,
        points: Clicks,
        prompts: Tensor | None,
        multimask: bool,
        presence: float = 0.0,
        chooser: MaskChooser | None = None,
    ) -> ObjectPrediction:
        """Predicts the selected mask, score and pointer of B objects.

        Args:
            features: Map ``(B, C, H, W)``, conditioned on memory.
            points: Dict of ``point_coords (B, N, 2)`` in input pixels and ``point_labels (B, N)``, or None.
            prompts: Mask logits ``(B, 1, h, w)``, or None.
            high_res, multimask: Arguments of :meth:`decode`.
            presence, chooser: Arguments of :meth:`SAM2Base.predict_objects`.
        """
        masks = self._choose(self._masks, features, *OF_OBJECTS)
        return masks.track(chooser, features, high_res, points, prompts, multimask, presence)

    def use_mask(self, features: Tensor, high_res: Maps, mask: Tensor, presence: float = 0.0) -> ObjectPrediction:
        """Converts input masks ``mask (B, 1, S, S)`` to a prediction. The mask decoder predicts the object pointers.

        Args:
            features: Map ``(B, C, H, W)``, not conditioned on memory.
            high_res, presence: Arguments of :meth:`track`.
        """
        return self._choose(self._masks, features, *OF_GIVEN_MASKS).use_mask(features, high_res, mask, presence)

    def encode_memory(self, features: Tensor, logits: Tensor, scores: Tensor, from_prompt: bool) -> Tensor:
        """Encodes memories ``(B, C_mem, H, W)`` of B objects on a frame.

        Args:
            features: Map ``(1 or B, C, H, W)`` of the frame, not conditioned on memory.
            logits: Mask logits ``(B, 1, h, w)``, to be upsampled to the model's input size.
            scores: Object score logits ``(B, 1)``.
            from_prompt: If True, the masks come from prompts. Masks from prompts are binarized if configured.
        """
        return self._choose(self._memory, features).encode_memory(features, logits, scores, from_prompt)

    def encode_distances(self, distance: Tensor, valid: Tensor, num_frames: int) -> Tensor:
        """Encodes temporal distances of object pointers. Returns ``(B, P * C / C_mem, C_mem)``, one row per token.

        Args:
            distance: Distances ``(B, P)`` in frames.
            valid: Bool tensor ``(B, P)``, True for existing pointers.
            num_frames: Length of the video.
        """
        return self._choose(self._memory, distance, *OF_DISTANCES).encode_distances(distance, valid, num_frames)


_engines: "WeakKeyDictionary[Any, Engine]" = WeakKeyDictionary()


def engine_for(model: Any) -> Engine:
    """Returns the engine of a model, or of an object that replaces the model in a predictor."""
    return _engines.get(model) or _engines.setdefault(model, Engine(model))


def _variant_for(x: Tensor) -> Any:
    """Returns the package that computes plans on the device of ``x``, or None if modules must be called.

    Modules are called if gradients are enabled, in torch.compile, and for meta tensors. On the CPU, modules are also
    called for tensor subclasses and in tracers.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return None
    if not _uses_cpu(x):
        return None if x.is_meta else static
    return None if type(x) is not Tensor or _dispatch.is_traced() else cpu


def _uses_cpu(x: Tensor) -> bool:
    """Returns True to use ``cpu``: ``x`` is on the CPU, nothing is recorded, and no kernel backend was selected.

    Otherwise ``static`` is used, even on the CPU: it reads no tensor values, keeps addresses, and calls kernel ops.
    """
    has_backend = "cpu" in _dispatch.KERNEL_DEVICES or _dispatch.current_backend() not in ("auto", "torch")
    return x.is_cpu and not has_backend and not is_recorded()

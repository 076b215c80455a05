"""Inference without the modules of a model: unmodified parts are computed by functions of their weights.

``modeling`` has the modules, which are trained, exported, hooked and replaced. Here, a *plan* of a part stores its
weights in the order in which they are read, and functions in ``cpu`` or ``static`` compute from it what the modules
compute. Only position encodings remain modules. This file chooses, once for each call or video frame.
"""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from sam2fast.engine import cpu, parts, static
from sam2fast.engine.by_modules import AttentionByModules, ImageByModules, MasksByModules, MemoryByModules
from sam2fast.engine.by_plan import AttentionByPlan, ImageByPlan, MasksByPlan, MemoryByPlan
from sam2fast.engine.common import AttendHook, Clicks, Maps, Masks, Pixels, Points
from sam2fast.engine.derived import current_step, is_recorded
from sam2fast.engine.encoders import plan_encoder
from sam2fast.engine.memory_plan import plan_attention, plan_memory
from sam2fast.engine.parts import PlannedPart, Watch
from sam2fast.engine.plan import plan_masks
from sam2fast.kernels import _dispatch
from sam2fast.kernels.memory_attention import AttendedMemory, Fp8
from sam2fast.modeling.sam2_base import (
    OF_DISTANCES,
    OF_GIVEN_MASKS,
    OF_IMAGES,
    OF_OBJECTS,
    HypothesisSelection,
    ObjectPrediction,
)

__all__ = ["Engine", "Parts", "engine_for"]


class Parts(NamedTuple):
    """Stores for each part of a model if it is computed from a plan."""

    image: bool  # image encoder, and the mask decoder's projections of its high-resolution features
    masks: bool  # prompt encoder and mask decoder
    attention: bool  # memory attention
    memory: bool  # memory encoder and object pointers


@dataclass(eq=False)
class _Step:
    """Stores the choice of :meth:`Engine.one_step` for the calls inside it. Replays of recordings do not ask for it."""

    engine: "Engine"
    variant: Any = None  # see _variant_for
    replaced: Any = None  # set of names, see replaced_methods; None before the first call
    chosen: dict[Any, Any] = field(default_factory=dict)  # what computes a part; key: part, True if methods are its own
    switches: dict[torch.device, Hashable] = field(default_factory=dict)  # see sam2fast.engine.graphs.numerics


class Engine:
    """Computes the parts of a model: unmodified ones from plans, and modified ones by their modules.

    Attributes:
        attend_hook: Function that is called before a layer of memory attention attends to the memory, or None.
            Arguments are the layer's number and those of :func:`sam2fast.kernels.memory_attention.memory_attention`.
    """

    def __init__(self, model: Any) -> None:
        self.attend_hook: AttendHook | None = None
        self._model = ref(model)
        self._image = PlannedPart(parts.image_roots, plan_encoder, ImageByPlan, ImageByModules, OF_IMAGES)
        self._masks = PlannedPart(parts.mask_roots, plan_masks, MasksByPlan, MasksByModules)
        self._attention = PlannedPart(parts.attention_roots, plan_attention, AttentionByPlan, AttentionByModules)
        self._memory = PlannedPart(parts.memory_roots, plan_memory, MemoryByPlan, MemoryByModules, OF_OBJECTS)
        self._all = self._image, self._masks, self._attention, self._memory

    def parts(self) -> Parts:
        """Returns the parts that would be computed from plans now, for input on the model's device."""
        model: Any = self._model()
        example = torch.empty(0, device=model.device)
        return Parts(*(self._is_planned(part, example) for part in self._all))

    def _is_planned(self, part: PlannedPart, x: Tensor) -> bool:
        """Returns True if the part would be computed from a plan now, for input like ``x``."""
        return isinstance(self._choose(part, x), part.by_plan)

    def watches(self) -> list[Watch | None]:
        """Returns the watch of each part, or None for a modified part. A part gets another watch after a change."""
        return [None if (found := part.look(self._model())) is None else found.watch for part in self._all]

    @contextmanager
    def one_step(self) -> Iterator[list[Watch | None]]:
        """Context manager in which all calls have one choice between plans and modules, and torch's switches are fixed.

        Yields the result of :meth:`watches`.
        """
        watches, token = self.watches(), current_step.set(_Step(self))
        try:
            yield watches
        finally:
            current_step.reset(token)

    def _choose(self, part: PlannedPart, x: Tensor, *methods: str) -> Any:
        """Returns the object that computes a part for input like ``x``. The first choice in a step holds for the step.

        Args:
            methods: Methods of the model that also call the modules. If a user replaced one, the modules are called.
        """
        model: Any = self._model()
        step = current_step.get()
        if step is None or step.engine is not self:
            step = _Step(self, _variant_for(x), parts.replaced_methods(model))
            if step.variant is not None:
                part.look(model)
        elif step.replaced is None:
            step.variant, step.replaced = _variant_for(x), parts.replaced_methods(model)
        is_original = step.replaced.isdisjoint((*part.methods, *methods))
        if (part, is_original) not in step.chosen:
            found = part.found if is_original and step.variant is not None else None
            plan = None if found is None else found.plan
            chosen = part.by_modules(model) if plan is None else part.by_plan(model, plan, step.variant)
            step.chosen[part, is_original] = chosen
        return step.chosen[part, is_original]

    def state_of_image(self, images: Tensor) -> Hashable | None:
        """Returns the plan and the addresses of its weights, on which recordings of :meth:`encode` depend, or None."""
        model: Any = self._model()
        return (self._image.state(), model.num_feature_levels) if self._is_planned(self._image, images) else None

    def state_of_masks(self, embedding: Tensor) -> Hashable | None:
        """Returns the plan and the addresses of its weights, on which recordings of :meth:`decode` depend, or None."""
        return self._masks.state() if self._is_planned(self._masks, embedding) else None

    def encode(self, images: Tensor | Pixels) -> list[Tensor]:
        """Encodes normalized images ``(B, 3, S, S)``, or pixels; see :meth:`SAM2Base.encode_image`."""
        return self._choose(self._image, images if isinstance(images, Tensor) else images.values).encode(images)

    def decode(
        self, embedding: Tensor, high_res: Maps, points: Points | None, prompts: Tensor | None, multimask: bool
    ) -> Masks:
        """Predicts the masks of B prompts.

        Args:
            embedding: Tensor ``(B or 1, C, H, W)``.
            high_res: Maps ``(B or 1, C/8, 4H, 4W)`` and ``(B or 1, C/4, 2H, 2W)``, or none.
            points: Points ``(B, N, 2)`` in input pixels and labels ``(B, N)``, or None for no point tokens at all.
            prompts: Mask logits ``(B or 1, 1, 4H, 4W)``, or None.
            multimask: If True, predicts three masks instead of one.
        """
        return self._choose(self._masks, embedding).decode(embedding, high_res, points, prompts, multimask)

    def attend(self, features: Tensor, memories: AttendedMemory, fp8: Fp8 = False) -> Tensor:
        """Conditions a frame's map ``(1, C, H, W)`` on the memories of B objects: ``(B, C, H, W)``.

        Args:
            memories: Memories and pointers of the objects.
            fp8: See :func:`sam2fast.kernels.memory_attention.memory_attention`.

        Raises:
            RuntimeError: If the modules of memory attention are called, and ``fp8`` is True, there is an
                :attr:`attend_hook`, or the model is in training mode.
        """
        return self._choose(self._attention, features).attend(features, memories, fp8, self.attend_hook)

    def propose(
        self, features: Tensor, high_res: Maps, points: Clicks, prompts: Tensor | None, multimask: bool, presence: float
    ) -> Masks:
        """Predicts all masks among which :meth:`track` selects, in fp32. Masks of absent objects are -1024."""
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
        selection: HypothesisSelection | None = None,
    ) -> ObjectPrediction:
        """Predicts the selected mask, score and pointer of B objects.

        Args:
            features: Tensor ``(B, C, H, W)``, conditioned on memory.
            points: Dict of ``point_coords (B, N, 2)`` in input pixels and ``point_labels (B, N)``, or None for one
                padding point in each prompt.
            prompts: Mask logits ``(B, 1, h, w)``, or None.
            high_res, multimask: See :meth:`decode`.
            presence, selection: See :meth:`SAM2Base.predict_objects`.
        """
        masks, memory = self._choose(self._masks, features, *OF_OBJECTS), self._choose(self._memory, features)
        return masks.track(memory, selection, features, high_res, points, prompts, multimask, presence)

    def use_mask(self, features: Tensor, high_res: Maps, given: Tensor, presence: float = 0.0) -> ObjectPrediction:
        """Returns masks ``(B, 1, S, S)`` as a prediction, with pointers that the mask decoder predicts from them.

        Args:
            features: Tensor ``(B, C, H, W)``, not conditioned on memory.
            high_res, presence: See :meth:`track`.
        """
        masks = self._choose(self._masks, features, *OF_OBJECTS)
        memory = self._choose(self._memory, features, *OF_GIVEN_MASKS)
        return memory.use_mask(masks, features, high_res, given, presence)

    def encode_memory(self, features: Tensor, logits: Tensor, scores: Tensor, from_prompt: bool) -> Tensor:
        """Encodes memories ``(B, C_mem, H, W)`` of B objects on a frame.

        Args:
            features: Map ``(1 or B, C, H, W)`` of the frame, not conditioned on memory.
            logits: Masks ``(B, 1, h, w)``, which are upsampled to the image's size.
            scores: Logits ``(B, 1)`` of the objects' presence.
            from_prompt: If True, the masks come from prompts, and are binarized if so configured.
        """
        return self._choose(self._memory, features).encode_memory(features, logits, scores, from_prompt)

    def encode_distances(self, distance: Tensor, valid: Tensor, num_frames: int) -> Tensor:
        """Encodes distances of object pointers for each of their tokens, ``(B, P * C / C_mem, C_mem)``.

        Args:
            distance: Numbers of frames ``(B, P)``.
            valid: Bool ``(B, P)``, True for existing pointers.
            num_frames: Length of the video.
        """
        return self._choose(self._memory, distance, *OF_DISTANCES).encode_distances(distance, valid, num_frames)


_engines: "WeakKeyDictionary[Any, Engine]" = WeakKeyDictionary()


def engine_for(model: Any) -> Engine:
    """Returns the engine of a model, or of an object that replaces it in a predictor."""
    return _engines.get(model) or _engines.setdefault(model, Engine(model))


def _variant_for(x: Tensor) -> Any:
    """Returns the package that computes plans on the device of ``x``, or None if modules have to be called.

    Modules are called with gradients, compilers and meta tensors, and on the CPU with tensor subclasses and tracers.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return None
    if not _uses_cpu(x):
        return None if x.is_meta else static
    return None if type(x) is not Tensor or _is_traced() else cpu


def _uses_cpu(x: Tensor) -> bool:
    """Returns True if ``cpu`` computes: ``x`` is on the CPU, nothing is recorded, and no op backend was chosen.

    Otherwise ``static`` computes, also on the CPU: it looks at no values, keeps addresses, and calls ops.
    """
    is_chosen = "cpu" in _dispatch.KERNEL_DEVICES or _dispatch.current_backend() not in ("auto", "torch")
    return x.is_cpu and not is_chosen and not is_recorded()


def _is_traced() -> bool:
    """Returns True if a dispatch mode of torch is active, as in tracers. Users' modes see the ops of plans."""
    if not torch._C._len_torch_dispatch_stack():
        return False
    return any(getattr(mode, "_mode_key", None) is not None for mode in _get_current_dispatch_mode_stack())

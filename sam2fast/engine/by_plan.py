"""Computes the four parts of a model from plans with functions of ``cpu`` or ``static``. See :class:`Engine`."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sam2fast.engine import common, cpu, static
from sam2fast.engine.common import AttendHook, Maps, Masks, Pixels, normalized
from sam2fast.engine.plans import in_dtype
from sam2fast.engine.plans.memory import settings_of
from sam2fast.kernels.memory_attention import AttendedMemory, Fp8
from sam2fast.modeling.sam2_base import MaskChooser, ObjectPrediction


class _ByPlan:
    """Base class. Computes a part from its plan.

    Under autocast, this class casts the weights for ``cpu``, and disables autocast. ``static`` casts weights itself.

    Args:
        plan: Plan of the part. A compiled plan always uses ``static``.
        variant: Package ``cpu`` or ``static``.
    """

    def __init__(self, model: Any, plan: Any, variant: Any) -> None:
        self.context: Callable[[], AbstractContextManager[Any]] = nullcontext
        self.model, self.plan, self.variant = model, plan, static if plan.compiled else variant
        if self.variant is cpu and torch.is_autocast_enabled("cpu"):
            self.context = partial(torch.autocast, "cpu", enabled=False)
            with self.context():  # without autocast, because in_dtype multiplies some weights before the cast
                self.plan = in_dtype(plan, torch.get_autocast_dtype("cpu"))


class ImageByPlan(_ByPlan):
    def encode(self, images: Tensor | Pixels) -> list[Tensor]:
        images = images if self.variant is static else normalized(images)
        with self.context():
            return self.variant.encode(self.plan, images)[-self.model.num_feature_levels :]


class MasksByPlan(_ByPlan):
    def decode(self, *prompts: Any) -> Masks:
        with self.context():
            return self.variant.masks.decode(self.plan, *prompts)

    def propose(self, x: Tensor, high_res: Maps, points: Any, prompts: Any, multimask: bool, presence: float) -> Masks:
        with self.context():
            tracked = common.tracked_prompts(self.plan, points, prompts, len(x))
            masks = self.variant.masks.decode(self.plan, x, high_res, *tracked, multimask)
            return common.suppress_absent(self.plan, masks, presence if self.model.pred_obj_scores else None)

    def track(self, chooser: MaskChooser | None, *inputs: Any) -> ObjectPrediction:
        x, high_res, points, prompts, multimask, presence = inputs
        if chooser is not None:
            return self.build_prediction(self.propose(*inputs), presence, chooser)
        with self.context():
            tracked = common.tracked_prompts(self.plan, points, prompts, len(x))
            masks = self.variant.masks.decode(self.plan, x, high_res, *tracked, multimask)
        return self.build_prediction(masks, presence, None)  # suppresses only the selected mask

    def build_prediction(self, masks: Masks, presence: float, chooser: MaskChooser | None) -> ObjectPrediction:
        with self.context():
            pointers_of = partial(self.variant.masks.pointers_of, self.plan)
            return common.build_prediction(pointers_of, settings_of(self.model), masks, presence, chooser)

    def use_mask(self, x: Tensor, high_res: Maps, mask: Tensor, presence: float) -> ObjectPrediction:
        pointers = mask.new_zeros(len(mask), self.model.hidden_dim, dtype=torch.float32)
        if self.plan.mask_downsample is not None:
            with self.context():
                prompts = self.variant.masks.downsampled(self.plan, mask)
            pointers = self.track(None, x, high_res, None, prompts, False, presence).pointer
        with self.context():
            return common.prediction_from_masks(settings_of(self.model), mask, pointers)


class AttentionByPlan(_ByPlan):
    def attend(self, features: Tensor, memories: AttendedMemory, fp8: Fp8, hook: AttendHook | None) -> Tensor:
        position = self.model.image_encoder.neck.position_encoding(features)
        with self.context():
            return self.variant.memory.attend(self.plan, features, position, memories, fp8, hook)


class MemoryByPlan(_ByPlan):
    def encode_memory(self, *inputs: Any) -> Tensor:
        with self.context():
            return self.variant.memory.encode(self.plan, settings_of(self.model), *inputs)

    def encode_distances(self, distance: Tensor, valid: Tensor, num_frames: int) -> Tensor:
        with self.context():
            return self.variant.memory.encode_distances(self.plan, settings_of(self.model), distance, num_frames)

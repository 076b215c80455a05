"""Private methods of the original's video predictor that its own tools and other programs call."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from sam2fast.compat.legacy_state import legacy_views, memory_position
from sam2fast.kernels.mask_ops import upsample_masks
from sam2fast.kernels.memory_attention import AttendedMemory
from sam2fast.modeling.memory_selection import MemoryRules, select_memories
from sam2fast.modeling.sam2_base import NO_OBJ_SCORE
from sam2fast.tracking.eager_runner import attended_memory, encode_masks, fill_holes, predict
from sam2fast.tracking.session_api import TrackingModel
from sam2fast.tracking.state import TrackedObject, VideoState, Views
from sam2fast.tracking.tracker import Tracker

Output = Mapping[str, Any]

# The original's predictor computes through these. Here they return the same, but nothing calls them.
UNCALLED = frozenset(
    {
        "track_step",
        "forward_image",
        "_track_step",
        "_prepare_memory_conditioned_features",
        "_encode_memory_in_output",
        "_encode_new_memory",
        "_forward_sam_heads",
        "_prepare_backbone_features",
        "_get_image_feature",
        "_get_maskmem_pos_enc",
        "_run_single_frame_inference",
        "_run_memory_encoder",
        "_consolidate_temp_output_across_obj",
        "_clear_obj_non_cond_mem_around_input",
        "_obj_id_to_idx",
        "_obj_idx_to_id",
        "_get_obj_num",
        "_reset_tracking_results",
    }
)

# Where a kernel does what the original does in one method that calls another.
CALLED_BY = {"_get_orig_video_res_output": "_apply_non_overlapping_constraints"}


class PrivateApi(TrackingModel):
    """Mixin of the video predictor: the original's private names, arguments and results."""

    _originals: ClassVar[Mapping[str, Any]]  # sam2fast's methods, of which the tracker has functions

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Warns about methods of a user's subclass that have no effect here."""
        super().__init_subclass__(**kwargs)
        ignored = sorted(UNCALLED & vars(cls).keys())
        if ignored and not cls.__module__.startswith("sam2fast."):
            warnings.warn(
                f"{cls.__name__} overrides {', '.join(ignored)}, which sam2fast's predictor does not call: all objects "
                "are computed as one batch. For other rules of memories and masks set memory_selection and "
                "mask_selection (docs/research.md), or drive the model yourself by track_step.",
                stacklevel=2,
            )

    @property
    def _tracker(self) -> Tracker:
        """The tracker of the model; it calls a user's own methods where it has functions of its own for them."""
        tracker = super()._tracker
        tracker.override = self._override
        return tracker

    def _override(self, name: str) -> Callable[..., Any] | None:
        """The method of a subclass, or one patched on the class or instance; None for sam2fast's."""
        names = {name, CALLED_BY.get(name, name)}
        overridden = any(n in vars(self) or getattr(type(self), n) is not self._originals[n] for n in names)
        return getattr(self, name) if overridden else None

    def _views(self) -> Views:
        return legacy_views(self)

    def _obj_id_to_idx(self, inference_state: VideoState, obj_id: Any) -> int:
        """Position of an object among all; an unknown id becomes a new object without prompts."""
        if obj_id not in inference_state.objects:
            inference_state.add(obj_id, TrackedObject())
        return inference_state.obj_ids.index(obj_id)

    def _obj_idx_to_id(self, inference_state: VideoState, obj_idx: int) -> Any:
        return inference_state.obj_ids[obj_idx]

    def _get_obj_num(self, inference_state: VideoState) -> int:
        return len(inference_state.objects)

    def _reset_tracking_results(self, inference_state: VideoState) -> None:
        """Removes prompts and results; the objects' ids stay."""
        for tracked in inference_state.objects.values():
            tracked.clear()

    def _clear_non_cond_mem_around_input(self, inference_state: VideoState, frame_idx: int) -> None:
        """Removes all objects' tracked frames near this one, and this one."""
        for tracked in inference_state.objects.values():
            tracked.forget_around(frame_idx, self._tracker.clearing_distance)
            tracked.tracked.pop(frame_idx, None)

    def _get_orig_video_res_output(self, inference_state: VideoState, any_res_masks: Tensor) -> tuple[Tensor, Tensor]:
        """The masks ``(N, 1, h, w)``, and the same at the video's size, without overlaps if so configured."""
        masks = any_res_masks = any_res_masks.to(inference_state.device)
        if masks.shape[-2:] != inference_state.video_size:
            masks = upsample_masks(masks, inference_state.video_size)
        if self.non_overlap_masks and len(masks):
            masks = self._apply_non_overlapping_constraints(masks)
        return any_res_masks, masks

    def _consolidate_temp_output_across_obj(
        self, inference_state: VideoState, frame_idx: int, is_cond: bool, consolidate_at_video_res: bool = False
    ) -> dict[str, Tensor]:
        """Latest logits of all objects on a frame, -1024 where there are none, under the original's key."""
        state = inference_state
        low = self.image_size // 4
        size = state.video_size if consolidate_at_video_res else (low, low)
        masks = torch.full((len(state.objects), 1, *size), NO_OBJ_SCORE, device=state.storage_device)
        for i, tracked in enumerate(state.objects.values()):
            result = tracked.result_on(frame_idx, is_cond)
            if result is not None:
                mask = result.mask.to(state.storage_device)
                masks[i : i + 1] = mask if mask.shape[-2:] == size else upsample_masks(mask, size)
        return {"pred_masks_video_res" if consolidate_at_video_res else "pred_masks": masks}

    @torch.inference_mode()
    def _get_image_feature(
        self, inference_state: VideoState, frame_idx: int, batch_size: int
    ) -> tuple[Tensor, dict[str, Any], list[Tensor], list[Tensor], list[tuple[int, int]]]:
        """The image, its features as a dict and as tokens of each level, their encodings and sizes."""
        (features,) = self._tracker.encode(inference_state, [frame_idx])
        levels = [level.expand(batch_size, -1, -1, -1) for level in (*features.high_res, features.embedding)]
        encode = self.image_encoder.neck.position_encoding
        backbone_out = {"backbone_fpn": levels, "vision_pos_enc": [encode(x).to(x.dtype) for x in levels]}
        image = inference_state.frames[frame_idx].to(inference_state.device).expand(batch_size, -1, -1, -1)
        return (image, *self._prepare_backbone_features(backbone_out))

    @torch.inference_mode()
    def _run_single_frame_inference(
        self,
        inference_state: VideoState,
        output_dict: Mapping[str, Mapping[int, Output]],
        frame_idx: int,
        batch_size: int,
        is_init_cond_frame: bool,
        point_inputs: dict[str, Tensor] | None,
        mask_inputs: Tensor | None,
        reverse: bool,
        run_mem_encoder: bool,
        prev_sam_mask_logits: Tensor | None = None,
    ) -> tuple[dict[str, Any], Tensor]:
        """One object on one frame, from outputs in the original's format; nothing is stored.

        Raises:
            ValueError: points and a mask at once, or a batch that is not 1.
        """
        if point_inputs is not None and mask_inputs is not None:
            raise ValueError("give points or a mask, not both")
        if batch_size != 1:
            raise ValueError(f"batch_size is {batch_size}; outputs in this format are of one object each, so give 1")
        state = inference_state
        (features,) = self._tracker.encode(state, [frame_idx])
        memory = None
        if not is_init_cond_frame and self.num_maskmem:
            memory = self._memory_of(output_dict, frame_idx, state.num_frames, reverse)
        prompt, fp8 = (point_inputs, mask_inputs, prev_sam_mask_logits), state.bank.fp8
        prediction = predict(self, features, memory, is_init_cond_frame, *prompt, fp8=fp8)
        memory_features = memory_pos_enc = None
        if run_mem_encoder and self.num_maskmem:
            from_prompt = point_inputs is not None
            memory_features = encode_masks(self, features, prediction.mask, prediction.score, from_prompt)
            memory_features, memory_pos_enc = memory_features.to(state.storage_device), self._memory_position(state)
        filled = fill_holes(prediction.mask, self.fill_hole_area)
        output = {
            "maskmem_features": memory_features,
            "maskmem_pos_enc": memory_pos_enc,
            "pred_masks": filled.to(state.storage_device),
            "obj_ptr": prediction.pointer,
            "object_score_logits": prediction.score,
        }
        return output, filled

    @torch.inference_mode()
    def _run_memory_encoder(
        self,
        inference_state: VideoState,
        frame_idx: int,
        batch_size: int,
        high_res_masks: Tensor,
        object_score_logits: Tensor,
        is_mask_from_pts: bool,
    ) -> tuple[Tensor, list[Tensor]]:
        """Memory ``(B, C_mem, H, W)`` of masks ``(B, 1, S, S)`` on a frame, and its position encoding."""
        _, _, features, _, sizes = self._get_image_feature(inference_state, frame_idx, batch_size)
        memory, _ = self._encode_new_memory(features, sizes, high_res_masks, object_score_logits, is_mask_from_pts)
        return memory.to(inference_state.storage_device), self._memory_position(inference_state)

    def _memory_position(self, state: VideoState) -> list[Tensor]:
        return memory_position(self.memory_encoder.position_encoding, state.bank.layout)

    def _get_maskmem_pos_enc(self, inference_state: VideoState, current_out: Mapping[str, Any]) -> list[Tensor] | None:
        """The position encoding of memories, which is the same for all; None if the output has none."""
        return None if current_out["maskmem_pos_enc"] is None else self._memory_position(inference_state)

    def _memory_of(
        self, output_dict: Mapping[str, Mapping[int, Output]], frame: int, num_frames: int, reverse: bool
    ) -> AttendedMemory:
        """What one object attends to, from outputs in the original's format."""
        conditioning, tracked = (output_dict[f"{kind}_frame_outputs"] for kind in ("cond", "non_cond"))
        chosen = select_memories(frame, conditioning, tracked, num_frames, reverse, MemoryRules.of(self))
        outputs = {**tracked, **conditioning}
        device = self.device
        pages = torch.cat([outputs[t]["maskmem_features"].to(device) for t, _ in chosen.memories])
        pointers = [outputs[t]["obj_ptr"].float() for t, _ in chosen.pointers]
        P = len(pointers)
        return attended_memory(
            self,
            pages.flatten(2).transpose(1, 2),
            torch.arange(len(pages), dtype=torch.int32, device=device)[None],
            torch.tensor([[row for _, row in chosen.memories]], dtype=torch.int32, device=device),
            torch.stack(pointers, dim=1) if P else torch.zeros(1, 0, self.hidden_dim, device=device),
            torch.tensor([[float(d) for _, d in chosen.pointers]], device=device).reshape(1, P),
            torch.ones(1, P, dtype=torch.bool, device=device),
            num_frames,
        )

"""Implements the private methods of the official video predictor, for sessions that are the official nested dicts.

sam2fast calls the methods only if a method is overridden (see :mod:`~sam2fast.compat.overridden`), or if a session was
converted to the official dict. Most calls are in :mod:`~sam2fast.compat.official_flow`, object by object.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sam2fast.compat.video_state import KINDS, PER_OBJECT, VideoState, new_object
from sam2fast.engine.by_modules import FastProducts
from sam2fast.kernels.mask_ops import upsample_masks
from sam2fast.modeling.sam2_base import NO_OBJ_SCORE, SAM2Base
from sam2fast.prompt_inputs import plain_id
from sam2fast.tracking.step import fill_holes


class PrivateMethods(SAM2Base):
    """Mixin with the private methods of the official video predictor: the same names, arguments and results."""

    fill_hole_area: float
    non_overlap_masks: bool

    def _obj_id_to_idx(self, inference_state: VideoState, obj_id: Any) -> int:
        """Returns the index of an object. If the id is unknown, adds an object without prompts."""
        obj_id = plain_id(obj_id)
        index = inference_state["obj_id_to_idx"].get(obj_id)
        if index is not None:
            return int(index)
        is_dict = not isinstance(inference_state, VideoState)  # the session is a caller's dict
        return new_object(inference_state if is_dict else inference_state.to_official("an object was added"), obj_id)

    def _obj_idx_to_id(self, inference_state: VideoState, obj_idx: int) -> Any:
        return inference_state["obj_idx_to_id"][obj_idx]

    def _get_obj_num(self, inference_state: VideoState) -> int:
        return len(inference_state["obj_idx_to_id"])

    def _reset_tracking_results(self, inference_state: VideoState) -> None:
        """Removes prompts and results, but not the objects' ids."""
        for key in PER_OBJECT:
            for entries in inference_state[key].values():
                for by_frame in entries.values() if "output" in key else [entries]:
                    by_frame.clear()

    def _clear_obj_non_cond_mem_around_input(self, inference_state: VideoState, frame_idx: int, obj_idx: int) -> None:
        """Removes one object's tracked results on this frame and on near frames."""
        distance = self.memory_temporal_stride_for_eval * self.num_maskmem
        tracked = inference_state["output_dict_per_obj"][obj_idx][KINDS[False]]
        for near in [t for t in tracked if abs(t - frame_idx) <= distance]:
            del tracked[near]

    def _clear_non_cond_mem_around_input(self, inference_state: VideoState, frame_idx: int) -> None:
        """Removes all objects' tracked results on this frame and on near frames."""
        for obj_idx in range(self._get_obj_num(inference_state)):
            self._clear_obj_non_cond_mem_around_input(inference_state, frame_idx, obj_idx)

    def _get_orig_video_res_output(self, inference_state: VideoState, any_res_masks: Tensor) -> tuple[Tensor, Tensor]:
        """Returns masks ``(N, 1, h, w)`` on the device, and video-sized masks, disjoint if ``non_overlap_masks``."""
        masks = any_res_masks = any_res_masks.to(inference_state["device"])
        size = (inference_state["video_height"], inference_state["video_width"])
        if masks.shape[-2:] != size:
            masks = upsample_masks(masks, size)
        if self.non_overlap_masks and len(masks):
            masks = self._apply_non_overlapping_constraints(masks)
        return any_res_masks, masks

    def _consolidate_temp_output_across_obj(
        self, inference_state: VideoState, frame_idx: int, is_cond: bool, consolidate_at_video_res: bool = False
    ) -> dict[str, Tensor]:
        """Returns the latest mask logits of objects on a frame, by the official key; -1024 if there is no result."""
        state, low = inference_state, self.sam_prompt_encoder.mask_input_size
        size = (state["video_height"], state["video_width"]) if consolidate_at_video_res else low
        count = self._get_obj_num(state)
        masks = torch.full((count, 1, *size), NO_OBJ_SCORE, device=state["storage_device"])
        for i in range(count):
            new, results = state["temp_output_dict_per_obj"][i][KINDS[is_cond]], state["output_dict_per_obj"][i]
            latest = next((x for x in (new, results[KINDS[True]], results[KINDS[False]]) if frame_idx in x), None)
            if latest is not None:
                mask = latest[frame_idx]["pred_masks"]
                masks[i : i + 1] = mask if mask.shape[-2:] == size else upsample_masks(mask, size)
        return {"pred_masks_video_res" if consolidate_at_video_res else "pred_masks": masks}

    @torch.inference_mode()
    def _get_image_feature(
        self, inference_state: VideoState, frame_idx: int, batch_size: int
    ) -> tuple[Tensor, dict[str, Any], list[Tensor], list[Tensor], list[tuple[int, int]]]:
        """Returns the image, the features as a dict, and the tokens, position encodings and sizes of all levels."""
        state = inference_state
        image, backbone_out = state["cached_features"].get(frame_idx, (None, None))
        if backbone_out is None:
            image = state["images"][frame_idx].to(state["device"]).float()[None]
            with FastProducts():
                backbone_out = self.forward_image(image)
            state["cached_features"] = {frame_idx: (image, backbone_out)}
        names = "backbone_fpn", "vision_pos_enc"
        expanded = {name: [x.expand(batch_size, -1, -1, -1) for x in backbone_out[name]] for name in names}
        return (image.expand(batch_size, -1, -1, -1), *self._prepare_backbone_features(expanded))

    @torch.inference_mode()
    def _run_single_frame_inference(
        self,
        inference_state: VideoState,
        output_dict: Mapping[str, Mapping[int, Mapping[str, Any]]],
        frame_idx: int,
        batch_size: int,
        is_init_cond_frame: bool,
        point_inputs: dict[str, Tensor] | None,
        mask_inputs: Tensor | None,
        reverse: bool,
        run_mem_encoder: bool,
        prev_sam_mask_logits: Tensor | None = None,
    ) -> tuple[dict[str, Any], Tensor]:
        """Returns the official output dict on a frame, and mask logits. Points with a mask raise ``ValueError``."""
        if point_inputs is not None and mask_inputs is not None:
            raise ValueError("give points or a mask, not both")
        _, _, features, positions, sizes = self._get_image_feature(inference_state, frame_idx, batch_size)
        with FastProducts():
            current = self.track_step(
                frame_idx=frame_idx,
                is_init_cond_frame=is_init_cond_frame,
                current_vision_feats=features,
                current_vision_pos_embeds=positions,
                feat_sizes=sizes,
                point_inputs=point_inputs,
                mask_inputs=mask_inputs,
                output_dict=output_dict,
                num_frames=inference_state["num_frames"],
                track_in_reverse=reverse,
                run_mem_encoder=run_mem_encoder,
                prev_sam_mask_logits=prev_sam_mask_logits,
            )
        filled = fill_holes(current["pred_masks"], self.fill_hole_area)
        output = {
            "maskmem_features": _stored(inference_state, current["maskmem_features"]),
            "maskmem_pos_enc": self._get_maskmem_pos_enc(inference_state, current),
            "pred_masks": filled.to(inference_state["storage_device"]),
            "obj_ptr": current["obj_ptr"],
            "object_score_logits": current["object_score_logits"],
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
    ) -> tuple[Tensor, list[Tensor] | None]:
        """Encodes masks ``(B, 1, S, S)`` as memories ``(B, C_mem, H, W)``. Returns memories and position encodings."""
        _, _, features, _, sizes = self._get_image_feature(inference_state, frame_idx, batch_size)
        with FastProducts():
            memory, position = self._encode_new_memory(
                current_vision_feats=features,
                feat_sizes=sizes,
                pred_masks_high_res=high_res_masks,
                object_score_logits=object_score_logits,
                is_mask_from_pts=is_mask_from_pts,
            )
        positions = self._get_maskmem_pos_enc(inference_state, {"maskmem_pos_enc": position})
        return _stored(inference_state, memory), positions

    def _get_maskmem_pos_enc(self, inference_state: VideoState, current_out: Mapping[str, Any]) -> list[Tensor] | None:
        """Returns the position encoding of memories, or None. The session stores one encoding for all frames."""
        positions = current_out["maskmem_pos_enc"]
        if positions is None:
            return None
        constants = inference_state["constants"]
        if "maskmem_pos_enc" not in constants:
            constants["maskmem_pos_enc"] = [x[:1].clone() for x in positions]
        return [x.expand(len(positions[0]), -1, -1, -1) for x in constants["maskmem_pos_enc"]]


def _stored(session: Mapping[str, Any], memory: Tensor | None) -> Any:
    """Moves a memory to the session's storage device. Unlike official memories, it is not rounded to bfloat16."""
    return None if memory is None else memory.to(session["storage_device"])

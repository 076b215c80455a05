"""``track_step`` and related methods with the original's signatures, on nested dicts of earlier outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2fast.modeling.memory_selection import MemoryRules, Selection, select_memories
from sam2fast.modeling.position_encoding import sine_1d, sine_periods

if TYPE_CHECKING:
    from sam2fast.modeling.memory_attention import MemoryAttention
    from sam2fast.modeling.memory_encoder import MemoryEncoder
    from sam2fast.modeling.perceiver import PerceiverResampler

Output = Mapping[str, Any]
# The seven results of SAM2Base._forward_sam_heads.
Heads = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


class OfficialSteps(nn.Module):
    """Mixin of :class:`~sam2fast.modeling.sam2_base.SAM2Base`: ``track_step`` and its parts.

    For programs that run the model frame by frame themselves, with or without gradients. The predictors and the trainer
    compute the same in batches; the trainer shares :meth:`_pointers_as_tokens`.
    """

    if TYPE_CHECKING:
        maskmem_tpos_enc: nn.Parameter
        no_mem_embed: nn.Parameter
        no_mem_pos_enc: nn.Parameter
        no_obj_embed_spatial: nn.Parameter | None
        memory_attention: MemoryAttention
        memory_encoder: MemoryEncoder
        spatial_perceiver: PerceiverResampler | None
        image_size: int
        mem_dim: int
        num_feature_levels: int
        num_maskmem: int
        add_tpos_enc_to_obj_ptrs: bool
        directly_add_no_mem_embed: bool
        non_overlap_masks_for_mem_enc: bool
        use_mask_input_as_output_without_sam: bool
        binarize_mask_from_pts_for_mem_enc: bool
        hidden_dim: int
        max_obj_ptrs_in_encoder: int
        proj_tpos_enc_in_obj_ptrs: bool
        obj_ptr_tpos_proj: nn.Module
        sigmoid_scale_for_mem_enc: float
        sigmoid_bias_for_mem_enc: float

        def _forward_sam_heads(self, *args: Any, **kwargs: Any) -> Heads: ...
        def _use_mask_as_output(self, *args: Any) -> Heads: ...
        def _use_multimask(self, is_init_cond_frame: bool, point_inputs: dict[str, Tensor] | None) -> bool: ...
        def _apply_non_overlapping_constraints(self, pred_masks: Tensor) -> Tensor: ...
        def encode_memory_positions(self, memory: Tensor) -> Tensor: ...

    def _prepare_backbone_features(
        self, backbone_out: dict[str, Any]
    ) -> tuple[dict[str, Any], list[Tensor], list[Tensor], list[tuple[int, int]]]:
        """The levels in use as ``(HW, B, C)`` tokens, their encodings alike, and their sizes."""
        backbone_out = dict(backbone_out)
        maps = backbone_out["backbone_fpn"][-self.num_feature_levels :]
        positions = backbone_out["vision_pos_enc"][-self.num_feature_levels :]
        sizes = [(x.shape[-2], x.shape[-1]) for x in positions]
        return (
            backbone_out,
            [_as_tokens(x) for x in maps],
            [_as_tokens(x) for x in positions],
            sizes,
        )

    def track_step(
        self,
        frame_idx: int,
        is_init_cond_frame: bool,
        current_vision_feats: list[Tensor],
        current_vision_pos_embeds: list[Tensor],
        feat_sizes: list[tuple[int, int]],
        point_inputs: dict[str, Tensor] | None,
        mask_inputs: Tensor | None,
        output_dict: Mapping[str, Mapping[int, Output]],
        num_frames: int,
        track_in_reverse: bool = False,
        run_mem_encoder: bool = True,
        prev_sam_mask_logits: Tensor | None = None,
    ) -> dict[str, Any]:
        """B objects on one frame; nothing is stored.

        Args:
            frame_idx: number of the frame.
            is_init_cond_frame: the first prompt of the objects, which attend to no memory.
            current_vision_feats: tokens ``(HW, B, C)`` of each level, the coarsest last, as
                ``_prepare_backbone_features`` gives them.
            current_vision_pos_embeds: their encodings, alike.
            feat_sizes: (H, W) of each level.
            point_inputs: ``point_coords (B, P, 2)`` in input pixels and ``point_labels (B, P)``, or None.
            mask_inputs: ``(B, 1, S, S)``, or None.
            output_dict: under ``cond_frame_outputs`` and ``non_cond_frame_outputs`` earlier results by frame number.
            num_frames: length of the video.
            track_in_reverse: backwards in time.
            run_mem_encoder: also make the frame's memory.
            prev_sam_mask_logits: ``(B, 1, h, w)`` of an earlier prediction, given along with clicks.

        Returns:
            ``point_inputs``, ``mask_inputs``, ``pred_masks (B, 1, h, w)``, ``pred_masks_high_res (B, 1, S, S)``,
            ``obj_ptr (B, C)``, ``maskmem_features (B, C_mem, H, W)`` and ``maskmem_pos_enc``, which are None without
            the memory encoder, and in evaluation ``object_score_logits (B, 1)``.

        Raises:
            ValueError: ``prev_sam_mask_logits`` without clicks or with a mask, or no conditioning frame to attend to.

        Source: ``sam2.modeling.sam2_base.SAM2Base.track_step``.
        """
        current_out, heads, _, _ = self._track_step(
            frame_idx,
            is_init_cond_frame,
            current_vision_feats,
            current_vision_pos_embeds,
            feat_sizes,
            point_inputs,
            mask_inputs,
            output_dict,
            num_frames,
            track_in_reverse,
            prev_sam_mask_logits,
        )
        *_, low_res, high_res, pointer, score = heads
        current_out |= {"pred_masks": low_res, "pred_masks_high_res": high_res, "obj_ptr": pointer}
        if not self.training:
            current_out["object_score_logits"] = score
        self._encode_memory_in_output(
            current_vision_feats, feat_sizes, point_inputs, run_mem_encoder, high_res, score, current_out
        )
        return current_out

    def _track_step(
        self,
        frame_idx: int,
        is_init_cond_frame: bool,
        current_vision_feats: list[Tensor],
        current_vision_pos_embeds: list[Tensor],
        feat_sizes: list[tuple[int, int]],
        point_inputs: dict[str, Tensor] | None,
        mask_inputs: Tensor | None,
        output_dict: Mapping[str, Mapping[int, Output]],
        num_frames: int,
        track_in_reverse: bool,
        prev_sam_mask_logits: Tensor | None,
    ) -> tuple[dict[str, Any], Heads, list[Tensor] | None, Tensor]:
        """The prompts as a dict, the heads' seven results, the high-resolution features, and the frame's map."""
        *levels, features = current_vision_feats
        high_res = [_as_map(x, size) for x, size in zip(levels, feat_sizes[:-1], strict=True)] or None
        current_out = {"point_inputs": point_inputs, "mask_inputs": mask_inputs}
        if mask_inputs is not None and self.use_mask_input_as_output_without_sam:
            pix_feat = _as_map(features, feat_sizes[-1])
            return current_out, self._use_mask_as_output(pix_feat, high_res, mask_inputs), high_res, pix_feat
        if prev_sam_mask_logits is not None:
            if point_inputs is None or mask_inputs is not None:
                raise ValueError("prev_sam_mask_logits goes with point_inputs, and not with mask_inputs")
            mask_inputs = prev_sam_mask_logits
        pix_feat = self._prepare_memory_conditioned_features(
            frame_idx=frame_idx,
            is_init_cond_frame=is_init_cond_frame,
            current_vision_feats=[features],
            current_vision_pos_embeds=current_vision_pos_embeds[-1:],
            feat_sizes=feat_sizes[-1:],
            output_dict=output_dict,
            num_frames=num_frames,
            track_in_reverse=track_in_reverse,
        )
        heads = self._forward_sam_heads(
            backbone_features=pix_feat,
            point_inputs=point_inputs,
            mask_inputs=mask_inputs,
            high_res_features=high_res,
            multimask_output=self._use_multimask(is_init_cond_frame, point_inputs),
        )
        return current_out, heads, high_res, pix_feat

    def _prepare_memory_conditioned_features(
        self,
        frame_idx: int,
        is_init_cond_frame: bool,
        current_vision_feats: list[Tensor],
        current_vision_pos_embeds: list[Tensor],
        feat_sizes: list[tuple[int, int]],
        output_dict: Mapping[str, Mapping[int, Output]],
        num_frames: int,
        track_in_reverse: bool = False,
    ) -> Tensor:
        """The frame's map ``(B, C, H, W)`` after it has attended to memories and pointers; see :meth:`track_step`."""
        features, B = current_vision_feats[-1], current_vision_feats[-1].shape[1]
        if not self.num_maskmem:
            return _as_map(features, feat_sizes[-1])
        if is_init_cond_frame and self.directly_add_no_mem_embed:
            return _as_map(features + self.no_mem_embed, feat_sizes[-1])
        pointer_tokens = 0
        if is_init_cond_frame:
            tokens = [self.no_mem_embed.expand(1, B, self.mem_dim)]
            encodings = [self.no_mem_pos_enc.expand(1, B, self.mem_dim)]
        else:
            chosen = self._chosen_memories(frame_idx, output_dict, num_frames, track_in_reverse)
            tokens, encodings, pointers, distances = self._gather_memories(chosen, output_dict, features)
            if pointers:
                pointers_as_tokens, encoding = self._pointers_as_tokens(pointers, distances, num_frames, features)
                tokens.append(pointers_as_tokens)
                encodings.append(encoding)
                pointer_tokens = len(pointers_as_tokens)
        attended = self.memory_attention(
            curr=[features],
            curr_pos=current_vision_pos_embeds[-1:],
            memory=torch.cat(tokens),
            memory_pos=torch.cat(encodings),
            num_obj_ptr_tokens=pointer_tokens,
        )
        return _as_map(attended, feat_sizes[-1])

    def _encode_memory_in_output(
        self,
        current_vision_feats: list[Tensor],
        feat_sizes: list[tuple[int, int]],
        point_inputs: dict[str, Tensor] | None,
        run_mem_encoder: bool,
        high_res_masks: Tensor,
        object_score_logits: Tensor,
        current_out: dict[str, Any],
    ) -> None:
        """Writes the memory of these masks and its encoding into ``current_out``, or None for both."""
        memory = encoding = None
        if run_mem_encoder and self.num_maskmem:
            memory, encoding = self._encode_new_memory(
                current_vision_feats=current_vision_feats,
                feat_sizes=feat_sizes,
                pred_masks_high_res=high_res_masks,
                object_score_logits=object_score_logits,
                is_mask_from_pts=point_inputs is not None,
            )
        current_out |= {"maskmem_features": memory, "maskmem_pos_enc": encoding}

    def _encode_new_memory(
        self,
        current_vision_feats: list[Tensor],
        feat_sizes: list[tuple[int, int]],
        pred_masks_high_res: Tensor,
        object_score_logits: Tensor,
        is_mask_from_pts: bool,
    ) -> tuple[Tensor, list[Tensor]]:
        """Memory ``(B, C_mem, H, W)`` of B objects on one frame, and its position encoding.

        Args:
            current_vision_feats: tokens ``(HW, B, C)`` of each level, the coarsest last.
            feat_sizes: (H, W) of each level.
            pred_masks_high_res: ``(B, 1, S, S)`` logits.
            object_score_logits: ``(B, 1)``.
            is_mask_from_pts: the mask comes from a prompt, and is binarised if so configured.
        """
        features = _as_map(current_vision_feats[-1], feat_sizes[-1])
        masks = pred_masks_high_res
        if self.non_overlap_masks_for_mem_enc and not self.training:
            masks = self._apply_non_overlapping_constraints(masks)
        memory, positions = self._memory_and_positions(features, masks, object_score_logits, is_mask_from_pts)
        if positions is None:
            positions = [self.encode_memory_positions(memory).to(memory.dtype)]
        return memory, positions

    def _memory_and_positions(
        self, features: Tensor, masks: Tensor, scores: Tensor, is_mask_from_pts: bool
    ) -> tuple[Tensor, list[Tensor] | None]:
        """:meth:`encode_memory`, and the memory encoder's position encodings, which are None after the perceiver."""
        size, scale, bias = (self.image_size,) * 2, self.sigmoid_scale_for_mem_enc, self.sigmoid_bias_for_mem_enc
        if masks.shape[-2:] != size:
            masks = F.interpolate(masks.float(), size=size, mode="bilinear", align_corners=False)
        is_binary = self.binarize_mask_from_pts_for_mem_enc and is_mask_from_pts and not self.training
        masks = (masks > 0).float() if is_binary else torch.sigmoid(masks)
        out = self.memory_encoder(features, masks * scale + bias, skip_mask_sigmoid=True)
        memory, positions = out["vision_features"], out["vision_pos_enc"]
        if self.no_obj_embed_spatial is not None:
            absence = (scores <= 0)[..., None, None]
            embedding = self.no_obj_embed_spatial[..., None, None]
            memory = torch.addcmul(memory, absence, embedding).to(memory.dtype)
        if self.spatial_perceiver is not None:
            memory, positions = self.spatial_perceiver(memory, positions[-1]), None
        return memory, positions

    def _chosen_memories(
        self, frame: int, output_dict: Mapping[str, Mapping[int, Output]], num_frames: int, reverse: bool
    ) -> Selection:
        """Which frames are attended to; in training without a stride, pointers of the future included."""
        rules = MemoryRules.of(self)
        if self.training:
            rules = replace(rules, stride=1, only_past_pointers=False)
        conditioning, tracked = (output_dict[f"{kind}_frame_outputs"] for kind in ("cond", "non_cond"))
        return select_memories(frame, conditioning, tracked, num_frames, reverse, rules)

    def _gather_memories(
        self, chosen: Selection, output_dict: Mapping[str, Mapping[int, Output]], like: Tensor
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[int]]:
        """Memory tokens ``(HW, B, C_mem)``, their encodings, pointers ``(B, C)`` and the distances of these."""
        conditioning, tracked = (output_dict[f"{kind}_frame_outputs"] for kind in ("cond", "non_cond"))
        oldest = self.num_maskmem - 1
        selected = {t for t, row in chosen.memories if row == oldest and t in conditioning}

        def ordinary(t: int) -> Output:
            return tracked[t] if t in tracked else conditioning[t]

        tokens, encodings = [], []
        for t, row in chosen.memories:
            output = conditioning[t] if row == oldest and t in selected else ordinary(t)
            tokens.append(_as_tokens(output["maskmem_features"].to(like)))
            spatial = _as_tokens(output["maskmem_pos_enc"][-1].to(like.device))
            encodings.append(spatial + self.maskmem_tpos_enc[row])
        pointers, distances, first = [], [], set(selected)
        for t, distance in chosen.pointers:
            # A frame of both kinds has its conditioning pointer first.
            output = conditioning[t] if t in first else ordinary(t)
            first.discard(t)
            pointers.append(output["obj_ptr"].to(like))
            distances.append(distance)
        return tokens, encodings, pointers, distances

    def _pointers_as_tokens(
        self, pointers: list[Tensor], distances: Sequence[int], num_frames: int, like: Tensor
    ) -> tuple[Tensor, Tensor]:
        """P pointers ``(B, C)`` as tokens ``(P * C / C_mem, B, C_mem)``, and their encodings."""
        stacked = torch.stack(pointers)  # (P, B, C)
        P, B, C = stacked.shape
        distance = torch.tensor(distances, dtype=torch.float32, device=like.device)
        encoding = self._encode_pointer_distances(distance, num_frames)
        if not self.add_tpos_enc_to_obj_ptrs:
            encoding = encoding.to(stacked.dtype)  # zeros, which must not promote the other encodings to fp32
        split = C // self.mem_dim
        tokens = stacked.reshape(P, B, split, self.mem_dim).permute(0, 2, 1, 3).flatten(0, 1)
        return tokens, encoding.repeat_interleave(split, dim=0)[:, None].expand(-1, B, -1)

    def _encode_pointer_distances(self, distance: Tensor, num_frames: int) -> Tensor:
        """Encodings ``(..., C_mem)`` of the temporal distance of object pointers; zeros unless so configured.

        Args:
            distance: ``(...)`` fp32, in frames.
            num_frames: length of the video.
        """
        if not self.add_tpos_enc_to_obj_ptrs:
            return distance.new_zeros(*distance.shape, self.mem_dim)
        # At least 1: in a video of one frame the original divides by zero.
        longest = max(1, min(num_frames, self.max_obj_ptrs_in_encoder) - 1)
        width = self.hidden_dim if self.proj_tpos_enc_in_obj_ptrs else self.mem_dim
        periods, phases = sine_periods(width, distance.device)
        sines = sine_1d(distance, width, periods=torch.stack([longest * periods, phases]))
        return cast(Tensor, self.obj_ptr_tpos_proj(sines))


def _as_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """``(HW, B, C)`` as ``(B, C, H, W)``."""
    return tokens.permute(1, 2, 0).unflatten(2, size)


def _as_tokens(maps: Tensor) -> Tensor:
    """``(B, C, H, W)`` as ``(HW, B, C)``."""
    return maps.flatten(2).permute(2, 0, 1)

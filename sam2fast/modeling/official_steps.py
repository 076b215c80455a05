"""Defines ``track_step`` and related methods with the official signatures. Outputs of frames are nested dicts.

The functions are methods of :class:`~sam2fast.modeling.sam2_base.SAM2Base`, so ``self`` is a ``SAM2Base``. Training and
programs that run the model frame by frame call these methods. The predictors compute the same results in batches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from sam2fast.modeling.memory_selection import MemoryRules, select_memories

Output: TypeAlias = Mapping[str, Any]
# The seven results of SAM2Base._forward_sam_heads.
Heads: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def track_step(
    self: Any,
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
    """Predicts B objects on one frame. Does not modify ``output_dict``.

    Args:
        frame_idx: Index of the frame.
        is_init_cond_frame: If True, the frame has the objects' first prompt, and does not attend to memories.
        current_vision_feats: Tokens ``(HW, B, C)`` of each level, the coarsest last, from
            ``_prepare_backbone_features``.
        current_vision_pos_embeds: Position encodings with the shapes of the tokens.
        feat_sizes: Size (H, W) of each level.
        point_inputs: ``point_coords (B, P, 2)`` in input pixels and ``point_labels (B, P)``, or None.
        mask_inputs: Masks ``(B, 1, S, S)``, or None.
        output_dict: Dicts of earlier outputs by frame index: ``cond_frame_outputs`` and ``non_cond_frame_outputs``.
        num_frames: Length of the video.
        track_in_reverse: If True, tracking goes backwards in time.
        run_mem_encoder: If True, encodes the frame's memory.
        prev_sam_mask_logits: Logits ``(B, 1, h, w)`` of an earlier prediction, as a prompt in addition to clicks.

    Returns:
        Dict of ``point_inputs``, ``mask_inputs``, ``pred_masks (B, 1, h, w)``, ``pred_masks_high_res (B, 1, S, S)``,
        ``obj_ptr (B, C)``, ``maskmem_features (B, C_mem, H, W)`` and ``maskmem_pos_enc``. If no memory is encoded, the
        two ``maskmem`` values are None. In evaluation mode, the dict also has ``object_score_logits (B, 1)``.

    Raises:
        ValueError: If ``prev_sam_mask_logits`` is passed without clicks or with a mask, or there is no conditioning
            frame.

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
    self: Any,
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
    """Returns a dict of prompts, results of ``_forward_sam_heads``, high-resolution features, and the decoder's map."""
    *levels, features = current_vision_feats
    high_res = [as_map(x, size) for x, size in zip(levels, feat_sizes[:-1], strict=True)] or None
    current_out = {"point_inputs": point_inputs, "mask_inputs": mask_inputs}
    if mask_inputs is not None and self.use_mask_input_as_output_without_sam:
        pix_feat = as_map(features, feat_sizes[-1])
        return current_out, self._use_mask_as_output(pix_feat, high_res, mask_inputs), high_res, pix_feat
    if prev_sam_mask_logits is not None:
        if point_inputs is None or mask_inputs is not None:
            raise ValueError("prev_sam_mask_logits needs point_inputs, and excludes mask_inputs")
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
    self: Any,
    frame_idx: int,
    is_init_cond_frame: bool,
    current_vision_feats: list[Tensor],
    current_vision_pos_embeds: list[Tensor],
    feat_sizes: list[tuple[int, int]],
    output_dict: Mapping[str, Mapping[int, Output]],
    num_frames: int,
    track_in_reverse: bool = False,
) -> Tensor:
    """Returns the frame's map ``(B, C, H, W)`` after attention to memories and pointers. See :func:`track_step`."""
    features, B = current_vision_feats[-1], current_vision_feats[-1].shape[1]
    if not self.num_maskmem:
        return as_map(features, feat_sizes[-1])
    if is_init_cond_frame and self.directly_add_no_mem_embed:
        return as_map(features + self.no_mem_embed, feat_sizes[-1])
    pointer_tokens = 0
    if is_init_cond_frame:
        tokens = [self.no_mem_embed.expand(1, B, self.mem_dim)]
        encodings = [self.no_mem_pos_enc.expand(1, B, self.mem_dim)]
    else:
        settings = frame_idx, output_dict, num_frames, track_in_reverse
        tokens, encodings, pointers, distances = _gather_memories(self, *settings, features)
        if pointers:
            pointers_as_tokens, encoding = self._pointers_as_tokens(pointers, distances, num_frames, features)
            tokens.append(pointers_as_tokens)
            encodings.append(encoding)
            pointer_tokens = len(pointers_as_tokens)
    conditioned = self.memory_attention(
        curr=[features],
        curr_pos=current_vision_pos_embeds[-1:],
        memory=torch.cat(tokens),
        memory_pos=torch.cat(encodings),
        num_obj_ptr_tokens=pointer_tokens,
    )
    return as_map(conditioned, feat_sizes[-1])


def _encode_memory_in_output(
    self: Any,
    current_vision_feats: list[Tensor],
    feat_sizes: list[tuple[int, int]],
    point_inputs: dict[str, Tensor] | None,
    run_mem_encoder: bool,
    high_res_masks: Tensor,
    object_score_logits: Tensor,
    current_out: dict[str, Any],
) -> None:
    """Stores the memory and its position encoding in ``current_out``. If no memory is encoded, stores None for both."""
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
    self: Any,
    current_vision_feats: list[Tensor],
    feat_sizes: list[tuple[int, int]],
    pred_masks_high_res: Tensor,
    object_score_logits: Tensor,
    is_mask_from_pts: bool,
) -> tuple[Tensor, list[Tensor]]:
    """Returns the memory ``(B, C_mem, H, W)`` of B objects on one frame, and the memory's position encoding.

    Args:
        current_vision_feats, feat_sizes: Tokens and sizes as in :func:`track_step`.
        pred_masks_high_res, object_score_logits: Mask logits ``(B, 1, S, S)`` and scores ``(B, 1)``.
        is_mask_from_pts: If True, the masks come from prompts. Masks from prompts are binarized if configured.
    """
    features = as_map(current_vision_feats[-1], feat_sizes[-1])
    masks = pred_masks_high_res
    if self.non_overlap_masks_for_mem_enc and not self.training:
        masks = self._apply_non_overlapping_constraints(masks)
    memory, positions = self._memory_and_positions(features, masks, object_score_logits, is_mask_from_pts)
    if positions is None:
        positions = [self.encode_memory_positions(memory).to(memory.dtype)]
    return memory, positions


def _gather_memories(
    model: Any,
    frame: int,
    output_dict: Mapping[str, Mapping[int, Output]],
    num_frames: int,
    reverse: bool,
    like: Tensor,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[int]]:
    """Returns memory tokens ``(HW, B, C_mem)``, position encodings, pointers ``(B, C)``, and distances of pointers."""
    rules = MemoryRules.of(model)
    if model.training:  # attends to memories of every frame, and to pointers of later frames
        rules = replace(rules, stride=1, only_past_pointers=False)
    conditioning, tracked = (output_dict[f"{prefix}_frame_outputs"] for prefix in ("cond", "non_cond"))
    selection = select_memories(frame, conditioning, tracked, num_frames, reverse, rules)
    outputs = {**conditioning, **tracked}
    tokens, encodings, pointers, distances = [], [], [], []
    selected = set()  # selected conditioning frames, with the last row of maskmem_tpos_enc
    for t, row in selection.memories:
        is_conditioning = row == model.num_maskmem - 1
        output = conditioning[t] if is_conditioning else outputs[t]
        tokens.append(as_tokens(output["maskmem_features"].to(like)))
        spatial = as_tokens(output["maskmem_pos_enc"][-1].to(like.device))
        encodings.append(spatial + model.maskmem_tpos_enc[row])
        if is_conditioning:
            selected.add(t)
    for t, distance in selection.pointers:
        # A frame may have a conditioning and a tracked output. The first pointer comes from the conditioning output.
        output = conditioning[t] if t in selected else outputs[t]
        selected.discard(t)
        pointers.append(output["obj_ptr"].to(like))
        distances.append(distance)
    return tokens, encodings, pointers, distances


def _pointers_as_tokens(
    self: Any, pointers: list[Tensor], distances: Sequence[int], num_frames: int, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Splits P pointers ``(B, C)`` into tokens ``(P * C / C_mem, B, C_mem)``. Returns tokens and position encodings."""
    stacked = torch.stack(pointers)  # (P, B, C)
    P, B, C = stacked.shape
    distance = torch.tensor(distances, dtype=torch.float32, device=like.device)
    encoding = self._encode_pointer_distances(distance, num_frames)
    if not self.add_tpos_enc_to_obj_ptrs:
        encoding = encoding.to(stacked.dtype)  # fp32 zeros would promote all encodings to fp32
    split = C // self.mem_dim
    tokens = stacked.reshape(P, B, split, self.mem_dim).permute(0, 2, 1, 3).flatten(0, 1)
    return tokens, encoding.repeat_interleave(split, dim=0)[:, None].expand(-1, B, -1)


def as_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Reshapes ``(HW, B, C)`` to ``(B, C, H, W)``."""
    return tokens.permute(1, 2, 0).unflatten(2, size)


def as_tokens(maps: Tensor) -> Tensor:
    """Reshapes ``(B, C, H, W)`` to ``(HW, B, C)``."""
    return maps.flatten(2).permute(2, 0, 1)

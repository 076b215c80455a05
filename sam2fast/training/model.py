"""SAM 2 in training: a batch of clips is prompted, tracked and corrected, and every prediction is kept for the loss."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sam2fast.modeling.position_encoding import sine_1d
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.tracking.selection import MemoryRules, select_memories
from sam2fast.training.data.batch import ClipBatch
from sam2fast.training.prompts import ObjectGenerators, Prompt, add_click, next_click, sample_box
from sam2fast.training.simulation import PromptPlan, PromptSettings, plan_prompts
from sam2fast.transforms import SAM2Transforms


@dataclass
class PredictedFrame:
    """Everything predicted for O objects on one frame, one entry per prompt: the first, then each correction."""

    multimasks: list[Tensor] = field(default_factory=list)  # (O, M, h, w) logits at the decoder's size
    multimasks_high_res: list[Tensor] = field(default_factory=list)  # (O, M, S, S)
    ious: list[Tensor] = field(default_factory=list)  # (O, M)
    masks: list[Tensor] = field(default_factory=list)  # (O, 1, h, w), the chosen ones
    masks_high_res: list[Tensor] = field(default_factory=list)  # (O, 1, S, S)
    object_scores: list[Tensor] = field(default_factory=list)  # (O, 1)
    prompts: list[Prompt | None] = field(default_factory=list)
    pointer: Tensor | None = None  # (O, C), of the last prediction
    memory: Tensor | None = None  # (O, C_mem, H, W)

    def add(self, heads: Sequence[Tensor], prompt: Prompt | None) -> None:
        """Appends the seven results of the SAM heads."""
        multimasks, multimasks_high_res, ious, masks, masks_high_res, self.pointer, scores = heads
        self.multimasks.append(multimasks)
        self.multimasks_high_res.append(multimasks_high_res)
        self.ious.append(ious)
        self.masks.append(masks)
        self.masks_high_res.append(masks_high_res)
        self.object_scores.append(scores)
        self.prompts.append(prompt)


@dataclass
class ClipPrediction:
    """What :class:`SAM2Train` returns for a batch."""

    frames: list[PredictedFrame]  # in the order of time
    levels: list[Tensor]  # (T * B, C_i, H_i, W_i) features of all frames, finest first; empty if not computed at once
    plan: PromptPlan


class SAM2Train(SAM2Base):
    """The model with simulated prompts; see section "training" of the original's configurations for the keys.

    Keys of its own: ``freeze`` names parameters that do not learn by patterns such as ``image_encoder.trunk.*``;
    ``use_act_ckpt_image_encoder`` computes the image encoder frame by frame and again in the backward pass, for less
    memory.

    Source: ``training.model.sam2.SAM2Train``. Unlike there, prompts depend on each clip's seed alone, not on what came
    before it.

    Raises:
        ValueError: settings that contradict each other, or a ``freeze`` pattern that names no parameter.
    """

    def __init__(
        self,
        *args: Any,
        prob_to_use_pt_input_for_train: float = 0.0,
        prob_to_use_pt_input_for_eval: float = 0.0,
        prob_to_use_box_input_for_train: float = 0.0,
        prob_to_use_box_input_for_eval: float = 0.0,
        num_frames_to_correct_for_train: int = 1,
        num_frames_to_correct_for_eval: int = 1,
        rand_frames_to_correct_for_train: bool = False,
        rand_frames_to_correct_for_eval: bool = False,
        num_init_cond_frames_for_train: int = 1,
        num_init_cond_frames_for_eval: int = 1,
        rand_init_cond_frames_for_train: bool = True,
        rand_init_cond_frames_for_eval: bool = False,
        add_all_frames_to_correct_as_cond: bool = False,
        num_correction_pt_per_frame: int = 7,
        pt_sampling_for_eval: str = "center",
        prob_to_sample_from_gt_for_train: float = 0.0,
        use_act_ckpt_iterative_pt_sampling: bool = False,
        use_act_ckpt_image_encoder: bool = False,
        forward_backbone_per_frame_for_eval: bool = False,
        freeze_image_encoder: bool = False,
        freeze: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.train_settings = PromptSettings(
            prob_to_use_pt_input_for_train,
            prob_to_use_box_input_for_train,
            num_frames_to_correct_for_train,
            rand_frames_to_correct_for_train,
            num_init_cond_frames_for_train,
            rand_init_cond_frames_for_train,
        )
        self.eval_settings = PromptSettings(
            prob_to_use_pt_input_for_eval,
            prob_to_use_box_input_for_eval,
            num_frames_to_correct_for_eval,
            rand_frames_to_correct_for_eval,
            num_init_cond_frames_for_eval,
            rand_init_cond_frames_for_eval,
        )
        if pt_sampling_for_eval not in ("uniform", "center"):
            raise ValueError(f"pt_sampling_for_eval must be 'uniform' or 'center', got {pt_sampling_for_eval!r}")
        if self.num_maskmem and not self.directly_add_no_mem_embed:
            raise ValueError("training needs directly_add_no_mem_embed=true, as all published models have")
        self.add_all_frames_to_correct_as_cond = add_all_frames_to_correct_as_cond
        self.num_correction_pt_per_frame = num_correction_pt_per_frame
        self.pt_sampling_for_eval = pt_sampling_for_eval
        self.prob_to_sample_from_gt_for_train = prob_to_sample_from_gt_for_train
        self.use_act_ckpt_iterative_pt_sampling = use_act_ckpt_iterative_pt_sampling
        self.use_act_ckpt_image_encoder = use_act_ckpt_image_encoder
        self.forward_backbone_per_frame_for_eval = forward_backbone_per_frame_for_eval
        self._freeze([*freeze, *(["image_encoder.*"] if freeze_image_encoder else [])])

    def _freeze(self, patterns: Sequence[str]) -> None:
        for pattern in patterns:
            matching = [p for name, p in self.named_parameters() if fnmatch(name, pattern)]
            if not matching:
                raise ValueError(f"freeze: no parameter is named {pattern!r}")
            for parameter in matching:
                parameter.requires_grad_(False)

    def forward(self, batch: ClipBatch) -> ClipPrediction:  # type: ignore[override]
        """Prompts and tracks a batch, on the model's device."""
        settings = self.train_settings if self.training else self.eval_settings
        rng = np.random.default_rng(list(batch.seeds))
        plan = plan_prompts(batch.num_frames, settings, rng)
        generators = ObjectGenerators(batch.seeds, batch.video)
        at_once = self.training or not self.forward_backbone_per_frame_for_eval
        levels = self._encode(batch.frames.flatten(0, 1)) if at_once else []
        frames: dict[int, PredictedFrame] = {}
        conditioning: list[int] = []
        for t in plan.order(batch.num_frames):
            frames[t] = self._process(t, batch, plan, levels, frames, conditioning, generators, rng)
            if t in plan.initial or (self.add_all_frames_to_correct_as_cond and t in plan.corrected):
                conditioning.append(t)
        return ClipPrediction([frames[t] for t in range(batch.num_frames)], levels, plan)

    # ---- features ----

    def _encode(self, frames: Tensor) -> list[Tensor]:
        """Levels of ``frames (N, S, S, 3)`` uint8 that the decoder reads, finest first."""
        images = _normalized(frames)
        if not (self.use_act_ckpt_image_encoder and torch.is_grad_enabled()):
            return self.encode_image(images)
        parts = [checkpoint(self.encode_image, image[None], use_reentrant=False) for image in images]
        return [torch.cat(level) for level in zip(*parts, strict=True)]

    def _levels_of(self, t: int, batch: ClipBatch, levels: list[Tensor]) -> list[Tensor]:
        """The levels of frame ``t``, one row per object."""
        # Not by indexing: the order in which its backward pass adds is another one each time.
        if not levels:
            return [level.index_select(0, batch.video) for level in self._encode(batch.frames[t])]
        return [level.index_select(0, t * batch.num_videos + batch.video) for level in levels]

    # ---- one frame ----

    def _process(
        self,
        t: int,
        batch: ClipBatch,
        plan: PromptPlan,
        levels: list[Tensor],
        frames: dict[int, PredictedFrame],
        conditioning: list[int],
        generators: ObjectGenerators,
        rng: np.random.Generator,
    ) -> PredictedFrame:
        *high_res, feature = self._levels_of(t, batch, levels)
        truth = batch.masks[t][:, None]  # (O, 1, S, S)
        initial = t in plan.initial
        prompt = self._first_prompt(t, truth, plan, generators)
        frame = PredictedFrame()
        if initial and not plan.use_points and self.use_mask_input_as_output_without_sam:
            frame.add(self._use_mask_as_output(feature, high_res, truth), None)
            fused = None
        else:
            fused = self._fuse(t, batch.num_frames, feature, initial, frames, conditioning)
            mask = truth.float() if initial and not plan.use_points else None
            multimask = self._use_multimask(initial, prompt)
            frame.add(self._forward_sam_heads(fused, prompt, mask, high_res, multimask), prompt)
        if t in plan.corrected:
            assert fused is not None
            self._correct(frame, fused, high_res, truth, initial, generators, rng)
        if self.num_maskmem:
            from_points = frame.prompts[-1] is not None
            frame.memory = self.encode_memory(feature, frame.masks_high_res[-1], frame.object_scores[-1], from_points)
        return frame

    def _first_prompt(self, t: int, truth: Tensor, plan: PromptPlan, generators: ObjectGenerators) -> Prompt | None:
        """The click or box of an initial frame."""
        if not plan.use_points or t not in plan.initial:
            return None
        if plan.boxes[plan.initial.index(t)]:
            return sample_box(truth, generators.uniform(4, truth.device))
        return next_click(self._sampling, truth, None, generators)

    @property
    def _sampling(self) -> str:
        return "uniform" if self.training else self.pt_sampling_for_eval

    def _correct(
        self,
        frame: PredictedFrame,
        fused: Tensor,
        high_res: list[Tensor],
        truth: Tensor,
        initial: bool,
        generators: ObjectGenerators,
        rng: np.random.Generator,
    ) -> None:
        """Clicks one by one where the mask is wrong, each with the mask before it as a prompt too."""
        for _ in range(self.num_correction_pt_per_frame):
            blind = self.training and self.prob_to_sample_from_gt_for_train > 0
            blind = blind and bool(rng.random() < self.prob_to_sample_from_gt_for_train)
            predicted = None if blind else frame.masks_high_res[-1] > 0
            prompt = add_click(frame.prompts[-1], next_click(self._sampling, truth, predicted, generators))
            multimask = self._use_multimask(initial, prompt)
            arguments = (fused, prompt, frame.masks[-1], high_res, multimask)
            if self.use_act_ckpt_iterative_pt_sampling and not multimask and torch.is_grad_enabled():
                heads = checkpoint(self._forward_sam_heads, *arguments, use_reentrant=False)
            else:
                heads = self._forward_sam_heads(*arguments)
            frame.add(heads, prompt)

    # ---- memory ----

    def _fuse(
        self,
        t: int,
        num_frames: int,
        feature: Tensor,
        initial: bool,
        frames: dict[int, PredictedFrame],
        conditioning: list[int],
    ) -> Tensor:
        """The map ``(O, C, H, W)`` of frame ``t`` conditioned on the frames processed before it.

        Source: ``sam2.modeling.sam2_base.SAM2Base._prepare_memory_conditioned_features``.
        """
        if not self.num_maskmem:
            return feature
        if initial:
            return feature + self.no_mem_embed.reshape(1, -1, 1, 1)
        rules = MemoryRules.of(self)
        if self.training:
            rules = replace(rules, stride=1, only_past_pointers=False)
        tracked = [other for other in frames if other not in conditioning]
        chosen = select_memories(t, conditioning, tracked, num_frames, False, rules)

        memories = torch.stack([_present(frames[other].memory) for other, _ in chosen.memories])  # (K, O, C, H, W)
        position = self.memory_encoder.position_encoding(memories[0, :1])[None].to(memories.dtype)
        rows = torch.tensor([row for _, row in chosen.memories], device=feature.device)
        time = self.maskmem_tpos_enc.index_select(0, rows).permute(0, 1, 3, 2)[..., None]
        encoding = (position + time).expand(-1, memories.shape[1], -1, -1, -1)
        tokens, encodings = [_tokens(memories)], [_tokens(encoding)]
        num_pointer_tokens = 0
        if chosen.pointers:
            pointers = torch.stack([_present(frames[other].pointer) for other, _ in chosen.pointers])  # (P, O, C)
            pointers, pointer_encoding = self._pointer_tokens(pointers, [d for _, d in chosen.pointers], num_frames)
            tokens.append(pointers)
            encodings.append(pointer_encoding)
            num_pointer_tokens = len(pointers)
        fused = self.memory_attention(
            curr=feature.flatten(2).permute(2, 0, 1),
            curr_pos=self.image_encoder.neck.position_encoding(feature).to(feature.dtype).flatten(2).permute(2, 0, 1),
            memory=torch.cat(tokens),
            memory_pos=torch.cat(encodings),
            num_obj_ptr_tokens=num_pointer_tokens,
        )
        return fused.permute(1, 2, 0).unflatten(2, feature.shape[-2:])

    def _pointer_tokens(self, pointers: Tensor, distances: list[int], num_frames: int) -> tuple[Tensor, Tensor]:
        """``pointers (P, O, C)`` as memory tokens ``(P * C / C_mem, O, C_mem)`` with their encodings."""
        P, num_objects, C = pointers.shape
        encoding = pointers.new_zeros(P, self.mem_dim)
        if self.add_tpos_enc_to_obj_ptrs:
            longest = max(1, min(num_frames, self.max_obj_ptrs_in_encoder) - 1)
            width = C if self.proj_tpos_enc_in_obj_ptrs else self.mem_dim
            distance = torch.tensor(distances, dtype=torch.float32, device=pointers.device)
            encoding = self.obj_ptr_tpos_proj(sine_1d(distance / longest, width))
        split = C // self.mem_dim
        tokens = pointers.reshape(P, num_objects, split, self.mem_dim).permute(0, 2, 1, 3).flatten(0, 1)
        return tokens, encoding.repeat_interleave(split, dim=0)[:, None].expand(-1, num_objects, -1)


def _normalized(frames: Tensor) -> Tensor:
    """``(N, S, S, 3)`` uint8 as the model's input ``(N, 3, S, S)`` fp32."""
    mean, std = (torch.tensor(x, device=frames.device) * 255 for x in (SAM2Transforms.mean, SAM2Transforms.std))
    return ((frames.float() - mean) / std).permute(0, 3, 1, 2)


def _present(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor


def _tokens(maps: Tensor) -> Tensor:
    """``(K, O, C, H, W)`` as a sequence ``(K * H * W, O, C)``."""
    return maps.permute(0, 3, 4, 1, 2).flatten(0, 2)

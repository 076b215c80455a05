"""SAM 2 in training: prompts, tracks and corrects a batch of clips, and returns all predictions for the loss."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import Linear
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from sam2fast.engine import engine_for
from sam2fast.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2fast.modeling.official_steps import Heads, Output, as_tokens
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.training.adapters import AdapterConf, add_adapters
from sam2fast.training.data.batch import ClipBatch
from sam2fast.training.feature_cache import EncoderCache, EncoderCacheConf, evaluating
from sam2fast.training.prompt_sampling import (
    ObjectGenerators,
    Prompt,
    PromptPlan,
    PromptSettings,
    add_click,
    next_click,
    plan_prompts,
    sample_box,
)

# Maximum image side for math attention on the CPU. The size of attention score matrices grows with the fourth power of
# the image side.
LARGEST_MATH_ATTENTION = 512


@dataclass
class PredictedFrame:
    """Predictions for O objects on one frame. Lists have one entry per prompt: the first prompt and each correction."""

    multimasks: list[Tensor] = field(default_factory=list)  # (O, M, h, w) logits at the decoder's size
    multimasks_high_res: list[Tensor] = field(default_factory=list)  # (O, M, S, S) logits at the image size
    ious: list[Tensor] = field(default_factory=list)  # (O, M) predicted IoUs
    masks: list[Tensor] = field(default_factory=list)  # (O, 1, h, w) logits of the selected mask
    masks_high_res: list[Tensor] = field(default_factory=list)  # (O, 1, S, S) logits of the selected mask
    object_scores: list[Tensor] = field(default_factory=list)  # (O, 1) logits of the object's presence
    prompts: list[Prompt | None] = field(default_factory=list)

    def add(self, heads: Heads, prompt: Prompt | None) -> Tensor:
        """Appends the outputs of the SAM heads for a prompt. Returns the object pointers ``(O, C)``."""
        multimasks, multimasks_high_res, ious, masks, masks_high_res, pointer, scores = heads
        self.multimasks.append(multimasks)
        self.multimasks_high_res.append(multimasks_high_res)
        self.ious.append(ious)
        self.masks.append(masks)
        self.masks_high_res.append(masks_high_res)
        self.object_scores.append(scores)
        self.prompts.append(prompt)
        return pointer


@dataclass
class ClipPrediction:
    """Output of :class:`SAM2Train` for a batch."""

    frames: list[PredictedFrame]  # in temporal order
    levels: list[Tensor]  # feature levels (T * B, C_i, H_i, W_i), finest first; empty if frames are encoded one by one
    plan: PromptPlan


@dataclass
class _Tracking:
    """State of a forward pass of :class:`SAM2Train`."""

    batch: ClipBatch
    plan: PromptPlan
    levels: list[Tensor]  # feature levels, as in ClipPrediction
    generators: ObjectGenerators
    rng: np.random.Generator  # random generator of the batch, seeded with ``batch.plan_seed``
    # Memories and pointers of the frames processed so far, in the format of ``track_step``.
    outputs: dict[str, dict[int, Output]] = field(
        default_factory=lambda: {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    )


class SAM2Train(SAM2Base):
    """SAM 2 for training, with prompts that are sampled from ground-truth masks.

    See "training" in the official configurations for the arguments. Additional arguments: ``freeze`` freezes the
    parameters whose names match a pattern, such as ``image_encoder.trunk.*``. ``use_act_ckpt_image_encoder`` runs the
    image encoder frame by frame with activation checkpointing. ``adapters`` adds low-rank adapters, see
    :class:`AdapterConf`. ``encoder_cache`` caches features of a frozen image encoder. ``identity_memory`` initializes
    memory attention as the identity (see :func:`identity_init`), for training memory attention from scratch on a frozen
    encoder.

    Source: ``training.model.sam2.SAM2Train``. Unlike in the official class, prompts depend only on the batch's seeds.

    Raises:
        ValueError: If settings contradict each other, a ``freeze`` pattern matches no parameter, or the encoder of an
            ``encoder_cache`` has trainable parameters.
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
        adapters: AdapterConf | None = None,
        encoder_cache: EncoderCacheConf | None = None,
        identity_memory: float | None = None,
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
            raise ValueError("training needs directly_add_no_mem_embed=true, as in all published models")
        self.add_all_frames_to_correct_as_cond = add_all_frames_to_correct_as_cond
        self.num_correction_pt_per_frame = num_correction_pt_per_frame
        self.pt_sampling_for_eval = pt_sampling_for_eval
        self.prob_to_sample_from_gt_for_train = prob_to_sample_from_gt_for_train
        self.use_act_ckpt_iterative_pt_sampling = use_act_ckpt_iterative_pt_sampling
        self.use_act_ckpt_image_encoder = use_act_ckpt_image_encoder
        self.forward_backbone_per_frame_for_eval = forward_backbone_per_frame_for_eval
        freeze = [freeze] if isinstance(freeze, str) else freeze
        frozen = self._parameters_named([*freeze, *(["image_encoder.*"] if freeze_image_encoder else [])])
        self.adapters = adapters
        if adapters is not None:
            add_adapters(self, adapters)
        for parameter in frozen:  # freezes layers but not the adapters of these layers
            parameter.requires_grad_(False)
        self.encoder_cache: EncoderCache | None = None
        if encoder_cache is not None:
            heads = {f"sam_mask_decoder.conv_s{level}": head for level, head in self._level_heads().items()}
            modules = {"image_encoder": self.image_encoder, **heads}
            self.encoder_cache = EncoderCache(encoder_cache, self._encode_uncached, modules)
            self.register_load_state_dict_post_hook(_clear_cache)
        if identity_memory is not None:
            identity_init(self.memory_attention, identity_memory)

    def _parameters_named(self, patterns: Sequence[str]) -> list[nn.Parameter]:
        matches = {pattern: [p for n, p in self.named_parameters() if fnmatchcase(n, pattern)] for pattern in patterns}
        if missing := [pattern for pattern, matching in matches.items() if not matching]:
            raise ValueError(f"freeze: no parameter matches {missing[0]!r}")
        return [p for matching in matches.values() for p in matching]

    def forward(self, batch: ClipBatch) -> ClipPrediction:  # type: ignore[override]
        """Prompts and tracks the objects of a batch on the model's device. Frames must have the model's image size."""
        if batch.frames.shape[2] != self.image_size:
            raise ValueError(
                f"frames of {batch.frames.shape[2]} pixels, but the model's image_size is {self.image_size}"
            )
        settings = self.train_settings if self.training else self.eval_settings
        rng = np.random.default_rng(batch.plan_seed)
        plan = plan_prompts(batch.num_frames, settings, rng)
        at_once = self.training or not self.forward_backbone_per_frame_for_eval
        with self._attention():
            levels = self._encode(batch.frames.flatten(0, 1)) if at_once else []
            clips = _Tracking(batch, plan, levels, ObjectGenerators(batch.seeds, batch.video), rng)
            *earlier, last = plan.order(batch.num_frames)
            frames = {t: self._process(t, clips, remember=True) for t in earlier}
            frames[last] = self._process(last, clips, remember=False)
        return ClipPrediction([frames[t] for t in range(batch.num_frames)], levels, plan)

    def _attention(self) -> AbstractContextManager[Any]:
        """Selects the attention backend: on the CPU, the math backend has a faster backward pass for small images."""
        small = self.device.type == "cpu" and self.image_size <= LARGEST_MATH_ATTENTION
        return sdpa_kernel(SDPBackend.MATH) if small and self.training else nullcontext()

    def _checkpointed(self, function: Callable[..., Any], *args: Any) -> Any:
        """Calls ``function(*args)`` with activation checkpointing."""

        def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
            return nullcontext(), self._attention()

        return checkpoint(function, *args, use_reentrant=False, context_fn=contexts)

    def _encode(self, frames: Tensor) -> list[Tensor]:
        """Returns feature levels ``(N, C_i, H_i, W_i)`` of ``frames (N, S, S, 3)`` uint8, finest first."""
        if self.encoder_cache is not None:
            return self.encoder_cache(frames)
        images = self._normalized(frames)
        if not (self.use_act_ckpt_image_encoder and torch.is_grad_enabled()):
            return self._levels_of(images)
        parts = [self._checkpointed(self._levels_of, image[None]) for image in images]
        return [torch.cat(level) for level in zip(*parts, strict=True)]

    def _normalized(self, frames: Tensor) -> Tensor:
        """Normalizes frames ``(N, S, S, 3)`` uint8 to model inputs ``(N, 3, S, S)`` fp32."""
        mean, std = (torch.tensor(x, device=frames.device) * 255 for x in (self.pixel_mean, self.pixel_std))
        return ((frames.float() - mean) / std).permute(0, 3, 1, 2)

    def _encode_uncached(self, frames: Tensor) -> list[Tensor]:
        return self._levels_of(self._normalized(frames))

    def _levels_of(self, images: Tensor) -> list[Tensor]:
        """Encodes images with :meth:`encode_image`, or with the inference engine if no gradients are needed."""
        modules = (self.image_encoder, *self._level_heads().values())
        learns = torch.is_grad_enabled() and any(p.requires_grad for m in modules for p in m.parameters())
        stochastic = nn.modules.batchnorm._BatchNorm | nn.Dropout
        training = [m for m in self.image_encoder.modules() if m.training]
        if learns or any(isinstance(m, stochastic) or getattr(m, "drop_prob", 0) > 0 for m in training):
            return self.encode_image(images)
        with torch.no_grad(), evaluating(modules):
            return engine_for(self).encode(images)

    def _levels_of_objects(self, t: int, clips: _Tracking) -> list[Tensor]:
        """Returns feature levels ``(O, C_i, H_i, W_i)`` of frame ``t``, one row per object."""
        video = clips.batch.video
        # Uses index_select, because the backward pass of indexing is not deterministic on the CPU.
        if not clips.levels:
            return [level.index_select(0, video) for level in self._encode(clips.batch.frames[t])]
        return [level.index_select(0, t * clips.batch.num_videos + video) for level in clips.levels]

    def _process(self, t: int, clips: _Tracking, remember: bool) -> PredictedFrame:
        """Predicts masks on frame ``t``. If ``remember`` is True, encodes a memory of the frame for later frames."""
        maps = self._levels_of_objects(t, clips)
        feature, plan = maps[-1], clips.plan
        truth = clips.batch.masks[t][:, None]  # (O, 1, S, S)
        initial, prompt = t in plan.initial, self._first_prompt(t, truth, clips)
        _, heads, high_res, fused = self._track_step(
            t,
            initial,
            current_vision_feats=[as_tokens(x) for x in maps],
            current_vision_pos_embeds=[as_tokens(self.image_encoder.neck.position_encoding(feature).to(feature.dtype))],
            feat_sizes=[(x.shape[-2], x.shape[-1]) for x in maps],
            point_inputs=prompt,
            mask_inputs=truth.float() if initial and not plan.use_points else None,
            output_dict=clips.outputs,
            num_frames=clips.batch.num_frames,
            track_in_reverse=False,
            prev_sam_mask_logits=None,
        )
        frame = PredictedFrame()
        pointer = frame.add(heads, prompt)
        if t in plan.corrected and self.num_correction_pt_per_frame:
            pointer = self._correct(frame, fused, high_res, truth, initial, clips)
        if remember and self.num_maskmem:
            memory = self._encode_memory_of(frame, feature, clips.batch)
            position = self.encode_memory_positions(memory[:1]).to(memory.dtype).expand_as(memory)
            is_conditioning = initial or (self.add_all_frames_to_correct_as_cond and t in plan.corrected)
            outputs = clips.outputs["cond_frame_outputs" if is_conditioning else "non_cond_frame_outputs"]
            outputs[t] = {"maskmem_features": memory, "maskmem_pos_enc": [position], "obj_ptr": pointer}
        return frame

    def _encode_memory_of(self, frame: PredictedFrame, feature: Tensor, batch: ClipBatch) -> Tensor:
        masks = frame.masks_high_res[-1]
        if self.non_overlap_masks_for_mem_enc and not self.training:
            of_clips = [masks[batch.video == v] for v in range(batch.num_videos)]  # a clip's objects are consecutive
            masks = torch.cat([self._apply_non_overlapping_constraints(m) for m in of_clips if len(m)])
        return self.encode_memory(feature, masks, frame.object_scores[-1], frame.prompts[-1] is not None)

    def _first_prompt(self, t: int, truth: Tensor, clips: _Tracking) -> Prompt | None:
        """Returns the click or box of an initial frame; None for other frames."""
        plan = clips.plan
        if not plan.use_points or t not in plan.initial:
            return None
        if plan.boxes[plan.initial.index(t)]:
            return sample_box(truth, clips.generators.uniform(4, truth.device))
        return next_click(self._sampling, truth, None, clips.generators)

    @property
    def _sampling(self) -> str:
        return "uniform" if self.training else self.pt_sampling_for_eval

    def _correct(
        self,
        frame: PredictedFrame,
        fused: Tensor,
        high_res: list[Tensor] | None,
        truth: Tensor,
        initial: bool,
        clips: _Tracking,
    ) -> Tensor:
        """Adds correction clicks one by one and predicts masks after each click. Returns the last object pointers."""
        for _ in range(self.num_correction_pt_per_frame):
            from_truth = self.training and self.prob_to_sample_from_gt_for_train > 0
            from_truth = from_truth and bool(clips.rng.random() < self.prob_to_sample_from_gt_for_train)
            predicted = None if from_truth else frame.masks_high_res[-1] > 0
            prompt = add_click(frame.prompts[-1], next_click(self._sampling, truth, predicted, clips.generators))
            multimask = self._use_multimask(initial, prompt)
            arguments = (fused, prompt, frame.masks[-1], high_res, multimask)
            if self.use_act_ckpt_iterative_pt_sampling and not multimask and torch.is_grad_enabled():
                heads = self._checkpointed(self._forward_sam_heads, *arguments)
            else:
                heads = self._forward_sam_heads(*arguments)
            pointer = frame.add(heads, prompt)
        return pointer


def _clear_cache(model: Any, _: object) -> None:
    """Clears the encoder cache of ``model``. The hook gets ``model`` as argument, so that copied models can use it."""
    model.encoder_cache.clear()


@torch.no_grad()
def identity_init(attention: MemoryAttention, feature_std: float) -> None:
    """Initializes memory attention so that it returns a frame's features, up to the position encodings and a scale.

    With the default initialization, a mask decoder trained without memory attention would get noise several times as
    large as the features. This function sets the last layer of each branch to zero and the norm to the features' scale.
    The mask decoder thus gets features of the standard scale from the first update.

    Args:
        attention: memory attention module whose weights are overwritten.
        feature_std: standard deviation of the image encoder's coarsest level, over channels and positions; positive.
    """
    if not feature_std > 0:
        raise ValueError(f"feature_std must be positive, got {feature_std}")
    for layer in attention.layers:
        layer = cast(MemoryAttentionLayer, layer)
        for last in (layer.self_attn.out_proj, layer.cross_attn_image.out_proj, layer.linear2):
            last = cast(Linear, last)
            last.weight.zero_()
            last.bias.zero_()
    attention.norm.weight.fill_(feature_std)
    attention.norm.bias.zero_()

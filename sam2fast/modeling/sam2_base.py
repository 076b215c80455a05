"""The SAM 2 model. Computes masks, object pointers and memories from image features."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2fast.kernels.preprocess import MEAN, STD
from sam2fast.modeling import official_steps
from sam2fast.modeling.compiled import compile_method
from sam2fast.modeling.image_encoder import ImageEncoder
from sam2fast.modeling.layers import MLP
from sam2fast.modeling.mask_decoder import MaskDecoder
from sam2fast.modeling.memory_attention import MemoryAttention
from sam2fast.modeling.memory_encoder import MemoryEncoder
from sam2fast.modeling.official_steps import Heads, as_map, as_tokens
from sam2fast.modeling.perceiver import PerceiverResampler
from sam2fast.modeling.position_encoding import sine_1d, sine_periods
from sam2fast.modeling.prompt_encoder import PromptEncoder, embed_prompts
from sam2fast.modeling.two_way_transformer import TwoWayTransformer

# Mask logit and object score of an object that is absent from the frame.
NO_OBJ_SCORE = -1024.0


class ObjectPrediction(NamedTuple):
    """Prediction of the model for B objects on one frame."""

    mask: Tensor  # (B, 1, h, w) fp32 logits at the decoder's size
    iou: Tensor  # (B, 1) predicted IoU of the mask
    pointer: Tensor  # (B, C)
    score: Tensor  # (B, 1) object score logit
    choice: Tensor  # (B, 1) index of the selected mask among the decoder's masks


class MaskChooser(Protocol):
    """Selects one of M masks for each of B hypotheses. The default selects the mask with the highest predicted IoU.

    A hypothesis may select from the masks of another hypothesis, see :attr:`parents`.
    """

    @property
    def parents(self) -> Tensor | None:
        """Rows ``(B,)`` int64 whose masks the last call selected from. None means that row i used masks of row i."""
        ...

    def __call__(self, masks: Tensor, ious: Tensor, scores: Tensor) -> Tensor:
        """Selects a mask for each row.

        Args:
            masks: Logits ``(B, M, h, w)`` in fp32 at the decoder's size. Logits of absent objects are -1024.
            ious: Predicted IoUs ``(B, M)`` of the masks.
            scores: Object score logits ``(B, 1)``.

        Returns:
            Mask indices ``(B, 1)`` int64, starting from 0, on the same device.
        """
        ...


class SAM2Base(nn.Module):
    """SAM 2 model without a predictor. Constructor arguments, defaults and state-dict names match the official class.

    Source: ``sam2.modeling.sam2_base.SAM2Base``. The official class and the YAML configurations document arguments.

    Args:
        pixel_mean, pixel_std: Mean and standard deviation per channel, to normalise pixels in [0, 1].

    Attributes:
        memory_mask_size: Height and width of the memory encoder's input masks.

    Raises:
        ValueError: If arguments contradict each other, or ``image_size`` is not a multiple of 32 (SAM 3: 28, EdgeTAM:
            256).
    """

    track_step = official_steps.track_step
    _track_step = official_steps._track_step
    _prepare_memory_conditioned_features = official_steps._prepare_memory_conditioned_features
    _encode_memory_in_output = official_steps._encode_memory_in_output
    _encode_new_memory = official_steps._encode_new_memory
    _pointers_as_tokens = official_steps._pointers_as_tokens

    def __init__(
        self,
        image_encoder: ImageEncoder,
        memory_attention: MemoryAttention,
        memory_encoder: MemoryEncoder,
        num_maskmem: int = 7,
        image_size: int = 512,
        backbone_stride: int = 16,
        sigmoid_scale_for_mem_enc: float = 1.0,
        sigmoid_bias_for_mem_enc: float = 0.0,
        binarize_mask_from_pts_for_mem_enc: bool = False,
        use_mask_input_as_output_without_sam: bool = False,
        max_cond_frames_in_attn: int = -1,
        directly_add_no_mem_embed: bool = False,
        use_high_res_features_in_sam: bool = False,
        multimask_output_in_sam: bool = False,
        multimask_min_pt_num: int = 1,
        multimask_max_pt_num: int = 1,
        multimask_output_for_tracking: bool = False,
        use_multimask_token_for_obj_ptr: bool = False,
        iou_prediction_use_sigmoid: bool = False,
        memory_temporal_stride_for_eval: int = 1,
        non_overlap_masks_for_mem_enc: bool = False,
        use_obj_ptrs_in_encoder: bool = False,
        max_obj_ptrs_in_encoder: int = 16,
        add_tpos_enc_to_obj_ptrs: bool = True,
        proj_tpos_enc_in_obj_ptrs: bool = False,
        use_signed_tpos_enc_to_obj_ptrs: bool = False,
        only_obj_ptrs_in_the_past_for_eval: bool = False,
        pred_obj_scores: bool = False,
        pred_obj_scores_mlp: bool = False,
        fixed_no_obj_ptr: bool = False,
        soft_no_obj_ptr: bool = False,
        use_mlp_for_obj_ptr_proj: bool = False,
        no_obj_embed_spatial: bool = False,
        sam_mask_decoder_extra_args: dict[str, Any] | None = None,
        compile_image_encoder: bool = False,
        spatial_perceiver: PerceiverResampler | None = None,
        pixel_mean: Sequence[float] = MEAN,
        pixel_std: Sequence[float] = STD,
    ) -> None:
        super().__init__()
        # Twice the stride is the coarsest stride of trunk or neck. Hiera's windows fit multiples of this stride.
        multiple = backbone_stride * (2 if spatial_perceiver is None else spatial_perceiver.grid)
        if image_size <= 0 or image_size % multiple:
            nearest = max(round(image_size / multiple), 1) * multiple
            raise ValueError(f"image_size must be a multiple of {multiple}, such as {nearest}; got {image_size}")
        if proj_tpos_enc_in_obj_ptrs and not add_tpos_enc_to_obj_ptrs:
            raise ValueError("proj_tpos_enc_in_obj_ptrs needs add_tpos_enc_to_obj_ptrs")
        if fixed_no_obj_ptr and not (pred_obj_scores and use_obj_ptrs_in_encoder):
            raise ValueError("fixed_no_obj_ptr needs pred_obj_scores and use_obj_ptrs_in_encoder")

        self.image_encoder = image_encoder  # optimizer states depend on the official order of modules
        if use_obj_ptrs_in_encoder:
            self.mask_downsample = nn.Conv2d(1, 1, kernel_size=4, stride=4)
        self.memory_attention = memory_attention
        self.memory_encoder = memory_encoder
        self.spatial_perceiver = spatial_perceiver
        self.hidden_dim: int = image_encoder.neck.d_model
        out_proj = memory_encoder.out_proj
        self.mem_dim: int = out_proj.out_channels if isinstance(out_proj, nn.Conv2d) else self.hidden_dim

        self.image_size = image_size
        self.backbone_stride = backbone_stride
        self.pixel_mean, self.pixel_std = tuple(pixel_mean), tuple(pixel_std)  # for pixels in [0, 1]
        self.use_high_res_features_in_sam = use_high_res_features_in_sam
        self.num_feature_levels = 3 if use_high_res_features_in_sam else 1
        self.directly_add_no_mem_embed = directly_add_no_mem_embed
        self.num_maskmem = num_maskmem
        self.max_cond_frames_in_attn = max_cond_frames_in_attn
        self.memory_temporal_stride_for_eval = memory_temporal_stride_for_eval
        self.sigmoid_scale_for_mem_enc = sigmoid_scale_for_mem_enc
        self.sigmoid_bias_for_mem_enc = sigmoid_bias_for_mem_enc
        self.binarize_mask_from_pts_for_mem_enc = binarize_mask_from_pts_for_mem_enc
        self.non_overlap_masks_for_mem_enc = non_overlap_masks_for_mem_enc
        self.use_mask_input_as_output_without_sam = use_mask_input_as_output_without_sam
        self.multimask_output_in_sam = multimask_output_in_sam
        self.multimask_min_pt_num = multimask_min_pt_num
        self.multimask_max_pt_num = multimask_max_pt_num
        self.multimask_output_for_tracking = multimask_output_for_tracking
        self.use_multimask_token_for_obj_ptr = use_multimask_token_for_obj_ptr
        self.iou_prediction_use_sigmoid = iou_prediction_use_sigmoid
        self.use_obj_ptrs_in_encoder = use_obj_ptrs_in_encoder
        self.max_obj_ptrs_in_encoder = max_obj_ptrs_in_encoder
        self.add_tpos_enc_to_obj_ptrs = add_tpos_enc_to_obj_ptrs
        self.proj_tpos_enc_in_obj_ptrs = proj_tpos_enc_in_obj_ptrs
        self.use_signed_tpos_enc_to_obj_ptrs = use_signed_tpos_enc_to_obj_ptrs
        self.only_obj_ptrs_in_the_past_for_eval = only_obj_ptrs_in_the_past_for_eval
        self.pred_obj_scores = pred_obj_scores
        self.pred_obj_scores_mlp = pred_obj_scores_mlp
        self.fixed_no_obj_ptr = fixed_no_obj_ptr
        self.soft_no_obj_ptr = soft_no_obj_ptr
        self.use_mlp_for_obj_ptr_proj = use_mlp_for_obj_ptr_proj
        self.sam_mask_decoder_extra_args = sam_mask_decoder_extra_args

        C = self.hidden_dim
        self.maskmem_tpos_enc = _embedding(num_maskmem, 1, 1, self.mem_dim)
        self.no_mem_embed = _embedding(1, 1, C)
        self.no_mem_pos_enc = _embedding(1, 1, C)
        if pred_obj_scores and use_obj_ptrs_in_encoder:
            self.no_obj_ptr = _embedding(1, C)
        self.no_obj_embed_spatial = _embedding(1, self.mem_dim) if no_obj_embed_spatial else None
        self._build_sam_heads()

        if compile_image_encoder:
            compile_method(self.image_encoder, "forward", mode="max-autotune")

    def _build_sam_heads(self) -> None:
        C = self.hidden_dim
        self.sam_prompt_embed_dim = C
        self.sam_image_embedding_size = self.image_size // self.backbone_stride
        downsampler = getattr(self.memory_encoder, "mask_downsampler", None)
        mask_stride = getattr(downsampler, "total_stride", self.backbone_stride)  # custom modules may lack total_stride
        self.memory_mask_size = (self.sam_image_embedding_size * mask_stride,) * 2
        self.sam_prompt_encoder = PromptEncoder(
            embed_dim=C,
            image_embedding_size=(self.sam_image_embedding_size,) * 2,
            input_image_size=(self.image_size,) * 2,
            mask_in_chans=16,
        )
        self.sam_mask_decoder = MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=C, mlp_dim=2048, num_heads=8),
            transformer_dim=C,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
            use_high_res_features=self.use_high_res_features_in_sam,
            iou_prediction_use_sigmoid=self.iou_prediction_use_sigmoid,
            pred_obj_scores=self.pred_obj_scores,
            pred_obj_scores_mlp=self.pred_obj_scores_mlp,
            use_multimask_token_for_obj_ptr=self.use_multimask_token_for_obj_ptr,
            **(self.sam_mask_decoder_extra_args or {}),
        )
        self.obj_ptr_proj: nn.Module = nn.Identity()
        if self.use_obj_ptrs_in_encoder:
            self.obj_ptr_proj = MLP(C, C, C, 3) if self.use_mlp_for_obj_ptr_proj else nn.Linear(C, C)
        self.obj_ptr_tpos_proj = nn.Linear(C, self.mem_dim) if self.proj_tpos_enc_in_obj_ptrs else nn.Identity()

    @property
    def device(self) -> torch.device:
        """Device of the model's parameters."""
        return self.no_mem_embed.device

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Raises NotImplementedError. Use a predictor, or ``training.model.SAM2Train``."""
        raise NotImplementedError("SAM2Base has no forward; use SAM2ImagePredictor or SAM2VideoPredictor")

    def encode_image(self, images: Tensor) -> list[Tensor]:
        """Encodes normalised ``images (B, 3, S, S)`` as inputs of the mask decoder, finest first.

        Returns:
            Maps ``(B, C/8, 4h, 4h)``, ``(B, C/4, 2h, 2h)`` and ``(B, C, h, h)``, with h = S/16 (SAM 3: S/14). Models
            without high-resolution features return only the last map.
        """
        _, tokens, _, sizes = self._prepare_backbone_features(self.forward_image(images))
        return [as_map(x, size) for x, size in zip(tokens, sizes, strict=True)]

    def _level_heads(self) -> dict[int, nn.Conv2d]:
        """Returns the decoder's 1x1 convolutions of high-resolution features by level. Each runs once per image."""
        decoder = self.sam_mask_decoder
        return {0: decoder.conv_s0, 1: decoder.conv_s1} if self.use_high_res_features_in_sam else {}

    def forward_image(self, img_batch: Tensor) -> dict[str, Any]:
        """Returns the official dict of features for ``img_batch (B, 3, S, S)``.

        Levels 0 and 1 are outputs of the mask decoder's 1x1 convolutions.
        """
        out: dict[str, Any] = self.image_encoder(img_batch)
        for i, head in self._level_heads().items():
            out["backbone_fpn"][i] = head(out["backbone_fpn"][i])
        return out

    def _prepare_backbone_features(
        self, backbone_out: dict[str, Any]
    ) -> tuple[dict[str, Any], list[Tensor], list[Tensor], list[tuple[int, int]]]:
        """Returns a copy of the dict, and tokens ``(HW, B, C)``, position encodings and sizes of the used levels."""
        maps = backbone_out["backbone_fpn"][-self.num_feature_levels :]
        positions = backbone_out["vision_pos_enc"][-self.num_feature_levels :]
        sizes = [(x.shape[-2], x.shape[-1]) for x in positions]
        return dict(backbone_out), [as_tokens(x) for x in maps], [as_tokens(x) for x in positions], sizes

    def _forward_sam_heads(
        self,
        backbone_features: Tensor,
        point_inputs: dict[str, Tensor] | None = None,
        mask_inputs: Tensor | None = None,
        high_res_features: list[Tensor] | None = None,
        multimask_output: bool = False,
    ) -> Heads:
        """Predicts masks and object pointers for B objects.

        Args:
            backbone_features: Map ``(B, C, H, W)``.
            point_inputs: ``point_coords (B, P, 2)`` in input pixels and ``point_labels (B, P)``, or None.
            mask_inputs: Logits ``(B, 1, h, w)``, resized to the prompt encoder's ``mask_input_size``.
            high_res_features: Levels with strides 4 and 8, ``(B or 1, ...)``.
            multimask_output: If True, predicts three masks, and selects the mask with the highest predicted IoU.

        Returns:
            The official seven results: mask logits ``(B, M, 4H, 4W)``, mask logits at input size, IoUs ``(B, M)``, the
            selected mask ``(B, 1, 4H, 4W)``, at input size, object pointers ``(B, C)``, object scores ``(B, 1)``.
        """
        masks, ious, tokens, scores = self._decode(
            backbone_features, point_inputs, mask_inputs, high_res_features, multimask_output
        )
        best = self._best(masks, ious, tokens, scores)
        high_res = F.interpolate(masks, size=(self.image_size,) * 2, mode="bilinear", align_corners=False)
        best_high_res = high_res.take_along_dim(best.choice[:, :, None, None], dim=1)
        return masks, high_res, ious, best.mask, best_high_res, best.pointer, scores

    def predict_objects(
        self,
        features: Tensor,
        high_res_features: list[Tensor] | None,
        point_inputs: dict[str, Tensor] | None = None,
        mask_inputs: Tensor | None = None,
        multimask_output: bool = False,
        presence: float = 0.0,
        selection: MaskChooser | None = None,
    ) -> ObjectPrediction:
        """Predicts mask, score and pointer of B objects. For other arguments, see :meth:`_forward_sam_heads`.

        Args:
            presence: Score above which an object is present.
            selection: Custom selection among the masks, called even if there is a single mask. The returned indices are
                not checked.
        """
        decoded = self._decode(features, point_inputs, mask_inputs, high_res_features, multimask_output, presence)
        return self._best(*decoded, presence, selection)

    def _decode(
        self,
        features: Tensor,
        point_inputs: dict[str, Tensor] | None,
        mask_inputs: Tensor | None,
        high_res_features: list[Tensor] | None,
        multimask_output: bool,
        presence: float = 0.0,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns fp32 mask logits ``(B, M, 4H, 4W)``, -1024 for absent objects, IoUs, tokens and object scores."""
        encoder, decoder = self.sam_prompt_encoder, self.sam_mask_decoder
        sparse, dense = embed_prompts(encoder, point_inputs, mask_inputs, features)
        masks, ious, tokens, scores = decoder(
            image_embeddings=features,
            image_pe=encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask_output,
            repeat_image=False,
            high_res_features=high_res_features,
        )
        masks = masks.float()
        if self.pred_obj_scores:
            masks = torch.where((scores > presence)[:, None, None], masks, NO_OBJ_SCORE)
        return masks, ious, tokens, scores

    def _best(
        self,
        masks: Tensor,
        ious: Tensor,
        tokens: Tensor,
        scores: Tensor,
        presence: float = 0.0,
        selection: MaskChooser | None = None,
    ) -> ObjectPrediction:
        """Selects a mask for each object, and computes the object pointer from the token of this mask."""
        if selection is None:
            choice = ious.argmax(dim=-1, keepdim=True)  # (B, 1)
        else:
            choice = selection(masks, ious, scores)
            if selection.parents is not None:
                masks, ious, tokens, scores = (x[selection.parents] for x in (masks, ious, tokens, scores))
        token = gather_chosen(tokens, choice) if tokens.shape[1] > 1 else tokens
        pointer = self.obj_ptr_proj(token[:, 0])
        if self.pred_obj_scores:
            seen = scores.float().sigmoid() if self.soft_no_obj_ptr else scores > presence
            pointer = self._mix_in_absence(pointer, seen)
        return ObjectPrediction(gather_chosen(masks, choice), gather_chosen(ious, choice), pointer, scores, choice)

    def _mix_in_absence(self, pointer: Tensor, presence: Tensor) -> Tensor:
        """Calls :func:`mix_in_absence` with the model's ``no_obj_ptr``."""
        return mix_in_absence(pointer, presence, self.no_obj_ptr, self.fixed_no_obj_ptr)

    def _use_mask_as_output(
        self, backbone_features: Tensor, high_res_features: list[Tensor] | None, mask_inputs: Tensor, above: float = 0
    ) -> Heads:
        """Converts an input mask ``(B, 1, S, S)`` to the seven results of :meth:`_forward_sam_heads`.

        Args:
            above: Score above which an object is present, for the pointer that the decoder computes.
        """
        mask = mask_inputs.float()
        high_res, low_res, not_empty = logits_of_given(mask, self.sam_prompt_encoder.mask_input_size)
        pointer = mask.new_zeros(len(mask), self.hidden_dim)
        if self.use_obj_ptrs_in_encoder:
            small = self.mask_downsample(mask)
            prompt: dict[str, Any] = {"mask_inputs": small, "high_res_features": high_res_features}
            if above == 0:
                *_, pointer, _ = self._forward_sam_heads(backbone_features=backbone_features, **prompt)
            else:  # the official _forward_sam_heads has no argument presence
                pointer = self.predict_objects(backbone_features, **prompt, presence=above).pointer
        if self.pred_obj_scores and self.use_obj_ptrs_in_encoder:
            pointer = self._mix_in_absence(pointer, not_empty)
        return low_res, high_res, mask.new_ones(len(mask), 1), low_res, high_res, pointer, 20 * not_empty - 10

    def _use_multimask(self, is_init_cond_frame: bool, point_inputs: dict[str, Tensor] | None) -> bool:
        """Returns True if the decoder returns several masks for these prompts."""
        clicks = 0 if point_inputs is None else point_inputs["point_labels"].shape[1]
        return (
            self.multimask_output_in_sam
            and (is_init_cond_frame or self.multimask_output_for_tracking)
            and self.multimask_min_pt_num <= clicks <= self.multimask_max_pt_num
        )

    def encode_memory(self, features: Tensor, masks: Tensor, scores: Tensor, is_mask_from_pts: bool) -> Tensor:
        """Encodes the memory ``(B, C_mem, H, W)`` of B objects on one frame.

        Args:
            features: Map ``(1 or B, C, H, W)`` of the frame before memory attention.
            masks: Logits ``(B, 1, h, w)``, resized by :meth:`masks_for_memory`.
            scores: Object score logits ``(B, 1)``.
            is_mask_from_pts: If True, the masks come from prompts. Masks from prompts are binarized if configured.
        """
        return self._memory_and_positions(features, masks, scores, is_mask_from_pts)[0]

    def _memory_and_positions(
        self, features: Tensor, masks: Tensor, scores: Tensor, is_mask_from_pts: bool
    ) -> tuple[Tensor, list[Tensor] | None]:
        """Returns the memory, and position encodings from the memory encoder. With a perceiver, encodings are None."""
        masks, scale, bias = self.masks_for_memory(masks), self.sigmoid_scale_for_mem_enc, self.sigmoid_bias_for_mem_enc
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

    def masks_for_memory(self, masks: Tensor) -> Tensor:
        """Resizes logits ``(B, 1, H, W)`` to :attr:`memory_mask_size`.

        Logits of neither this size nor the model's input size are first resized to the input size.
        """
        for size in ((self.image_size,) * 2, self.memory_mask_size):
            if masks.shape[-2:] not in (size, self.memory_mask_size):
                masks = F.interpolate(masks.float(), size=size, mode="bilinear", align_corners=False)
        return masks

    @property
    def memory_size(self) -> tuple[int, int]:
        """Height and width of a memory."""
        if self.spatial_perceiver is not None:
            return self.spatial_perceiver.num_tokens, 1
        return self.sam_image_embedding_size, self.sam_image_embedding_size

    def encode_memory_positions(self, memory: Tensor) -> Tensor:
        """Returns the fp32 position encoding ``(B, C_mem, H, W)`` of ``memory (B, C_mem, H, W)``."""
        if self.spatial_perceiver is not None:
            return self.spatial_perceiver.encode_positions(memory)
        return self.memory_encoder.position_encoding(memory)

    def _encode_pointer_distances(self, distance: Tensor, num_frames: int) -> Tensor:
        """Encodes temporal distances as ``(..., C_mem)``. If ``add_tpos_enc_to_obj_ptrs`` is False, returns zeros.

        Args:
            distance: Distances ``(...)`` in frames, fp32.
            num_frames: Length of the video.
        """
        if not self.add_tpos_enc_to_obj_ptrs:
            return distance.new_zeros(*distance.shape, self.mem_dim)
        # At least 1, because the distances are divided by this value. A video of one frame would divide by zero.
        longest = max(1, min(num_frames, self.max_obj_ptrs_in_encoder) - 1)
        width = self.hidden_dim if self.proj_tpos_enc_in_obj_ptrs else self.mem_dim
        periods, phases = sine_periods(width, distance.device)
        sines = sine_1d(distance, torch.stack([longest * periods, phases]))
        return self.obj_ptr_tpos_proj(sines)

    def _apply_non_overlapping_constraints(self, pred_masks: Tensor) -> Tensor:
        """Keeps the object with the largest logit at each pixel of ``(N, 1, H, W)``. Clamps other logits to -10."""
        if len(pred_masks) < 2:
            return pred_masks
        owner = pred_masks.argmax(dim=0, keepdim=True)
        is_owner = owner == torch.arange(len(pred_masks), device=pred_masks.device)[:, None, None, None]
        return torch.where(is_owner, pred_masks, pred_masks.clamp(max=-10.0))


def _embedding(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.zeros(*shape), std=0.02))


# Methods that a user may replace, grouped by result. If a method is replaced, the engine calls its group of methods.
OF_IMAGES = ("encode_image", "forward_image", "_prepare_backbone_features", "_level_heads")
OF_OBJECTS = ("predict_objects", "_decode", "_best", "_mix_in_absence", "encode_memory", "_memory_and_positions")
OF_GIVEN_MASKS = ("_use_mask_as_output", "_forward_sam_heads", *OF_OBJECTS)
OF_DISTANCES = ("_encode_pointer_distances",)
METHODS = {name: getattr(SAM2Base, name) for name in (*OF_IMAGES, *OF_GIVEN_MASKS, *OF_DISTANCES)}


def mix_in_absence(pointer: Tensor, presence: Tensor, absent: Tensor, is_fixed: bool) -> Tensor:
    """Mixes pointers ``(B, C)`` with ``absent`` by ``presence (B, 1)``, bool or weights; only adds if not fixed."""
    if is_fixed and presence.dtype == torch.bool:
        return torch.where(presence, pointer.to(torch.promote_types(pointer.dtype, torch.float32)), absent)
    presence = presence.float()
    return (presence * pointer if is_fixed else pointer) + (1 - presence) * absent


def logits_of_given(masks: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns logits of given fp32 masks ``(B, 1, S, S)``, these logits at ``size``, and presence ``(B, 1)``."""
    logits = 20 * masks - 10  # converts 0 and 1 to -10 and 10
    small = F.interpolate(logits, size=size, mode="bilinear", align_corners=False, antialias=True)
    return logits, small, (masks.flatten(1) > 0).any(dim=1, keepdim=True).float()


def gather_chosen(x: Tensor, choice: Tensor) -> Tensor:
    """Returns the entries ``(B, 1, ...)`` of ``x (B, M, ...)`` at the indices ``choice (B, 1)``."""
    # gather, because take_along_dim computes additional index tensors.
    return x.gather(1, choice.reshape(*choice.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:]))

"""Defines plans of the parts that only videos use: memory attention and memory encoder."""

from collections.abc import Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sam2fast.engine.derived import TensorCache
from sam2fast.engine.plans import (
    Conv,
    Linear,
    Norm,
    PlanOfPart,
    Projections,
    conv_of,
    have_default_settings,
    is_gelu,
    is_relu,
    linear_of,
    norm_of,
    projections_of,
)
from sam2fast.engine.plans.perceiver import PerceiverPlan, plan_perceiver
from sam2fast.kernels.memory_attention import Pooling
from sam2fast.modeling.attention import EfficientRoPEAttention1, EfficientRoPEAttention2, RoPEAttention, RoPEAttentionv2
from sam2fast.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2fast.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
from sam2fast.modeling.position_encoding import sine_1d, sine_periods

# Cosines and sines of rotary position encodings.
Rotation = tuple[Tensor, Tensor]
# Supported types of attention to memories. The types only differ in rotations and pooling.
_TO_MEMORIES = RoPEAttention, RoPEAttentionv2, EfficientRoPEAttention1, EfficientRoPEAttention2


class AttendingLayer(NamedTuple):
    """Weights of a layer of memory attention."""

    norm1: Norm
    self_attn: Projections
    norm2: Norm
    cross: Projections  # cross-attention to the memory
    pooling: Pooling  # type of pooling of the memories
    norm3: Norm
    mlp: tuple[Linear, ...]


class AttentionPlan(PlanOfPart):
    """Plan of memory attention."""

    def __init__(self, attention: MemoryAttention) -> None:
        self.layers, self.norm = list(map(_attending, attention.layers)), norm_of(attention.norm)
        self.added = TensorCache[Tensor]()  # scaled position encoding that `static` adds to a frame's map
        self._attentions: list[Any] = [(layer.self_attn, layer.cross_attn_image) for layer in attention.layers]
        self._rotations: dict[Hashable, list[tuple[Rotation, Rotation]]] = {}

    def rotations(self, positions: int, page: int, device: torch.device) -> list[tuple[Rotation, Rotation]]:
        """Returns the rotations of each layer for self-attention and for cross-attention.

        Args:
            positions: Number of positions of a frame.
            page: Number of tokens of a page.
        """
        if (positions, page, device) not in self._rotations:
            self._rotations[positions, page, device] = [
                (self_attn._table(positions, device), cross._rope_of(positions, page, device))
                for self_attn, cross in self._attentions
            ]
        return self._rotations[positions, page, device]


def plan_attention(model: Any) -> AttentionPlan | None:
    """Returns the plan of a model's unmodified memory attention, or None if plans do not support its layers."""
    attention = model.memory_attention
    if type(attention) is not MemoryAttention or not have_default_settings(attention) or not attention.pos_enc_at_input:
        return None
    return AttentionPlan(attention) if all(map(_is_standard, attention.layers)) else None


def _is_standard(layer: Any) -> bool:
    """Returns True if attentions are supported, the activation is ReLU, and positions are only added to memory keys."""
    return (
        type(layer) is MemoryAttentionLayer
        and (layer.pos_enc_at_attn, layer.pos_enc_at_cross_attn_queries) == (False, False)
        and layer.pos_enc_at_cross_attn_keys
        and type(layer.self_attn) is RoPEAttention
        and type(layer.cross_attn_image) in _TO_MEMORIES
        and bool(layer.cross_attn_image.rope_k_repeat)
        and is_relu(layer.activation)
    )


def _attending(layer: Any) -> AttendingLayer:
    return AttendingLayer(
        norm_of(layer.norm1),
        projections_of(layer.self_attn),
        norm_of(layer.norm2),
        projections_of(layer.cross_attn_image),
        layer.cross_attn_image.pooling,
        norm_of(layer.norm3),
        (linear_of(layer.linear1), linear_of(layer.linear2)),
    )


class FuserLayer(NamedTuple):
    """Weights of a ConvNeXt block."""

    conv: Conv
    norm: Norm
    mlp: tuple[Linear, ...]
    gamma: Tensor | None  # (C), scale of the MLP's output


class MemoryPlan(PlanOfPart):
    """Plan of the memory encoder, the optional perceiver, and the layer for temporal distances of object pointers."""

    def __init__(self, encoder: MemoryEncoder, perceiver: PerceiverPlan | None, distances: nn.Module) -> None:
        *steps, last = encoder.mask_downsampler.encoder  # type: ignore[misc]
        self.downsampling = [(conv_of(conv), norm_of(norm)) for conv, norm in zip(steps[::3], steps[1::3], strict=True)]
        self.downsampled, self.pixels = conv_of(last), conv_of(encoder.pix_feat_proj)
        self.fuser = [
            FuserLayer(conv_of(x.dwconv), norm_of(x.norm), (linear_of(x.pwconv1), linear_of(x.pwconv2)), x.gamma)
            for x in encoder.fuser.layers  # type: ignore[union-attr]
        ]
        self.out = conv_of(encoder.out_proj) if isinstance(encoder.out_proj, nn.Conv2d) else None
        self.perceiver, self.position = perceiver, encoder.position_encoding
        self.distances = linear_of(distances) if isinstance(distances, nn.Linear) else None
        self._periods = TensorCache[Tensor]()

    def sines(self, settings: "MemorySettings", distance: Tensor, num_frames: int, dtype: torch.dtype | None) -> Tensor:
        """Returns the sine encoding of distances ``(...)`` in frames. The layer ``distances`` reads this encoding."""
        longest, width = max(1, min(num_frames, settings.max_pointers) - 1), settings.sines

        def in_frames() -> Tensor:
            periods, phases = sine_periods(width, distance.device)
            return torch.stack([longest * periods, phases])

        periods = self._periods((width, longest), (self.pixels.weight,), in_frames)
        return sine_1d(distance, periods, dtype)


def plan_memory(model: Any) -> MemoryPlan | None:
    """Returns the plan of an unmodified memory encoder, or None if plans do not support the layers."""
    encoder, distances = model.memory_encoder, model.obj_ptr_tpos_proj
    if type(encoder) is not MemoryEncoder:
        return None
    down, fuser = encoder.mask_downsampler, encoder.fuser
    if not (type(down) is MaskDownSampler and type(fuser) is Fuser and type(fuser.proj) is nn.Identity):
        return None
    if not all(type(layer) is CXBlock and is_gelu(layer.act) for layer in fuser.layers):
        return None
    if not all(map(is_gelu, list[Any](down.encoder)[2::3])) or not have_default_settings(encoder, distances):
        return None
    if type(distances) not in (nn.Linear, nn.Identity):
        return None
    perceiver = None if model.spatial_perceiver is None else plan_perceiver(model.spatial_perceiver)
    is_supported = (perceiver is None) == (model.spatial_perceiver is None)
    return MemoryPlan(encoder, perceiver, distances) if is_supported else None


class MemorySettings(NamedTuple):
    """Settings of a model for memories and pointers. Users may change settings, so plans do not store settings.

    Most names are attributes of ``SAM2Base``.
    """

    mask_size: tuple[int, int]  # size of the decoder's masks
    image_size: tuple[int, int]  # size of the model's input
    size: tuple[int, int]  # size of the memory encoder's input masks
    scale: float  # factor for mask probabilities
    bias: float  # bias added to scaled mask probabilities
    binarizes: bool  # if True, masks from prompts are binarized
    no_obj_embed_spatial: Tensor | None  # (1, C_mem), added to memories of absent objects
    pred_obj_scores: bool
    no_obj_ptr: Tensor | None  # (1, C), pointer for absent objects
    fixed_no_obj_ptr: bool  # True: no_obj_ptr replaces the pointer of an absent object; False: no_obj_ptr is added
    soft_no_obj_ptr: bool  # if True, mixes pointers by the probability that the object is present
    add_tpos_enc_to_obj_ptrs: bool  # if True, adds encodings of temporal distances
    sines: int  # channels of the sine encoding of a distance
    width: int  # C_mem, channels of a memory
    tokens: int  # number of tokens per pointer
    max_pointers: int  # maximum number of pointers per object


def settings_of(model: Any) -> MemorySettings:
    """Returns the settings of a model."""
    return MemorySettings(
        model.sam_prompt_encoder.mask_input_size,
        (model.image_size, model.image_size),
        model.memory_mask_size,
        model.sigmoid_scale_for_mem_enc,
        model.sigmoid_bias_for_mem_enc,
        model.binarize_mask_from_pts_for_mem_enc and not model.training,
        model.no_obj_embed_spatial,
        model.pred_obj_scores,
        model.no_obj_ptr if model.pred_obj_scores and model.use_obj_ptrs_in_encoder else None,
        model.fixed_no_obj_ptr,
        model.soft_no_obj_ptr,
        model.add_tpos_enc_to_obj_ptrs,
        model.hidden_dim if model.proj_tpos_enc_in_obj_ptrs else model.mem_dim,
        model.mem_dim,
        model.hidden_dim // model.mem_dim,
        model.max_obj_ptrs_in_encoder,
    )

"""The configuration of transformers' SAM 2 models, and official weights under their names."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import Sam2HieraDetConfig, Sam2VisionConfig

# Written out rather than read from our configurations, which are thereby checked too. Prompt encoder and mask decoder
# have one size in all models, and it is the default.
BACKBONES: dict[str, dict[str, Any]] = {
    "sam2.1_hiera_t": {
        "hidden_size": 96,
        "num_attention_heads": 1,
        "blocks_per_stage": [1, 2, 7, 2],
        "embed_dim_per_stage": [96, 192, 384, 768],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": [8, 4, 14, 7],
        "global_attention_blocks": [5, 7, 9],
        "window_positional_embedding_background_size": [7, 7],
    },
    "sam2.1_hiera_b+": {
        "hidden_size": 112,
        "num_attention_heads": 2,
        "blocks_per_stage": [2, 3, 16, 3],
        "embed_dim_per_stage": [112, 224, 448, 896],
        "num_attention_heads_per_stage": [2, 4, 8, 16],
        "window_size_per_stage": [8, 4, 14, 7],
        "global_attention_blocks": [12, 16, 20],
        "window_positional_embedding_background_size": [14, 14],
    },
}
BACKBONES["sam2_hiera_t"] = BACKBONES["sam2.1_hiera_t"]

# Official spelling -> transformers' spelling, applied one after the other.
RENAMES = (
    (r"^no_mem_embed$", "no_memory_embedding"),
    (r"^no_mem_pos_enc$", "no_memory_positional_encoding"),
    (r"^maskmem_tpos_enc$", "memory_temporal_positional_encoding"),
    (r"^no_obj_ptr$", "no_object_pointer"),
    (r"^no_obj_embed_spatial$", "occlusion_spatial_embedding_parameter"),
    (r"^obj_ptr_proj\b", "object_pointer_proj"),
    (r"^obj_ptr_tpos_proj\b", "temporal_positional_encoding_projection_layer"),
    (r"^image_encoder\.trunk\.patch_embed\.proj\b", "vision_encoder.backbone.patch_embed.projection"),
    (r"^image_encoder\.trunk\b", "vision_encoder.backbone"),
    (r"^image_encoder\.neck\.convs\.(\d)\.conv\b", r"vision_encoder.neck.convs.\1"),
    (r"^memory_attention\.norm\b", "memory_attention.layer_norm"),
    (r"^memory_encoder\.out_proj\b", "memory_encoder.projection"),
    (r"^memory_encoder\.pix_feat_proj\b", "memory_encoder.feature_projection"),
    (r"^memory_encoder\.fuser\.layers\.(\d)\.norm\b", r"memory_encoder.fuser.layers.\1.layer_norm"),
    (r"^memory_encoder\.fuser\b", "memory_encoder.memory_fuser"),
    (r"\bgamma$", "scale"),
    (r"\bdwconv\b", "depthwise_conv"),
    (r"\bpwconv(\d)\b", r"pointwise_conv\1"),
    (r"\bmask_downsampler\.encoder\.12\b", "mask_downsampler.final_conv"),
    (r"^sam_(prompt_encoder|mask_decoder)\b", r"\1"),
    (r"\bpe_layer\.positional_encoding_gaussian_matrix$", "shared_embedding.positional_embedding"),
    (r"\bmask_downscaling\.0\b", "mask_embed.conv1"),
    (r"\bmask_downscaling\.1\b", "mask_embed.layer_norm1"),
    (r"\bmask_downscaling\.3\b", "mask_embed.conv2"),
    (r"\bmask_downscaling\.4\b", "mask_embed.layer_norm2"),
    (r"\bmask_downscaling\.6\b", "mask_embed.conv3"),
    (r"\boutput_upscaling\.0\b", "upscale_conv1"),
    (r"\boutput_upscaling\.1\b", "upscale_layer_norm"),
    (r"\boutput_upscaling\.3\b", "upscale_conv2"),
    (r"\bnorm(\d|_final_attn)\b", r"layer_norm\1"),
    (r"\bout_proj\b", "o_proj"),
    # First and last layer of an MLP have names; only those between are numbered, from 0.
    (r"\bmlp\.layers\.0\b", "mlp.proj_in"),
    (r"\bmlp\.layers\.1\b", "mlp.proj_out"),
    (r"(_mlps\.\d|_head|object_pointer_proj)\.layers\.0\b", r"\1.proj_in"),
    (r"(_mlps\.\d|_head|object_pointer_proj)\.layers\.2\b", r"\1.proj_out"),
    (r"(_mlps\.\d|_head|object_pointer_proj)\.layers\.1\b", r"\1.layers.0"),
    # Convolution, norm and activation in turn, there grouped by threes.
    *(
        (rf"\bmask_downsampler\.encoder\.{3 * layer + i}\b", f"mask_downsampler.layers.{layer}.{part}")
        for layer in range(4)
        for i, part in enumerate(("conv", "layer_norm"))
    ),
)
POINT_EMBEDDING = "sam_prompt_encoder.point_embeddings.{}.weight"


def vision_config(name: str, image_size: int) -> Sam2VisionConfig:
    """Of the image encoder of the model ``name``, for square pictures."""
    backbone = Sam2HieraDetConfig(image_size=[image_size, image_size], **BACKBONES[name])
    return Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=backbone.embed_dim_per_stage[::-1],
        backbone_feature_sizes=[[image_size // stride] * 2 for stride in (4, 8, 16)],
        fpn_top_down_levels=[2, 3],
    )


def transformers_name(name: str) -> str:
    """The name in transformers of an official parameter."""
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def converted(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official weights as transformers' models want them."""
    points = [POINT_EMBEDDING.format(label) for label in range(4)]
    out = {transformers_name(name): x for name, x in weights.items() if name not in points}
    # Four tables of one row are one table there, and the matrix of the positions is held twice.
    out["prompt_encoder.point_embed.weight"] = torch.cat([weights[name] for name in points])
    out["shared_image_embedding.positional_embedding"] = out["prompt_encoder.shared_embedding.positional_embedding"]
    return out

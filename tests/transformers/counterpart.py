"""The configuration of transformers' SAM 2 models."""

from typing import Any

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


def vision_config(name: str, image_size: int) -> Sam2VisionConfig:
    """Of the image encoder of the model ``name``, for square images."""
    backbone = Sam2HieraDetConfig(image_size=[image_size, image_size], **BACKBONES[name])
    return Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=backbone.embed_dim_per_stage[::-1],
        backbone_feature_sizes=[[image_size // stride] * 2 for stride in (4, 8, 16)],
        fpn_top_down_levels=[2, 3],
    )

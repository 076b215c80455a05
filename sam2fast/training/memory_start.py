"""A start for memory that is to learn behind an image model that does not."""

from typing import cast

import torch

from sam2fast.modeling.layers import Linear
from sam2fast.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer


@torch.no_grad()
def start_as_identity(attention: MemoryAttention, feature_std: float) -> None:
    """Lets memory attention give a frame's features back, all but their position encodings, until it has learnt.

    Drawn as usual, it gives a mask decoder that was trained without it noise, several times as large as features. Here
    the last layer of each branch starts at zero and the norm at the features' scale, so that the decoder sees from the
    first update on what it knows, and memories only add to it.

    Args:
        attention: its weights are overwritten.
        feature_std: standard deviation of the image encoder's coarsest level, over channels and places.

    Raises:
        ValueError: the deviation is not positive.
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

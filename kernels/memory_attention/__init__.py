"""Single- or multi-head attention with axial rotary position encoding, to the frame itself or to the memory bank."""

import torch

from sam2fast.kernels._dispatch import use_triton
from sam2fast.kernels.memory_attention.reference import apply_rope, rope_attention_reference

__all__ = ["apply_rope", "rope_attention", "rope_attention_reference"]


def rope_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    num_unrotated_keys: int = 0,
    dropout_p: float = 0.0,
) -> torch.Tensor:
    """Attention whose queries and keys are rotated by their position on the feature map.

    Args:
        query: ``(B, heads, N, d)``, one query per position.
        key: ``(B, heads, M, d)``; all but the last ``num_unrotated_keys`` keys are whole maps of N positions.
        value: ``(B, heads, M, d_v)``; ``d_v`` may differ from ``d``.
        cos, sin: ``(N, d / 2)`` fp32 rotation of each pair of neighbouring channels at each position.
        num_unrotated_keys: trailing keys without a position (object pointers).
        dropout_p: dropout of the attention weights.

    Returns:
        ``(B, heads, N, d_v)`` in the dtype of ``value``.

    Raises:
        ValueError: the rotated keys are not a whole number of maps, or the table does not fit the queries.

    Source: ``sam2.modeling.sam.transformer.RoPEAttention.forward``.
    """
    positions, rotated = query.shape[-2], key.shape[-2] - num_unrotated_keys
    if cos.shape != (positions, query.shape[-1] // 2) or sin.shape != cos.shape:
        raise ValueError(
            f"expected cos and sin ({positions}, {query.shape[-1] // 2}) for queries {tuple(query.shape)}, "
            f"got {tuple(cos.shape)} and {tuple(sin.shape)}"
        )
    if rotated < 0 or rotated % positions:
        raise ValueError(f"{rotated} rotated keys are not a whole number of maps of {positions} positions")
    use_triton("memory_attention", query, key, value)
    return rope_attention_reference(query, key, value, cos, sin, num_unrotated_keys, dropout_p)

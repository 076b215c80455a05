"""Computes attention of a few tokens to an image, of the image to the tokens, and among the tokens."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.kernels._launch import ANY
from sam2fast.kernels._op import op, why_unsupported

__all__ = ["token_attention", "token_attention_reference"]

WIDEST, WIDEST_OF_MANY = 32, 16  # maximum channels of a head: 32 with at most FEW keys, and 16 with more keys
FEW = 128  # maximum number of keys that a single warp processes; more keys are divided between warps


def shape_class(keys: int) -> str:
    """Returns the shape class of attention: "many" for more than 128 keys, else "*"."""
    return "many" if keys > FEW else ANY


def _unsupported(query: Tensor, key: Tensor, *rest: Any) -> str | None:
    *others, num_heads = rest
    d, widest = query.shape[2] // num_heads, WIDEST if key.shape[1] <= FEW else WIDEST_OF_MANY
    reason = why_unsupported(query, leaves="products", alike=[query, key, *(x for x in others if x is not None)])
    if reason is None and d > widest:
        return f"supports heads of at most {widest} channels with {key.shape[1]} keys, got {d}"
    return reason


@op(
    shapes=(
        "query (B or 1, N, C), key and value (B or 1, M, C) of one batch, query_position (N, C) and key_position "
        "(M, C), with M of at least 1 and C a multiple of num_heads"
    ),
    fits=lambda query, key, value, _1, _2, num_heads: (
        key.shape == value.shape and key.shape[1] > 0 and query.shape[2] % num_heads == 0
    ),
    unsupported=_unsupported,
    prefers_torch=lambda query, *_: query.dtype == torch.float32,  # fp32 speed was not compared
    compile_key=lambda q, key, *rest: (q.shape[2], rest[-1], key.shape[1] > FEW, *(x is None for x in rest[1:3])),
)
def token_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_position: Tensor | None,
    key_position: Tensor | None,
    num_heads: int,
) -> Tensor:
    """Computes multi-head attention with either few queries or few keys.

    Queries or keys with a batch size of 1 are broadcast, for example if all prompts share an image.

    Args:
        query: Projected queries ``(B or 1, N, heads * d)``.
        key, value: Projected keys and values ``(B or 1, M, heads * d)`` of the same batch size. M is at least 1.
        query_position: Projected positions ``(N, heads * d)``, added to all queries, or None.
        key_position: Projected positions ``(M, heads * d)``, added to all keys, or None.
        num_heads: Number of heads. Attention scores are scaled by ``1 / sqrt(d)``.

    Returns:
        Tensor ``(B, N, heads * d)`` in the dtype of ``query``.

    Raises:
        ValueError: If the shapes do not match.

    Source: ``sam2.modeling.sam.transformer.Attention.forward``, between its projections.
    """
    query = query if query_position is None else query + query_position
    key = key if key_position is None else key + key_position
    B, (_, N, C) = len(key if len(query) == 1 else query), query.shape
    if len(key) == 1:
        query = query.flatten(0, 1)[None]
    q, k, v = (x.expand(len(key), -1, -1).unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).view(B, N, C)


token_attention_reference = token_attention.reference

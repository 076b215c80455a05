import torch
import torch.nn.functional as F


def apply_rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotates the channel pairs (2i, 2i+1) of ``x (..., maps * N, d)`` in fp32; ``cos, sin (N, d / 2)``."""
    maps = x.float().unflatten(-2, (-1, cos.shape[0]))  # (..., maps, N, d)
    even, odd = maps[..., 0::2], maps[..., 1::2]
    rotated = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return rotated.flatten(-2).flatten(-3, -2).to(x.dtype)


def rope_attention_reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    num_unrotated_keys: int = 0,
    dropout_p: float = 0.0,
) -> torch.Tensor:
    rotated, unrotated = key.split([key.shape[-2] - num_unrotated_keys, num_unrotated_keys], dim=-2)
    query = apply_rope(query, cos, sin)
    if rotated.shape[-2]:  # an object may have pointers and no spatial memory
        key = torch.cat([apply_rope(rotated, cos, sin), unrotated], dim=-2)
    return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout_p)

"""The spatial perceiver of EdgeTAM. Compresses the map of a memory to a few hundred tokens."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LatentFeedForward(nn.Sequential):
    """Feed-forward network on ``(..., dim)``: norm, linear layer, GELU, linear layer."""

    def __init__(self, dim: int, mult: int) -> None:
        inner = dim * mult
        super().__init__(
            nn.LayerNorm(dim), nn.Linear(dim, inner, bias=False), nn.GELU(), nn.Linear(inner, dim, bias=False)
        )


class LatentSelfAttention(nn.Module):
    """Self-attention of latents ``(B, L, dim)``.

    Source: ``sam2.modeling.perceiver.Attention`` of EdgeTAM.
    """

    def __init__(self, dim: int, dim_head: int, heads: int, dropout_p: float) -> None:
        super().__init__()
        self.heads, self.dropout_p = heads, dropout_p
        self.norm = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, dim_head * heads, bias=False)
        self.to_kv = nn.Linear(dim, 2 * dim_head * heads, bias=False)
        self.to_out = nn.Linear(dim_head * heads, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        q, (k, v) = self.to_q(x), self.to_kv(x).chunk(2, dim=-1)
        return _attend(self, q, k, v)


class LatentCrossAttention(nn.Module):
    """Cross-attention of latents ``(B, L, dim)`` to tokens ``(B, M, dim)``.

    Source: ``sam2.modeling.perceiver.PerceiverAttention`` of EdgeTAM.
    """

    def __init__(self, dim: int, dim_head: int, heads: int, dropout_p: float) -> None:
        super().__init__()
        self.heads, self.dropout_p = heads, dropout_p
        self.norm_x, self.norm_latents = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, dim_head * heads, bias=False)
        self.to_kv = nn.Linear(dim, 2 * dim_head * heads, bias=False)
        self.to_out = nn.Linear(dim_head * heads, dim, bias=False)

    def forward(self, latents: Tensor, x: Tensor, pos: Tensor | None = None) -> Tensor:
        """Returns ``(B, L, dim)``. Adds ``pos (B, M, dim_head * heads)`` to the projected keys and values."""
        q = self.to_q(self.norm_latents(latents))
        k, v = self.to_kv(self.norm_x(x)).chunk(2, dim=-1)
        if pos is not None:
            k, v = k + pos.to(k.dtype), v + pos.to(v.dtype)
        return _attend(self, q, k, v)


class PerceiverLayer(nn.Module):
    """Cross-attention of latents ``(B, L, dim)`` to tokens ``(B, M, dim)``, followed by self-attention of latents.

    Source: ``sam2.modeling.perceiver.PerceiverEncoderLayer`` of EdgeTAM.
    """

    def __init__(
        self, dim: int, dim_head: int, heads: int, ff_mult: int, hidden_dropout_p: float, attention_dropout_p: float
    ) -> None:
        super().__init__()
        self.attn = LatentCrossAttention(dim, dim_head, heads, attention_dropout_p)
        self.ff = LatentFeedForward(dim, ff_mult)
        self.dropout = nn.Dropout(hidden_dropout_p)
        self.self_attn = LatentSelfAttention(dim, dim_head, heads, attention_dropout_p)
        self.self_ff = LatentFeedForward(dim, ff_mult)

    def forward(self, latents: Tensor, x: Tensor, pos: Tensor | None = None) -> Tensor:
        latents = self.dropout(latents + self.attn(latents, x, pos))
        latents = latents + self.ff(latents)
        latents = latents + self.self_attn(latents)
        return latents + self.self_ff(latents)


class PerceiverResampler(nn.Module):
    """Compresses a map to ``num_latents`` tokens of the whole map and ``num_latents_2d`` tokens of one window each.

    The result ``(B, dim, num_latents + num_latents_2d, 1)`` has four dimensions, like memories of other models.

    Source: ``sam2.modeling.perceiver.PerceiverResampler`` of EdgeTAM, with the same configuration keys.

    Raises:
        ValueError: If an option differs from all published models.
    """

    def __init__(
        self,
        *,
        dim: int,
        depth: int,
        position_encoding: nn.Module,
        dim_head: int = 64,
        heads: int = 8,
        num_latents: int = -1,
        num_latents_2d: int = -1,
        ff_mult: int = 4,
        hidden_dropout_p: float = 0.1,
        attention_dropout_p: float = 0.05,
        pos_enc_at_key_value: bool = False,
        concat_kv_latents: bool = True,
        use_self_attn: bool = False,
    ) -> None:
        super().__init__()
        self.grid = math.isqrt(max(0, num_latents_2d))
        if num_latents < 1 or self.grid < 1 or self.grid**2 != num_latents_2d:
            raise ValueError(
                f"num_latents must be at least 1 and num_latents_2d a square, got {num_latents} and {num_latents_2d}"
            )
        if not pos_enc_at_key_value or concat_kv_latents or not use_self_attn:
            raise ValueError("expected pos_enc_at_key_value=true, concat_kv_latents=false and use_self_attn=true")
        if dim_head * heads != dim:
            raise ValueError(f"{heads} heads of {dim_head} channels do not equal the width {dim}")
        self.latents = nn.Parameter(torch.randn(num_latents, dim))
        self.latents_2d = nn.Parameter(torch.randn(num_latents_2d, dim))
        self.position_encoding = position_encoding
        self.layers = nn.ModuleList(
            PerceiverLayer(dim, dim_head, heads, ff_mult, hidden_dropout_p, attention_dropout_p) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)

    @property
    def num_tokens(self) -> int:
        """Number of tokens in a memory."""
        return len(self.latents) + len(self.latents_2d)

    def forward(self, x: Tensor, pos: Tensor) -> Tensor:
        """Compresses memories ``(B, dim, H, W)`` with position encoding ``pos`` to ``(B, dim, num_tokens, 1)``."""
        B, C, H, W = x.shape
        g = self.grid
        latents = self.latents.expand(B, -1, -1)
        tokens, position = x.flatten(2).transpose(1, 2), pos.flatten(2).transpose(1, 2)
        windows = x.reshape(B, C, g, H // g, g, W // g).permute(0, 2, 4, 3, 5, 1).reshape(B * g * g, -1, C)
        local = self.latents_2d.expand(B, -1, -1).reshape(-1, 1, C)
        for layer in self.layers:
            latents, local = layer(latents, tokens, position), layer(local, windows)
        compressed = torch.cat([latents, local.reshape(B, -1, C)], dim=1)
        return self.norm(compressed).to(x.dtype).transpose(1, 2)[..., None]

    def encode_positions(self, memory: Tensor) -> Tensor:
        """Encodes positions of ``memory (B, dim, num_tokens, 1)``. Global tokens get zeros, window tokens a grid."""
        B, C = memory.shape[:2]
        grid = self.position_encoding(memory[:, :, : self.grid].expand(-1, -1, -1, self.grid)).flatten(2)
        return torch.cat([grid.new_zeros(B, C, len(self.latents)), grid], dim=2)[..., None]


def _attend(layer: LatentSelfAttention | LatentCrossAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Returns the multi-head attention output ``(B, L, dim)`` for ``q (B, L, C)`` and ``k, v (B, M, C)``."""
    q, k, v = (x.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, dropout_p=layer.dropout_p if layer.training else 0.0)
    return layer.to_out(out.transpose(1, 2).flatten(2))

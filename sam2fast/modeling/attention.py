"""Attention layers. The mask decoder uses plain attention. Memory attention uses rotary positions."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from operator import index
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2fast.kernels.memory_attention import (
    Pooling,
    apply_rope,
    offset_of_means,
    pool,
    pooled_keys,
    rope_attention_reference,
)
from sam2fast.modeling.position_encoding import axial_rope, compute_axial_cis
from sam2fast.modeling.tables import Tables


class Attention(nn.Module):
    """Multi-head attention with an inner dimension of ``embedding_dim // downsample_rate``.

    Source: ``sam2.modeling.sam.transformer.Attention``.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_heads: int,
        downsample_rate: int = 1,
        dropout: float = 0.0,
        kv_in_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.kv_in_dim = embedding_dim if kv_in_dim is None else kv_in_dim
        self.internal_dim = embedding_dim // downsample_rate
        if self.internal_dim % num_heads:
            raise ValueError(f"the inner width {self.internal_dim} is not a multiple of {num_heads} heads")
        self.num_heads = num_heads
        self.dropout_p = dropout
        self.q_proj = nn.Linear(embedding_dim, self.internal_dim)
        self.k_proj = nn.Linear(self.kv_in_dim, self.internal_dim)
        self.v_proj = nn.Linear(self.kv_in_dim, self.internal_dim)
        self.out_proj = nn.Linear(self.internal_dim, embedding_dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Returns the attention output ``(B, N, C)`` of queries ``q (B, N, C)`` to ``k, v (B, M, C_kv)``."""
        q, k, v = self._projected(q, k, v)
        return self._output(F.scaled_dot_product_attention(q, k, v, dropout_p=self._dropout))

    def _projected(self, q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
        """Returns projected queries, keys and values ``(B, heads, N, d)``."""
        return [self._separate_heads(x, self.num_heads) for x in (self.q_proj(q), self.k_proj(k), self.v_proj(v))]

    def _output(self, x: Tensor) -> Tensor:
        """Projects the outputs of the heads ``(B, heads, N, d)`` to ``(B, N, C)``."""
        return self.out_proj(self._recombine_heads(x))

    @property
    def _dropout(self) -> float:
        return self.dropout_p if self.training else 0.0

    def _separate_heads(self, x: Tensor, num_heads: int) -> Tensor:
        return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)  # (B, heads, N, d)

    def _recombine_heads(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(-2)


class RoPEAttention(Attention):
    """Attention with axial rotary positions. Queries are a square map. Keys may be several concatenated maps.

    Attributes:
        pooling: Type of pooling of memories of several frames, see :func:`memory_attention`. None: no pooling.
        compute_cis: Function that returns the complex rotations ``(end_x * end_y, d / 2)`` of a map.

    Source: ``sam2.modeling.sam.transformer.RoPEAttention``.
    """

    pooling: Pooling = None

    def __init__(
        self,
        *args: Any,
        rope_theta: float = 10000.0,
        rope_k_repeat: bool = False,
        feat_sizes: Sequence[int] = (64, 64),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.compute_cis: Callable[..., Tensor] = partial(
            compute_axial_cis, dim=self.internal_dim // self.num_heads, theta=rope_theta
        )
        self.rope_k_repeat = rope_k_repeat
        self.feat_sizes = (feat_sizes[0], feat_sizes[1])  # width, height
        self._freqs_cis: Tensor | None = None  # custom rotations, for maps with as many tokens as this tensor has rows
        self._make_tables()

    def _make_tables(self) -> None:
        self._tables = Tables(self._rotations)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._make_tables()  # replaces the tables of version 0.3, which were dicts

    @property
    def freqs_cis(self) -> Tensor:
        """Complex rotations ``(N, d / 2)`` of a map of ``feat_sizes``. A custom table is used for maps of N tokens."""
        if self._freqs_cis is not None:
            return self._freqs_cis
        return torch.complex(*self._table(self.feat_sizes[0] * self.feat_sizes[1], self.q_proj.weight.device))

    @freqs_cis.setter
    def freqs_cis(self, rotations: Tensor) -> None:
        self._freqs_cis = rotations
        self._make_tables()

    def forward(self, q: Tensor, k: Tensor, v: Tensor, num_k_exclude_rope: int = 0) -> Tensor:
        """Computes :meth:`Attention.forward`. Rotates queries, and keys except the last ``num_k_exclude_rope`` keys.

        Raises:
            ValueError: If the queries are not a square map, or ``rope_k_repeat`` is False, and the numbers of queries
                and keys differ.
        """
        if q.shape[1] != k.shape[1] and not self.rope_k_repeat:
            raise ValueError(f"{k.shape[1]} keys for {q.shape[1]} queries need rope_k_repeat=True")
        cos, sin = self._table(q.shape[1], q.device)
        q, k, v = self._projected(q, k, v)
        return self._output(rope_attention_reference(q, k, v, cos, sin, num_k_exclude_rope, self._dropout))

    def _rope_of(self, positions: int, page: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns tables for :func:`memory_attention`. Queries and the tokens of a page have the same positions."""
        return self._table(positions, device)

    def _table(self, positions: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns cosines and sines ``(positions, d / 2)`` of a map's positions, computed once per device."""
        positions = index(positions)  # converts symbolic sizes of torch.compile to constants
        width, height = self.feat_sizes
        if positions != width * height:
            width = height = math.isqrt(positions)
            if width * height != positions:
                raise ValueError(f"{positions} queries are neither a square map nor a map of {self.feat_sizes}")
        return self._tables(width, height, device=device)

    def _rotations(self, width: int, height: int, device: torch.device) -> tuple[Tensor, Tensor]:
        table, compute = self._freqs_cis, self.compute_cis
        if table is None or len(table) != width * height:
            if isinstance(compute, partial) and compute.func is compute_axial_cis:  # avoids complex numbers
                return axial_rope(width=width, height=height, device=device, **compute.keywords)
            table = compute(end_x=width, end_y=height)
        return table.real.to(device).contiguous(), table.imag.to(device).contiguous()


class EfficientRoPEAttention1(RoPEAttention):
    """Cross-attention that averages 2x2 tokens in memories of several frames. A mean weighs as much as four tokens.

    Source: ``efficient_track_anything.modeling.sam.transformer.EfficientRoPEAttention1``.
    """

    pooling: Pooling = "counted"

    def forward(self, q: Tensor, k: Tensor, v: Tensor, num_k_exclude_rope: int = 0) -> Tensor:
        """Computes :meth:`RoPEAttention.forward` with pooled memories. Rotated keys must be complete maps."""
        N, rotated = q.shape[1], k.shape[1] - num_k_exclude_rope
        if rotated <= N or rotated % N:
            return super().forward(q, k, v, num_k_exclude_rope)
        cos, sin = self._table(N, q.device)
        q, k, v = self._projected(q, k, v)
        means = pooled_keys(apply_rope(k[:, :, :rotated], cos, sin), N, self.pooling)
        keys = torch.cat([means, k[:, :, rotated:]], dim=2)
        values = torch.cat([pool(v[:, :, :rotated], N), v[:, :, rotated:]], dim=2)
        offset = q.new_zeros(keys.shape[2])
        offset[: means.shape[2]] = offset_of_means(self.pooling)
        q, offset = apply_rope(q, cos, sin), offset.expand(N, -1)
        return self._output(F.scaled_dot_product_attention(q, keys, values, offset, self._dropout))


class EfficientRoPEAttention2(EfficientRoPEAttention1):
    """Variant that adds log 4 to all components of a mean key. The weight of a mean then depends on the query.

    Source: ``efficient_track_anything.modeling.sam.transformer.EfficientRoPEAttention2``.
    """

    pooling: Pooling = "raised"


class RoPEAttentionv2(RoPEAttention):
    """Cross-attention to keys on a grid. The size of the grid does not depend on the size of the image.

    The memory of a frame has ``num_unrotated`` tokens without a position, followed by the tokens of the grid.

    Source: ``sam2.modeling.sam.transformer.RoPEAttentionv2`` of EdgeTAM. EdgeTAM's class computes ``num_unrotated``.
    """

    def __init__(
        self,
        *args: Any,
        rope_theta: float = 10000.0,
        q_sizes: Sequence[int] = (32, 32),
        k_sizes: Sequence[int] = (32, 32),
        num_unrotated: int = 256,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, rope_theta=rope_theta, rope_k_repeat=True, feat_sizes=q_sizes, **kwargs)
        self.k_sizes = (k_sizes[0], k_sizes[1])  # width, height
        self.num_unrotated = num_unrotated

    def _make_tables(self) -> None:
        super()._make_tables()
        self._page_tables = Tables(self._rotations_of_page)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, num_k_exclude_rope: int = 0) -> Tensor:
        """Computes :meth:`RoPEAttention.forward`. The last ``num_k_exclude_rope`` keys follow the memories of frames.

        Raises:
            ValueError: If a memory is incomplete, or the queries are not a square map.
        """
        N, page = q.shape[1], self.num_unrotated + self.k_sizes[0] * self.k_sizes[1]
        rotated = k.shape[1] - num_k_exclude_rope
        if rotated < 0 or rotated % page:
            raise ValueError(f"{rotated} keys of frames are not a whole number of memories of {page} tokens")
        cos, sin = self._rope_of(N, page, q.device)
        q, k, v = self._projected(q, k, v)
        q = apply_rope(q, cos[:N], sin[:N])
        if rotated:
            k = torch.cat([apply_rope(k[:, :, :rotated], cos[N:], sin[N:]), k[:, :, rotated:]], dim=2)
        return self._output(F.scaled_dot_product_attention(q, k, v, dropout_p=self._dropout))

    def _rope_of(self, positions: int, page: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns tables for the queries, followed by tables for the tokens of a memory."""
        return self._page_tables(positions, device=device)

    def _rotations_of_page(self, positions: int, device: torch.device) -> tuple[Tensor, Tensor]:
        (cos, sin), (key_cos, key_sin) = self._table(positions, device), self._rotations(*self.k_sizes, device)
        unrotated = cos.new_zeros(self.num_unrotated, cos.shape[1])
        return torch.cat([cos, unrotated + 1, key_cos]), torch.cat([sin, unrotated, key_sin])

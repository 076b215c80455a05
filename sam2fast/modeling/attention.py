"""Attention with projections, plain (mask decoder) and with rotary positions (memory attention)."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2fast.kernels._cpu import emulates_bfloat16, in_float32
from sam2fast.kernels.memory_attention import (
    AttendedMemory,
    Fp8,
    Pooling,
    apply_rope,
    memory_attention,
    offset_of_means,
    pool,
    pooled_keys,
    rope_attention,
)
from sam2fast.modeling.constants import TensorCache
from sam2fast.modeling.layers import is_gpu_inference, project, project_together
from sam2fast.modeling.position_encoding import axial_rope
from sam2fast.modeling.standard import is_standard_layer, standard


@standard
class Attention(nn.Module):
    """Multi-head attention whose inner dimension may be smaller than the embedding dimension.

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
        self.internal_dim = embedding_dim // downsample_rate
        if self.internal_dim % num_heads:
            raise ValueError(f"{num_heads} heads do not divide the inner width {self.internal_dim}")
        self.num_heads = num_heads
        self.dropout_p = dropout
        kv_dim = embedding_dim if kv_in_dim is None else kv_in_dim
        self.q_proj = nn.Linear(embedding_dim, self.internal_dim)
        self.k_proj = nn.Linear(kv_dim, self.internal_dim)
        self.v_proj = nn.Linear(kv_dim, self.internal_dim)
        self.out_proj = nn.Linear(self.internal_dim, embedding_dim)
        self._joined: TensorCache[tuple[Tensor, Tensor]] = TensorCache()

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """``q (B, N, C)`` attends to ``k, v (B, M, C_kv)``; a batch of 1 is broadcast. Returns ``(B, N, C)``."""
        return self.attend_projected(*self._project_all(q, k, v))

    def attend_projected(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """:meth:`forward` of what has been projected to ``(B or 1, ..., D)``."""
        B, N = max(len(q), len(k)), q.shape[1]
        if len(k) == 1:
            q = q.flatten(0, 1)[None]  # all queries in one row
        q, k, v = (self._separate_heads(x.expand(len(k), -1, -1), self.num_heads) for x in (q, k, v))
        dropout_p = self.dropout_p if self.training else 0.0
        attention = functools.partial(F.scaled_dot_product_attention, dropout_p=dropout_p)
        out = in_float32(attention, q, k, v) if emulates_bfloat16(q, k) else attention(q, k, v)
        out = self._project(self.out_proj, self._recombine_heads(out))
        return out.reshape(B, N, out.shape[-1])

    def _project(self, layer: nn.Module, x: Tensor) -> Tensor:
        return project(layer, x)

    def _project_all(self, q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
        """Queries, keys and values, those of one input together."""
        if q is not k:
            return [self._project(self.q_proj, q), self._project(self.k_proj, k), self._project(self.v_proj, v)]
        if k is v:
            return project_together(self._joined, (self.q_proj, self.k_proj, self.v_proj), q)
        return [*project_together(self._joined, (self.q_proj, self.k_proj), q), self._project(self.v_proj, v)]

    def _separate_heads(self, x: Tensor, num_heads: int) -> Tensor:
        return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)  # (B, heads, N, d)

    def _recombine_heads(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(-2)


@standard
class RoPEAttention(Attention):
    """Attention over a square map with axial rotary positions; keys may be several such maps, concatenated.

    Attributes:
        attend_hook: called with the arguments of :func:`memory_attention` before :meth:`attend` calls it, or None.
        pooling: of the memories of several frames; see :func:`memory_attention`.

    Source: ``sam2.modeling.sam.transformer.RoPEAttention``.
    """

    attend_hook: Callable[..., None] | None = None
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
        self.rope_theta = rope_theta
        self.rope_k_repeat = rope_k_repeat
        self.feat_sizes = (feat_sizes[0], feat_sizes[1])  # width, height
        self._folded: TensorCache[tuple[Tensor, Tensor]] = TensorCache()
        self._tables: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    def forward(self, q: Tensor, k: Tensor, v: Tensor, num_k_exclude_rope: int = 0) -> Tensor:
        """As :meth:`Attention.forward`; the last ``num_k_exclude_rope`` keys have no position.

        Raises:
            ValueError: there is more than one map of keys and ``rope_k_repeat`` is off, or the queries are no square
                map.
        """
        if q.shape[1] != k.shape[1] and not self.rope_k_repeat:
            raise ValueError(f"{k.shape[1]} keys for {q.shape[1]} queries need rope_k_repeat=True")
        cos, sin = self._table(q.shape[1], q.device)
        q, k, v = (self._separate_heads(x, self.num_heads) for x in self._project_all(q, k, v))
        dropout = self.dropout_p if self.training else 0.0
        out = rope_attention(q, k, v, cos, sin, num_k_exclude_rope, dropout)
        return self._project(self.out_proj, self._recombine_heads(out))

    def attend(self, x: Tensor, memory: AttendedMemory, fp8: Fp8 = False) -> Tensor:
        """Queries from ``x (1 or B, N, C)`` to the memories of B objects: ``(B, N, C)``.

        Values are projected after the weighted sum instead of before it; see :func:`memory_attention`, also for
        ``fp8``.
        """
        cos, sin = self._rope_of(x.shape[1], memory.pages.shape[1], x.device)
        query = self._separate_heads(self._project(self.q_proj, x), self.num_heads)
        weights = (self.k_proj.weight, self.k_proj.bias, self.v_proj.weight, self.v_proj.bias)
        if self.attend_hook is not None:
            self.attend_hook(query, memory, *weights, cos, sin)
        how: dict[str, Any] = {"fp8": fp8, "pooling": self.pooling}
        if self._can_fold_output():
            return memory_attention(query, memory, *weights[:2], *self._values_to_output(), cos, sin, **how)
        return self._project(self.out_proj, memory_attention(query, memory, *weights, cos, sin, **how))

    def _can_fold_output(self) -> bool:
        """Whether the values' projection and the output's are one matrix; on the CPU two cost no more than one."""
        if self.num_heads > 1 or not is_gpu_inference(self.out_proj.weight):
            return False
        return all(is_standard_layer(x, nn.Linear) and x.bias is not None for x in (self.v_proj, self.out_proj))

    def _values_to_output(self) -> tuple[Tensor, Tensor]:
        """Weight ``(C, C_mem)`` and bias ``(C)`` of both projections, in the dtype of the values'."""
        weights = self.out_proj.weight, self.v_proj.weight
        biases = self.out_proj.bias, self.v_proj.bias

        def compute() -> tuple[Tensor, Tensor]:
            out, values = (x.float() for x in weights)
            bias = torch.addmv(biases[0].float(), out, biases[1].float())
            return (out @ values).to(weights[1].dtype), bias.to(weights[1].dtype)

        with torch.autocast(weights[0].device.type, enabled=False):
            return self._folded(None, (*weights, *biases), compute)

    def _rope_of(self, positions: int, page: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The tables of :func:`memory_attention` for pages of ``page`` positions, which are the queries'."""
        return self._table(positions, device)

    def _table(self, positions: int, device: torch.device) -> tuple[Tensor, Tensor]:
        width, height = self.feat_sizes
        if positions != width * height:
            width = height = math.isqrt(positions)
            if width * height != positions:
                raise ValueError(f"{positions} queries are no square map, and not the {self.feat_sizes} one configured")
        key = positions, device
        if key not in self._tables:
            # Normal tensors, even inside inference mode: training may use the same module later.
            with torch.inference_mode(False), torch.no_grad():
                head_dim = self.internal_dim // self.num_heads
                self._tables[key] = axial_rope(head_dim, width, height, self.rope_theta, device)
        return self._tables[key]


@standard
class EfficientRoPEAttention1(RoPEAttention):
    """Cross-attention to means of 2x2 tokens where there are memories of several frames; a mean counts as four tokens.

    Source: ``efficient_track_anything.modeling.sam.transformer.EfficientRoPEAttention1``.
    """

    pooling: Pooling = "counted"

    def forward(self, q: Tensor, k: Tensor, v: Tensor, num_k_exclude_rope: int = 0) -> Tensor:
        """As :meth:`RoPEAttention.forward`; other keys than those without a position are whole maps."""
        N, rotated = q.shape[1], k.shape[1] - num_k_exclude_rope
        if rotated <= N or rotated % N:
            return super().forward(q, k, v, num_k_exclude_rope)
        cos, sin = self._table(N, q.device)
        q, k, v = (self._separate_heads(x, self.num_heads) for x in self._project_all(q, k, v))
        means = pooled_keys(apply_rope(k[:, :, :rotated], cos, sin), N, self.pooling)
        keys = torch.cat([means, k[:, :, rotated:]], dim=2)
        values = torch.cat([pool(v[:, :, :rotated], N), v[:, :, rotated:]], dim=2)
        offset = q.new_zeros(keys.shape[2])
        offset[: means.shape[2]] = offset_of_means(self.pooling)
        dropout = self.dropout_p if self.training else 0.0
        out = F.scaled_dot_product_attention(apply_rope(q, cos, sin), keys, values, offset.expand(N, -1), dropout)
        return self._project(self.out_proj, self._recombine_heads(out))


@standard
class EfficientRoPEAttention2(EfficientRoPEAttention1):
    """The same, but log 4 is added to each component of a mean key: how much a mean counts depends on the query.

    Source: ``efficient_track_anything.modeling.sam.transformer.EfficientRoPEAttention2``.
    """

    pooling: Pooling = "raised"


@standard
class RoPEAttentionv2(RoPEAttention):
    """Cross-attention whose keys have a grid of their own, which does not depend on the image's size.

    The memory of a frame is ``num_unrotated`` tokens without a position and those of the grid, in this order.

    Source: ``sam2.modeling.sam.transformer.RoPEAttentionv2`` of EdgeTAM, where ``num_unrotated`` is what remains.
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
        self._page_tables: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    def forward(self, q: Tensor, k: Tensor, v: Tensor, num_k_exclude_rope: int = 0) -> Tensor:
        """As :meth:`RoPEAttention.forward`; the other keys are memories of frames.

        Raises:
            ValueError: they are not a whole number of memories, or the queries are no square map.
        """
        N, page = q.shape[1], self.num_unrotated + self.k_sizes[0] * self.k_sizes[1]
        rotated = k.shape[1] - num_k_exclude_rope
        if rotated < 0 or rotated % page:
            raise ValueError(f"{rotated} keys of frames are not a whole number of memories of {page} tokens")
        cos, sin = self._rope_of(N, page, q.device)
        q, k, v = (self._separate_heads(x, self.num_heads) for x in self._project_all(q, k, v))
        q = apply_rope(q, cos[:N], sin[:N])
        if rotated:
            k = torch.cat([apply_rope(k[:, :, :rotated], cos[N:], sin[N:]), k[:, :, rotated:]], dim=2)
        dropout = self.dropout_p if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return self._project(self.out_proj, self._recombine_heads(out))

    def _rope_of(self, positions: int, page: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Tables of the queries' positions, then of the tokens of a memory."""
        key = positions, device
        if key not in self._page_tables:
            cos, sin = self._table(positions, device)
            with torch.inference_mode(False), torch.no_grad():
                d = self.internal_dim // self.num_heads
                key_cos, key_sin = axial_rope(d, *self.k_sizes, self.rope_theta, device)
                unrotated = cos.new_zeros(self.num_unrotated, d // 2)
                self._page_tables[key] = torch.cat([cos, unrotated + 1, key_cos]), torch.cat([sin, unrotated, key_sin])
        return self._page_tables[key]

"""Memory attention: a frame attends to itself and to the memory of past frames."""

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

from sam2fast.kernels.memory_attention import AttendedMemory, Fp8
from sam2fast.modeling.attention import RoPEAttention
from sam2fast.modeling.constants import TensorCache
from sam2fast.modeling.layers import (
    chunked,
    computed_dtype,
    get_activation,
    normalize,
    normed_sum,
    project,
    project_activated,
)
from sam2fast.modeling.standard import has_standard_parts, standard


@standard
class MemoryAttentionLayer(nn.Module):
    """Pre-norm self-attention, cross-attention to the memory, feed-forward.

    Source: ``sam2.modeling.memory_attention.MemoryAttentionLayer``.
    """

    def __init__(
        self,
        activation: str,
        cross_attention: nn.Module,
        d_model: int,
        dim_feedforward: int,
        dropout: float,
        pos_enc_at_attn: bool,
        pos_enc_at_cross_attn_keys: bool,
        pos_enc_at_cross_attn_queries: bool,
        self_attention: nn.Module,
    ) -> None:
        super().__init__()
        self.self_attn = self_attention
        self.cross_attn_image = cross_attention
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(d_model) for _ in range(3))
        self.dropout1, self.dropout2, self.dropout3 = (nn.Dropout(dropout) for _ in range(3))
        self.activation = get_activation(activation)
        self.pos_enc_at_attn = pos_enc_at_attn
        self.pos_enc_at_cross_attn_keys = pos_enc_at_cross_attn_keys
        self.pos_enc_at_cross_attn_queries = pos_enc_at_cross_attn_queries

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        pos: Tensor | None = None,
        query_pos: Tensor | None = None,
        num_k_exclude_rope: int = 0,
    ) -> Tensor:
        """Batch-first tokens ``tgt (B, N, C)`` and ``memory (B, M, C_mem)`` with their position encodings."""
        tgt = self._forward_sa(tgt, query_pos)
        tgt = self._forward_ca(tgt, memory, query_pos, pos, num_k_exclude_rope)
        if has_standard_parts(self):
            return tgt + self.dropout3(self._feed_forward(normalize(self.norm3, tgt)))
        hidden = self.dropout(self.activation(project(self.linear1, normalize(self.norm3, tgt))))
        return tgt + self.dropout3(project(self.linear2, hidden))

    def attend(
        self, x: Tensor, delta: Tensor | None, query_pos: Tensor, memory: AttendedMemory, fp8: Fp8 = False
    ) -> tuple[Tensor, Tensor]:
        """The same, fused, for B objects on one frame, for inference: tokens ``x + delta (1 or B, N, C)``.

        Returns:
            Two tensors ``(B, N, C)``. The result is their sum, which the next norm adds.

        Tokens with a batch of 1, which do not depend on objects yet, are computed once for all objects.
        """
        dtype = computed_dtype(self.linear1.weight)
        x, normed = normed_sum(self.norm1, x, delta, None if self.pos_enc_at_attn else dtype)
        q = normed + query_pos if self.pos_enc_at_attn else normed
        x, normed = normed_sum(
            self.norm2, x, self.self_attn(q, q, normed), None if self.pos_enc_at_cross_attn_queries else dtype
        )
        q = normed + query_pos if self.pos_enc_at_cross_attn_queries else normed
        attended = cast(RoPEAttention, self.cross_attn_image).attend(q, memory, fp8)
        x, normed = normed_sum(self.norm3, x.expand_as(attended), attended, dtype)
        return x, self._feed_forward(normed)

    def _forward_sa(self, tgt: Tensor, query_pos: Tensor | None) -> Tensor:
        x = normalize(self.norm1, tgt)
        q = x + query_pos if self.pos_enc_at_attn and query_pos is not None else x
        return tgt + self.dropout1(self.self_attn(q, q, v=x))

    def _forward_ca(
        self, tgt: Tensor, memory: Tensor, query_pos: Tensor | None, pos: Tensor | None, num_k_exclude_rope: int = 0
    ) -> Tensor:
        x = normalize(self.norm2, tgt)
        q = x + query_pos if self.pos_enc_at_cross_attn_queries and query_pos is not None else x
        k = memory + pos if self.pos_enc_at_cross_attn_keys and pos is not None else memory
        kwargs = {"num_k_exclude_rope": num_k_exclude_rope} if num_k_exclude_rope else {}
        return tgt + self.dropout2(self.cross_attn_image(q=q, k=k, v=memory, **kwargs))

    def _feed_forward(self, normed: Tensor) -> Tensor:
        def compute(x: Tensor) -> Tensor:
            return project(self.linear2, self.dropout(project_activated(self.linear1, self.activation, x)))

        # All objects' tokens in one row, so that chunks are contiguous.
        return chunked(compute, normed.reshape(1, -1, 1, normed.shape[-1]), rows=1).view(normed.shape)


@standard
class MemoryAttention(nn.Module):
    """A stack of memory attention layers and a final norm.

    Source: ``sam2.modeling.memory_attention.MemoryAttention``.
    """

    def __init__(
        self, d_model: int, pos_enc_at_input: bool, layer: nn.Module, num_layers: int, batch_first: bool = True
    ) -> None:
        super().__init__()
        self.d_model = d_model
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(num_layers))
        self.norm = nn.LayerNorm(d_model)
        self.pos_enc_at_input = pos_enc_at_input
        self.batch_first = batch_first
        self._added: TensorCache[Tensor] = TensorCache()  # to the tokens: a tenth of their encoding

    def forward(
        self,
        curr: Tensor | list[Tensor],
        memory: Tensor,
        curr_pos: Tensor | list[Tensor] | None = None,
        memory_pos: Tensor | None = None,
        num_obj_ptr_tokens: int = 0,
    ) -> Tensor:
        """Sequence-first tokens ``curr (N, B, C)``, ``memory (M, B, C_mem)`` to ``(N, B, C)``, as in the original.

        Args:
            curr: the frame's tokens, or a list with that one tensor.
            memory: memory tokens, object pointers last.
            curr_pos, memory_pos: position encodings of the same shapes.
            num_obj_ptr_tokens: how many of the last memory tokens are pointers, which have no position on the map.
        """
        x = curr[0] if isinstance(curr, list) else curr
        x_pos = curr_pos[0] if isinstance(curr_pos, list) else curr_pos
        if x.shape[1] != memory.shape[1]:
            raise ValueError(f"curr has a batch of {x.shape[1]}, memory of {memory.shape[1]}")
        if self.pos_enc_at_input and x_pos is not None:
            x = x + 0.1 * x_pos
        if self.batch_first:
            x, memory = x.transpose(0, 1), memory.transpose(0, 1)
            x_pos = None if x_pos is None else x_pos.transpose(0, 1)
            memory_pos = None if memory_pos is None else memory_pos.transpose(0, 1)
        layer: Any
        for layer in self.layers:
            # Only rotary attention distinguishes pointer tokens.
            rotary = isinstance(layer.cross_attn_image, RoPEAttention)
            kwargs = {"num_k_exclude_rope": num_obj_ptr_tokens} if rotary else {}
            x = layer(tgt=x, memory=memory, pos=memory_pos, query_pos=x_pos, **kwargs)
        x = normalize(self.norm, x)
        return x.transpose(0, 1) if self.batch_first else x

    def attend(self, features: Tensor, position: Tensor, memory: AttendedMemory, fp8: Fp8 = False) -> Tensor:
        """One frame's map for B objects, each conditioned on its own memory, fused, for inference.

        Args:
            features, position: ``(1, C, H, W)`` map of the frame and its encoding.
            memory: what the objects attend to.
            fp8: see :func:`sam2fast.kernels.memory_attention.memory_attention`.

        Returns:
            ``(B, C, H, W)``.

        Raises:
            RuntimeError: the module is in training mode, where dropout would make objects differ.
        """
        if self.training:
            raise RuntimeError(
                "tracking needs evaluation mode: call eval() on the predictor, or build it with mode='eval'"
            )
        x, pos = features.flatten(2).transpose(1, 2), position.flatten(2).transpose(1, 2)  # (1, HW, C)
        layers = cast(list[MemoryAttentionLayer], list(self.layers))
        if not layers[0].pos_enc_at_cross_attn_keys:
            memory = memory._replace(
                position_encoding=torch.zeros_like(memory.position_encoding),
                time_encoding=torch.zeros_like(memory.time_encoding),
                pointer_encoding=torch.zeros_like(memory.pointer_encoding),
            )
        delta: Tensor | None = None
        if self.pos_enc_at_input:
            delta = self._added(None, (position,), lambda: (0.1 * pos).contiguous())
        for layer in layers:
            x, delta = layer.attend(x, delta, pos, memory, fp8)
        return normed_sum(self.norm, x, delta)[1].transpose(1, 2).unflatten(2, features.shape[-2:])

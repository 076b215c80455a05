"""Memory attention: the tokens of a frame attend to each other and to memories of other frames."""

from typing import Any

from torch import Tensor, nn

from sam2fast.modeling.attention import RoPEAttention
from sam2fast.modeling.layers import get_activation_fn, get_clones


class MemoryAttentionLayer(nn.Module):
    """Pre-norm layer: self-attention, cross-attention to the memory, feed-forward network.

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
        self.d_model = d_model
        self.dim_feedforward = dim_feedforward
        self.dropout_value = dropout
        self.activation_str = activation
        self.self_attn = self_attention
        self.cross_attn_image = cross_attention
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(d_model) for _ in range(3))
        self.dropout1, self.dropout2, self.dropout3 = (nn.Dropout(dropout) for _ in range(3))
        self.activation = get_activation_fn(activation)
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
        """Returns the frame's tokens ``(B, N, C)`` after self-attention and cross-attention.

        Args:
            tgt, query_pos: Tokens ``(B, N, C)`` of the frame, and the position encoding of the tokens.
            memory, pos: Memory tokens ``(B, M, C_mem)``, and the position encoding of the memory tokens.
            num_k_exclude_rope: Number of memory tokens at the end without a position on the map.
        """
        tgt = self._forward_sa(tgt, query_pos)
        tgt = self._forward_ca(tgt, memory, query_pos, pos, num_k_exclude_rope)
        hidden = self.dropout(self.activation(self.linear1(self.norm3(tgt))))
        return tgt + self.dropout3(self.linear2(hidden))

    def _forward_sa(self, tgt: Tensor, query_pos: Tensor | None) -> Tensor:
        x = self.norm1(tgt)
        q = x + query_pos if self.pos_enc_at_attn and query_pos is not None else x
        return tgt + self.dropout1(self.self_attn(q, q, v=x))

    def _forward_ca(
        self, tgt: Tensor, memory: Tensor, query_pos: Tensor | None, pos: Tensor | None, num_k_exclude_rope: int = 0
    ) -> Tensor:
        x = self.norm2(tgt)
        q = x + query_pos if self.pos_enc_at_cross_attn_queries and query_pos is not None else x
        k = memory + pos if self.pos_enc_at_cross_attn_keys and pos is not None else memory
        kwargs = {"num_k_exclude_rope": num_k_exclude_rope} if num_k_exclude_rope else {}
        return tgt + self.dropout2(self.cross_attn_image(q=q, k=k, v=memory, **kwargs))


class MemoryAttention(nn.Module):
    """Stack of memory attention layers and a final norm.

    Source: ``sam2.modeling.memory_attention.MemoryAttention``.
    """

    def __init__(
        self, d_model: int, pos_enc_at_input: bool, layer: nn.Module, num_layers: int, batch_first: bool = True
    ) -> None:
        super().__init__()
        self.d_model = d_model
        self.num_layers = num_layers
        self.layers = get_clones(layer, num_layers)
        self.norm = nn.LayerNorm(d_model)
        self.pos_enc_at_input = pos_enc_at_input
        self.batch_first = batch_first

    def forward(
        self,
        curr: Tensor | list[Tensor],
        memory: Tensor,
        curr_pos: Tensor | list[Tensor] | None = None,
        memory_pos: Tensor | None = None,
        num_obj_ptr_tokens: int = 0,
    ) -> Tensor:
        """Returns the frame's tokens ``(N, B, C)`` after attention to the memory.

        Args:
            curr: Tokens ``(N, B, C)`` of the frame, or a list that contains this tensor.
            memory: Memory tokens ``(M, B, C_mem)``, object pointers last.
            curr_pos, memory_pos: Position encodings with the shapes of ``curr`` and ``memory``.
            num_obj_ptr_tokens: Number of pointer tokens. Pointer tokens have no position on the map.
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
        x = self.norm(x)
        return x.transpose(0, 1) if self.batch_first else x

"""Modules for export as graphs: prompt encoder with mask decoder, memory attention, memory encoder.

Numbers of objects, points, memories and pointers are dynamic axes. Position encodings are constants.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from sam2fast.kernels.memory_attention import offset_of_means, pool, pooled_keys
from sam2fast.modeling.attention import (
    EfficientRoPEAttention1,
    EfficientRoPEAttention2,
    RoPEAttention,
    RoPEAttentionv2,
)
from sam2fast.modeling.memory_attention import MemoryAttentionLayer
from sam2fast.modeling.memory_encoder import MemoryEncoder
from sam2fast.modeling.position_encoding import sine_periods
from sam2fast.modeling.sam2_base import SAM2Base

ATTENTIONS = (RoPEAttention, RoPEAttentionv2, EfficientRoPEAttention1, EfficientRoPEAttention2)


class PromptGraph(nn.Module):
    """Maps prompts of B objects to four masks per object, predicted IoUs, object pointers and scores."""

    positions: Tensor

    def __init__(self, model: SAM2Base) -> None:
        super().__init__()
        self.encoder, self.decoder, self.pointer = model.sam_prompt_encoder, model.sam_mask_decoder, model.obj_ptr_proj
        self.register_buffer("positions", self.encoder.get_dense_pe().clone())  # (1, C, H, W)

    def forward(
        self, levels: Sequence[Tensor], coords: Tensor, labels: Tensor, mask: Tensor, has_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Predicts masks for B prompts. Results of absent objects are not changed.

        Args:
            levels: Maps of one frame, finest first: ``(1, C/8, 4H, 4W)``, ``(1, C/4, 2H, 2W)`` and ``(B, C, H, W)``. A
                model without high-resolution features has only the last map.
            coords: Points ``(B, P, 2)`` fp32, (x, y) in the model's input pixels. P may be 0. No padding is added.
            labels: Labels ``(B, P)`` int32: 1 foreground, 0 background, 2 and 3 a box's corners, -1 padding.
            mask: Logits ``(B, 1, 4H, 4W)`` fp32.
            has_mask: Flags ``(B,)``: 1.0 for objects with a mask prompt, else 0.0.

        Returns:
            Mask logits ``(B, 4, 4H, 4W)``, predicted IoUs ``(B, 4)``, object pointers ``(B, 4, C)``, and object score
            logits ``(B, 1)``.
        """
        *high_res, features = levels
        use_mask, no_mask = has_mask[:, None, None, None], self.encoder.no_mask_embed.weight[..., None, None]
        masks, ious, tokens, scores = self.decoder.predict_masks(
            image_embeddings=features,
            image_pe=self.positions,
            sparse_prompt_embeddings=self.encoder._embed_points(coords, labels, pad=False),
            dense_prompt_embeddings=use_mask * self.encoder._embed_masks(mask) + (1 - use_mask) * no_mask,
            repeat_image=False,
            high_res_features=high_res or None,
        )
        return masks, ious, self.pointer(tokens), scores


class MemoryAttentionGraph(nn.Module):
    """Conditions a frame's map on memories and pointers of B objects."""

    added: Tensor
    spatial: Tensor
    times: Tensor
    periods: Tensor

    def __init__(self, model: SAM2Base) -> None:
        super().__init__()
        attention, C, m = model.memory_attention, model.hidden_dim, model.mem_dim
        side, (height, width) = model.sam_image_embedding_size, model.memory_size
        position = model.image_encoder.neck.position_encoding(torch.zeros(1, C, side, side))
        share = 0.1 if attention.pos_enc_at_input else 0.0
        self.register_buffer("added", (share * _tokens(position)).contiguous())  # (1, N, C)
        spatial = model.encode_memory_positions(torch.zeros(1, m, height, width))
        self.register_buffer("spatial", _tokens(spatial)[0].contiguous())  # (n, m)
        self.register_buffer("times", model.maskmem_tpos_enc.detach()[:, 0, 0].clone())  # (num_maskmem, m)
        self.width, self.split = m, C // m
        self.encodes_offsets = model.add_tpos_enc_to_obj_ptrs
        self.register_buffer("periods", sine_periods(C if model.proj_tpos_enc_in_obj_ptrs else m, torch.device("cpu")))
        self.project_offsets = model.obj_ptr_tpos_proj
        layers = (cast(MemoryAttentionLayer, layer) for layer in attention.layers)
        self.layers = nn.ModuleList(MemoryAttentionLayerGraph(layer, side * side, height * width) for layer in layers)
        self.norm = attention.norm

    def forward(
        self, features: Tensor, memories: Tensor, time_rows: Tensor, pointers: Tensor, offsets: Tensor
    ) -> Tensor:
        """Conditions a frame's map on K memories and L pointers of each of B objects.

        Args:
            features: map ``(1, C, H, W)`` of the frame, without the no-memory embedding.
            memories: tokens ``(B, K, n, m)``.
            time_rows: row of ``maskmem_tpos_enc`` for each memory, ``(B, K)`` int64.
            pointers: pointers ``(B, L, C)``; L may be 0.
            offsets: distance of each pointer in frames, divided by the longest distance, ``(B, L)``.

        Returns:
            Maps ``(B, C, H, W)``.
        """
        x = _tokens(features) + self.added
        keys = memories + self.spatial + self.times[time_rows][:, :, None]
        parts = pointers.unflatten(-1, (self.split, self.width))  # (B, L, split, m)
        pointer_keys = parts + self._encode(offsets)[:, :, None] if self.encodes_offsets else parts
        tokens = torch.cat([memories.flatten(1, 2), parts.flatten(1, 2)], dim=1)
        for layer in self.layers:
            x = layer(x, keys, pointer_keys.flatten(1, 2), tokens)
        return self.norm(x).transpose(1, 2).unflatten(2, features.shape[2:])

    def _encode(self, offsets: Tensor) -> Tensor:
        return self.project_offsets(torch.sin(offsets[..., None] / self.periods[0] + self.periods[1]))


class MemoryAttentionLayerGraph(nn.Module):
    """Memory attention layer. Rotations pair channels of two halves, not neighbours. Sums values before projection.

    Raises:
        ValueError: If the layer differs from the published models' layers.
    """

    own_cos: Tensor
    own_sin: Tensor
    query_cos: Tensor
    query_sin: Tensor
    key_cos: Tensor
    key_sin: Tensor

    def __init__(self, layer: MemoryAttentionLayer, positions: int, page: int) -> None:
        super().__init__()
        itself, cross = cast(RoPEAttention, layer.self_attn), cast(RoPEAttention, layer.cross_attn_image)
        if layer.pos_enc_at_attn or layer.pos_enc_at_cross_attn_queries or not layer.pos_enc_at_cross_attn_keys:
            raise ValueError(
                "ONNX export needs memory attention layers with position encodings only at cross-attention's keys"
            )
        for attention in (itself, cross):
            if type(attention) not in ATTENTIONS or attention.num_heads != 1:
                kind = f"{type(attention).__name__} of {attention.num_heads} heads"
                names = ", ".join(known.__name__ for known in ATTENTIONS)
                raise ValueError(f"{kind} cannot be exported; expected one head, of {names}")
        self.norm1, self.norm2, self.norm3 = layer.norm1, layer.norm2, layer.norm3
        self.linear1, self.linear2, self.activation = layer.linear1, layer.linear2, layer.activation
        self.own_query, self.own_key = _in_halves(itself.q_proj), _in_halves(itself.k_proj)
        self.own_output = _values_to_output(itself)
        self.query, self.key, self.output = _in_halves(cross.q_proj), _in_halves(cross.k_proj), _values_to_output(cross)
        self.pooling = cross.pooling
        self.scale, self.own_scale = cross.internal_dim**-0.5, itself.internal_dim**-0.5
        tables = {
            "own": itself._rope_of(positions, positions, torch.device("cpu")),
            "query": tuple(x[:positions] for x in cross._rope_of(positions, page, torch.device("cpu"))),
            # Rows of the keys are the last rows of the table. In some layers, queries and keys have the same rows.
            "key": tuple(x[-page:] for x in cross._rope_of(positions, page, torch.device("cpu"))),
        }
        for name, (cos, sin) in tables.items():
            self.register_buffer(f"{name}_cos", cos.clone())
            self.register_buffer(f"{name}_sin", sin.clone())

    def forward(self, x: Tensor, keys: Tensor, pointer_keys: Tensor, tokens: Tensor) -> Tensor:
        """Maps tokens ``x (1 or B, N, C)`` to ``(B, N, C)``.

        Args:
            keys, pointer_keys: memories ``(B, K, n, m)`` and pointers ``(B, T, m)``, with position encodings.
            tokens: memories and pointers ``(B, K * n + T, m)``, without position encodings.
        """
        normed = self.norm1(x)
        q, k = (_rotate(project(normed), self.own_cos, self.own_sin) for project in (self.own_query, self.own_key))
        x = x + self.own_output(_weights(q, k, self.own_scale) @ normed)
        q = _rotate(self.query(self.norm2(x)), self.query_cos, self.query_sin)
        rotated, pointer_keys = _rotate(self.key(keys), self.key_cos, self.key_sin), self.key(pointer_keys)
        if self.pooling is None:
            weights = _weights(q, torch.cat([rotated.flatten(1, 2), pointer_keys], dim=1), self.scale)
        else:
            weights, tokens = self._of_means(q, rotated, pointer_keys, tokens)
        x = x + self.output(weights @ tokens)
        return x + self.linear2(self.activation(self.linear1(self.norm3(x))))

    def _of_means(self, q: Tensor, keys: Tensor, pointer_keys: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Returns attention weights and tokens for ``keys (B, K, n, d)``, pooled if K > 1, and for ``pointer_keys``."""
        n, T = keys.shape[2], pointer_keys.shape[1]
        maps, pointers = tokens[:, : tokens.shape[1] - T], tokens[:, tokens.shape[1] - T :]
        means = pooled_keys(keys, n, self.pooling).flatten(1, 2)
        k = torch.cat([keys[:, 0], means, pointer_keys], dim=1)
        tokens = torch.cat([maps[:, :n], pool(maps, n), pointers], dim=1)
        # True if K is 1. K is a dynamic axis, so the graph computes K as a sum of ones.
        is_single = torch.ones_like(keys[0, :, 0, 0]).sum() < 1.5
        nothing = q.new_full((), -torch.inf)
        of_tokens = torch.where(is_single, 0.0, nothing).expand(n)
        of_means = torch.where(is_single, nothing, offset_of_means(self.pooling)).expand(means.shape[1])
        offset = torch.cat([of_tokens, of_means, torch.zeros_like(pointer_keys[0, :, 0])])
        return ((q * self.scale) @ k.transpose(1, 2) + offset).softmax(dim=-1), tokens


class MemoryEncoderGraph(nn.Module):
    """Encodes the masks of B objects on one frame as memories."""

    position: Tensor

    def __init__(self, model: SAM2Base) -> None:
        super().__init__()
        self.encoder, self.perceiver = model.memory_encoder, model.spatial_perceiver
        self.absent = model.no_obj_embed_spatial
        self.resize = model.masks_for_memory
        self.scale, self.bias = model.sigmoid_scale_for_mem_enc, model.sigmoid_bias_for_mem_enc
        size = model.sam_image_embedding_size
        position = self.encoder.position_encoding(torch.zeros(1, model.mem_dim, size, size))
        self.register_buffer("position", position.clone())

    def forward(self, features: Tensor, masks: Tensor, scores: Tensor, from_prompt: Tensor) -> Tensor:
        """Returns tokens ``(B, n, m)`` of each memory.

        Args:
            features: map ``(1, C, H, W)`` of the frame, without the no-memory embedding.
            masks: mask logits ``(B, 1, 4H, 4W)`` fp32.
            scores: object score logits ``(B, 1)``.
            from_prompt: flags ``(B,)``: 1.0 for masks to binarize, such as masks from prompts, else 0.0.
        """
        masks = self.resize(masks)
        binary = from_prompt[:, None, None, None] > 0.5
        x = torch.where(binary, (masks > 0).float(), torch.sigmoid(masks)) * self.scale + self.bias
        # Calls the forward of the class, because the forward of the instance may be compiled.
        x = MemoryEncoder.forward(self.encoder, features, x, skip_mask_sigmoid=True)["vision_features"]
        if self.absent is not None:
            x = x + (scores <= 0).float()[..., None, None] * self.absent[..., None, None]
        if self.perceiver is not None:
            x = self.perceiver(x, self.position.expand(x.shape[0], -1, -1, -1))
        return _tokens(x)


def _tokens(maps: Tensor) -> Tensor:
    """Reshapes ``(B, C, H, W)`` to ``(B, HW, C)``."""
    return maps.flatten(2).transpose(1, 2)


def _weights(q: Tensor, k: Tensor, scale: float) -> Tensor:
    return ((q * scale) @ k.transpose(1, 2)).softmax(dim=-1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates ``x (..., positions, d)`` by tables ``(positions, d / 2)``. Channels i and i + d / 2 are a pair."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def _in_halves(layer: nn.Linear) -> nn.Linear:
    """Returns the layer with even outputs before odd outputs. Dot products of queries and keys do not change."""
    order = torch.cat([torch.arange(0, layer.out_features, 2), torch.arange(1, layer.out_features, 2)])
    return _linear(layer.weight[order], layer.bias[order])


def _values_to_output(attention: RoPEAttention) -> nn.Linear:
    """Merges the value projection and the output projection of an attention into one layer."""
    values, output = attention.v_proj, attention.out_proj
    weight, bias = output.weight.double(), output.bias.double()
    return _linear((weight @ values.weight.double()).float(), (weight @ values.bias.double() + bias).float())


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return layer

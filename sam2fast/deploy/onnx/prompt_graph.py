"""The graph of prompts and mask decoder, for any number of objects and points.

It uses plain operations: the model's own modules choose between formulations by sizes and devices.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2fast.modeling.attention import Attention
from sam2fast.modeling.layers import MLP, LayerNorm2d
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.modeling.two_way_transformer import TwoWayAttentionBlock


class PromptGraph(nn.Module):
    """Prompts of B objects to four masks each, with their predicted IoUs, pointers and scores.

    Args:
        model: in evaluation mode.
    """

    pe: Tensor
    kinds: Tensor

    def __init__(self, model: SAM2Base) -> None:
        super().__init__()
        self.encoder, self.decoder = model.sam_prompt_encoder, model.sam_mask_decoder
        self.pointer = model.obj_ptr_proj
        self.side = model.image_size
        self.register_buffer("pe", self.encoder.get_dense_pe().flatten(2).transpose(1, 2).contiguous())  # (1, HW, C)
        tables = [self.encoder.not_a_point_embed, *self.encoder.point_embeddings]
        self.register_buffer("kinds", torch.cat([cast(Tensor, table.weight) for table in tables]))  # (5, C)

    def forward(
        self, levels: Sequence[Tensor], coords: Tensor, labels: Tensor, mask: Tensor, has_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All results for each of B prompts.

        Args:
            levels: of one frame, finest first: ``(1, C/8, 4H, 4W)``, ``(1, C/4, 2H, 2W)`` and ``(B, C, H, W)``, or
                only the last.
            coords: ``(B, P, 2)`` fp32, (x, y) in the model's input pixels; P may be 0. Nothing is appended.
            labels: ``(B, P)`` int32: 1 foreground, 0 background, 2 and 3 a box's corners, -1 padding.
            mask: ``(B, 1, 4H, 4W)`` fp32 logits.
            has_mask: ``(B,)`` 1.0 where there is a mask prompt, else 0.0.

        Returns:
            Mask logits ``(B, 4, 4H, 4W)``, predicted IoUs ``(B, 4)``, object pointers ``(B, 4, C)`` of each mask, and
            object score logits ``(B, 1)``; nothing is changed for absent objects.
        """
        *high_res, features = levels
        given = has_mask[:, None, None, None]
        no_mask = self.encoder.no_mask_embed.weight[..., None, None]
        dense = given * in_sequence(self.encoder.mask_downscaling, mask) + (1 - given) * no_mask
        keys = (features + dense).flatten(2).transpose(1, 2)
        tokens, keys = self._transform(self._tokens(self._embed_points(coords, labels)), keys)
        x = self._upscale(keys.transpose(1, 2).unflatten(2, features.shape[2:]), high_res)
        return self._heads(tokens, x)

    def _embed_points(self, coords: Tensor, labels: Tensor) -> Tensor:
        layer = self.encoder.pe_layer
        position = layer.encode((coords + 0.5) / self.side)
        return torch.where(labels[..., None] == -1, 0.0, position) + self.kinds[labels.long() + 1]

    def _tokens(self, sparse: Tensor) -> Tensor:
        decoder = self.decoder
        tables = [decoder.obj_score_token] if decoder.pred_obj_scores else []
        constant = torch.cat([table.weight for table in (*tables, decoder.iou_token, decoder.mask_tokens)])
        return torch.cat([constant[None].expand(sparse.shape[0], -1, -1), sparse], dim=1)

    def _transform(self, tokens: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        transformer, queries = self.decoder.transformer, tokens
        for layer in transformer.layers:
            block = cast(TwoWayAttentionBlock, layer)
            if block.skip_first_layer_pe:
                queries = block.norm1(attention(block.self_attn, queries, queries, queries))
            else:
                q = queries + tokens
                queries = block.norm1(queries + attention(block.self_attn, q, q, queries))
            attended = attention(block.cross_attn_token_to_image, queries + tokens, keys + self.pe, keys)
            queries = block.norm2(queries + attended)
            queries = block.norm3(queries + mlp(block.mlp, queries))
            attended = attention(block.cross_attn_image_to_token, keys + self.pe, queries + tokens, queries)
            keys = block.norm4(keys + attended)
        attended = attention(transformer.final_attn_token_to_image, queries + tokens, keys + self.pe, keys)
        return transformer.norm_final_attn(queries + attended), keys

    def _upscale(self, x: Tensor, high_res: Sequence[Tensor]) -> Tensor:
        first, norm, act1, second, act2 = self.decoder.output_upscaling
        x = first(x)
        x = act1(layer_norm_2d(cast(LayerNorm2d, norm), x + high_res[1] if high_res else x))
        x = second(x)
        return act2(x + high_res[0] if high_res else x)

    def _heads(self, tokens: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        decoder = self.decoder
        first, count = int(decoder.pred_obj_scores), decoder.num_mask_tokens
        ious = mlp(decoder.iou_prediction_head, tokens[:, first])
        mask_tokens = tokens[:, first + 1 : first + 1 + count]
        weights = [mlp(cast(MLP, net), mask_tokens[:, i]) for i, net in enumerate(decoder.output_hypernetworks_mlps)]
        masks = (torch.stack(weights, dim=1) @ x.flatten(2)).unflatten(2, x.shape[2:])
        scores = _apply(decoder.pred_obj_score_head, tokens[:, 0]) if first else torch.full_like(ious[:, :1], 10.0)
        return masks, ious, _apply(self.pointer, mask_tokens), scores


def attention(layer: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``layer(q, k, v)`` of ``q (B, N, C)`` and ``k, v (B, M, C)`` by plain operations."""
    pairs = ((layer.q_proj, q), (layer.k_proj, k), (layer.v_proj, v))
    q, k, v = (projection(x).unflatten(-1, (layer.num_heads, -1)).transpose(1, 2) for projection, x in pairs)
    return layer.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def mlp(layers: MLP, x: Tensor) -> Tensor:
    """``layers(x)`` of ``x (..., C)`` by plain operations."""
    *hidden, last = layers.layers
    for layer in hidden:
        x = layers.act(layer(x))
    x = last(x)
    return torch.sigmoid(x) if layers.sigmoid_output else x


def layer_norm_2d(norm: LayerNorm2d, x: Tensor) -> Tensor:
    """``norm(x)`` of ``x (B, C, H, W)`` by plain operations."""
    tokens = x.permute(0, 2, 3, 1)
    return F.layer_norm(tokens, norm.weight.shape, norm.weight, norm.bias, norm.eps).permute(0, 3, 1, 2)


def _apply(layer: nn.Module, x: Tensor) -> Tensor:
    return mlp(layer, x) if isinstance(layer, MLP) else layer(x)


def in_sequence(layers: nn.Sequential, x: Tensor) -> Tensor:
    """``layers(x)`` of ``x (B, C, H, W)`` by plain operations."""
    for layer in layers:
        x = layer_norm_2d(layer, x) if isinstance(layer, LayerNorm2d) else layer(x)
    return x

"""Computes the prompt encoder, the mask decoder and object pointers with few operations.

Prompts are decoded in groups, so that memory use does not grow with the number of prompts. Tensors that only depend on
parameters are cached, such as the tokens of prompts without points.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.engine.common import Masks, Points, decode_in_groups, high_res_in_blocks
from sam2fast.engine.plans import Conv, Linear, MaskPlan, Norm, Projections, TwoWayLayer
from sam2fast.engine.static.ops import (
    Prepared,
    add,
    add_into,
    compiled,
    convolve,
    joined,
    linear,
    mlp,
    mlps,
    normalize,
    normalize_and_project,
    normalize_projected,
    parameters_of,
    stacked,
    without_autocast,
)
from sam2fast.kernels.mask_logits import mask_logits
from sam2fast.kernels.token_attention import token_attention

GROUP = 32  # maximum number of prompts to decode at once
PADDING = 2  # number of padding points of a prompt without points; prompts with points have one padding point


class JoinedTwoWay(NamedTuple):
    """Layer of the transformer. Projections with the same input are joined to one linear layer.

    Projections are linear, so the image's position encoding is projected once. Attention adds the projected encoding.
    """

    layer: TwoWayLayer
    image_proj: Linear  # outputs of the image: keys read by tokens, queries, values read by tokens
    key_position: Tensor  # (P, D), projected position encoding of the image's keys
    query_position: Tensor  # (P, D), projected position encoding of the image's queries
    # Outputs of the tokens. With positions: queries and keys of the next layer (or queries of the final attention), and
    # keys read by the image. Without positions: values read by the image, and values of the next layer.
    token_proj: Linear
    widths: list[int]  # widths of the outputs of token_proj
    num_positioned: int  # sum of the widths of the outputs with positions
    first_key: int  # index of the output with keys read by the image; the next output has the values read by the image


class MaskWeights(NamedTuple):
    """Layers in the dtype of matrix multiplications, and tensors that are computed only from weights."""

    downscaling: list[tuple[Conv, Norm]]
    downscaled: Conv
    label_embeddings: Tensor  # (5, C), embeddings of the point labels -1 to 3
    angles: Tensor  # (2, C/2) fp32, matrix of the random position encoding times 2 pi
    tokens: Tensor  # (1, T, C), output tokens
    first: Linear  # queries, keys and values of the tokens in the first layer
    layers: list[JoinedTwoWay]
    final: Projections
    final_image_proj: Linear  # keys and values of the image in the final attention
    final_position: Tensor  # (P, D), projected position encoding of the keys in the final attention
    no_layer: Linear  # linear layer with zero output channels
    upscaling: tuple[Linear, ...]
    heads: list[Linear]  # three stacked layers (heads, N, K) and (heads, N); empty if a head does not have three layers
    pointer: tuple[Linear, ...]
    mask_downsample: Conv | None

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of matrix multiplications, except in the heads."""
        return self.downscaled.weight.dtype


class ProjectedMaps(NamedTuple):
    """Projections of images ``(b, P, C)`` to the inner width D of a layer's attentions."""

    keys: Tensor  # (b, P, D), keys without positions for attention of tokens to the image
    queries: Tensor  # (b, P, D), queries without positions for attention of the image to tokens
    values: Tensor  # (b, P, D), values for attention of tokens to the image


class StartedTokens(NamedTuple):
    """Tokens of prompts, and results of the first layer before the tokens attend to the image."""

    tokens: Tensor  # (b, N, C), input of the first layer
    updated: Tensor  # (b, N, C), output of self-attention and norm
    queries: Tensor  # (b, N, D), queries of the tokens for attention to the image

    def first(self, count: int) -> "StartedTokens":
        """Returns the tokens of the first ``count`` prompts."""
        return StartedTokens(*(x[:count] for x in self))


# ---- weights ----


def _weights(plan: MaskPlan, device: torch.device) -> MaskWeights:
    if plan.prepared is None:
        layers = [(x.self_attn, x.to_image, x.to_tokens) for x in plan.layers]
        products = [layer for attn, image, tokens in layers for layer in (*attn[1:4], *image[2:4], *tokens[1:4])]
        products += [*plan.final[1:4], *plan._transposed, *(layer for head in _heads_of(plan) for layer in head)]
        tree = plan.downscaling, plan.downscaled, plan.layers, plan.final, plan.pointer, plan.mask_downsample
        plan.prepared = Prepared(tree, [*plan.label_embeddings, *plan.tokens, plan.matrix, *parameters_of(*products)])

    def compute(tree: Any, dtype: torch.dtype) -> MaskWeights:
        downscaling, downscaled, layers, final, pointer, mask_downsample = tree
        derived, heads = plan.derived(), _heads_of(plan)
        return MaskWeights(
            downscaling,
            downscaled,
            torch.cat(plan.label_embeddings),
            2 * math.pi * plan.matrix.float(),
            torch.cat(plan.tokens)[None],
            joined(*layers[0].self_attn[1:4]),
            _joined_layers(layers, final, derived.position),
            final,
            joined(final.k, final.v),
            _projected(derived.position, final.k),
            Linear(final.out.bias.new_empty(0, len(final.out.bias)), final.out.bias[:0]),
            (
                Linear(derived.weight1.to(dtype), derived.bias1.to(dtype)),
                Linear(derived.weight2.to(dtype), derived.bias2.to(dtype)),
            ),
            [stacked(layers) for layers in zip(*heads, strict=True)] if {*map(len, heads)} == {3} else [],
            pointer,
            mask_downsample,
        )

    return plan.prepared.of(device, compute)


def _projected(position: Tensor, layer: Linear) -> Tensor:
    """Projects positions ``(P, C)`` by the weight of a layer, in fp32."""
    return (position.float() @ layer.weight.float().t()).to(layer.weight.dtype)


def _joined_layers(layers: Sequence[TwoWayLayer], final: Projections, position: Tensor) -> list[JoinedTwoWay]:
    joined_layers = []
    for layer, after in zip(layers, [*(x.self_attn for x in layers[1:]), final], strict=True):
        queries, keys, values, _ = layer.to_tokens[1:]
        before = [after.q] if after is final else [after.q, after.k]
        token_proj = [*before, keys, values, *([] if after is final else [after.v])]
        widths = [len(projection.bias) for projection in token_proj]
        _, _, image_keys, image_values, _ = layer.to_image
        image_proj = joined(image_keys, queries, image_values)
        positions = _projected(position, image_keys), _projected(position, queries)
        first_key = len(before)
        num_positioned = sum(widths[: first_key + 1])
        tokens = joined(*token_proj)
        joined_layers.append(JoinedTwoWay(layer, image_proj, *positions, tokens, widths, num_positioned, first_key))
    return joined_layers


def _heads_of(plan: MaskPlan) -> list[tuple[Linear, ...]]:
    """Returns the heads of the decoder: object score (if any), IoU, masks. Head i reads output token i."""
    return [*([] if plan.score is None else [plan.score]), plan.iou, *plan.networks]


# ---- prompts ----


def _embed_points(plan: MaskPlan, weights: MaskWeights, points: Tensor, labels: Tensor) -> Tensor:
    """Embeds points ``(B, N, 2)`` in input pixels and labels ``(B, N)`` as ``(B, N, C)``."""
    height, width = plan.input_size
    x, y = (points + 0.5).split(1, dim=-1)  # centres of pixels
    x, y = (x / width).float() * 2 - 1, (y / height).float() * 2 - 1
    angle = torch.addcmul(x * weights.angles[0], y, weights.angles[1])
    position = torch.cat([angle.sin(), angle.cos()], dim=-1)
    position.masked_fill_((labels == -1)[..., None], 0.0)
    return position + F.embedding(labels.long() + 1, weights.label_embeddings)


def _tokens_of(plan: MaskPlan, weights: MaskWeights, points: Tensor, labels: Tensor) -> Tensor:
    """Returns output tokens, point tokens and the token of a padding point, ``(B, T + N + 1, C)``."""
    tokens, padding, B = weights.tokens, weights.label_embeddings[None, :1], len(points)
    sparse = _embed_points(plan, weights, points, labels).to(tokens.dtype)
    return torch.cat([tokens.expand(B, -1, -1), sparse, padding.expand(B, -1, -1).to(tokens.dtype)], dim=1)


def _started_without_points(plan: MaskPlan, weights: MaskWeights, count: int, padding: int) -> StartedTokens:
    """Returns the tokens of ``count`` prompts that have ``padding`` padding points and no other points."""

    def compute() -> StartedTokens:
        points = weights.label_embeddings[None, :1].expand(-1, padding, -1).to(weights.tokens.dtype)
        return _start(weights, torch.cat([weights.tokens, points], dim=1).repeat(count, 1, 1))

    layer = plan.layers[0]
    parameters = *layer.norm1[:2], *parameters_of(*layer.self_attn[1:], layer.to_image.q)
    sources = *plan.label_embeddings, *plan.tokens, *parameters
    return plan.started((count, padding, weights.dtype), sources, compute)


def _embed_masks(weights: MaskWeights, masks: Tensor) -> Tensor:
    """Embeds mask logits ``(B, 1, 4H, 4W)`` as ``(B, P, C)``."""
    x = masks
    for conv, norm in weights.downscaling:
        normed = normalize(convolve(x, conv).permute(0, 2, 3, 1), norm, weights.dtype, gelu=True)
        x = normed.permute(0, 3, 1, 2)
    return convolve(x, weights.downscaled).flatten(2).transpose(1, 2)


# ---- decoder ----


def decode(
    plan: MaskPlan,
    embedding: Tensor,
    high_res: Sequence[Tensor],
    points: Points | int | None,
    masks: Tensor | None,
    multimask: bool,
) -> Masks:
    """Computes :meth:`Engine.decode` for B prompts. If ``points`` is the int B, each prompt has one padding point."""
    weights = _weights(plan, embedding.device)
    with without_autocast(embedding.device):
        return compiled(plan, _decode_prompts)(plan, weights, embedding, high_res, points, masks, multimask)


def _decode_prompts(
    plan: MaskPlan,
    weights: MaskWeights,
    embedding: Tensor,
    high_res: Sequence[Tensor],
    points: Points | int | None,
    masks: Tensor | None,
    multimask: bool,
) -> Masks:
    tokens = started = None
    if isinstance(points, tuple):
        tokens = _tokens_of(plan, weights, *points)
        B = len(tokens)
    else:
        B = points or (1 if masks is None else len(masks))
        started = _started_without_points(plan, weights, min(B, GROUP), 0 if points is None else PADDING)
    images = _unrepeat(embedding).flatten(2).transpose(1, 2)  # (b, P, C)
    dense = plan.no_mask[None] if masks is None else _embed_masks(weights, _unrepeat(masks))
    finest, *coarser = map(_unrepeat, high_res) if plan.reads_high_res else (None,)
    levels = high_res_in_blocks(plan, coarser, B)
    if finest is not None:
        levels.append(finest.permute(0, 2, 3, 1))
    shared = projected = None
    if len(images) == len(dense) == 1:
        shared = add(images, dense, weights.dtype)
        projected = _project(weights.layers[0], shared)

    def decode_group(group: slice, selected: slice) -> Masks:
        inputs = (x if len(x) == 1 else x[group] for x in (images, dense, *levels))
        group_images, group_dense, *group_levels = inputs
        image = add(group_images, group_dense, weights.dtype) if shared is None else shared
        prompts = tokens[group] if started is None else started.first(min(B - group.start, GROUP))  # type: ignore[index]
        return _decode(plan, weights, prompts, image, projected, group_levels, selected)

    return decode_in_groups(plan, multimask, B, GROUP, decode_group)


def _unrepeat(x: Tensor) -> Tensor:
    """Returns a batch of one item if the batch was expanded from one item."""
    return x[:1] if x.stride(0) == 0 else x


def _decode(
    plan: MaskPlan,
    weights: MaskWeights,
    prompts: Tensor | StartedTokens,
    image: Tensor,
    projected: ProjectedMaps | None,
    high_res: list[Tensor],
    selected: slice,
) -> Masks:
    """Decodes the ``selected`` masks of prompts ``(b, N, C)`` on images ``(b or 1, P, C)``."""
    tokens, x, query = prompts if isinstance(prompts, StartedTokens) else _start(weights, prompts)
    qkv: tuple[Tensor, ...] = ()  # queries, keys and values of the next self-attention
    for i, joined_layer in enumerate(weights.layers):
        layer, key_position, query_position = joined_layer.layer, joined_layer.key_position, joined_layer.query_position
        if i > 0:
            x, query = _attend_to_each_other(layer, x, qkv, tokens)
        keys, queries, values = projected or _project(joined_layer, image)
        out = token_attention(query, keys, values, None, key_position, layer.to_image.heads)
        x, hidden = normalize_and_project(out, x, layer.to_image.out, layer.norm2, layer.mlp[0], relu=True)
        out, projections = linear(hidden, layer.mlp[1]), (joined_layer.token_proj, tokens, joined_layer.num_positioned)
        x, projected_tokens = normalize_and_project(out, x, None, layer.norm3, *projections)
        outputs, index = projected_tokens.split(joined_layer.widths, dim=-1), joined_layer.first_key
        qkv = *outputs[:index], *outputs[index + 2 :]
        keys, values = outputs[index : index + 2]
        out = token_attention(queries, keys, values, query_position, None, layer.to_tokens.heads)
        image = normalize_projected(out, image, layer.to_tokens.out, layer.norm4)
        projected = None
    final = weights.final
    keys, values = linear(image, weights.final_image_proj).chunk(2, dim=-1)
    out = token_attention(qkv[0], keys, values, None, weights.final_position, final.heads)
    x, _ = normalize_and_project(out, x, final.out, plan.final_norm, weights.no_layer)
    mask_tokens, mask_weights, ious, scores = _heads(plan, weights, x, selected)
    return Masks(_upscale(plan, weights, image, high_res, mask_weights), ious, mask_tokens, scores)


def _start(weights: MaskWeights, tokens: Tensor) -> StartedTokens:
    """Computes self-attention of tokens ``(b, N, C)`` in the first layer, and the tokens' queries to the image."""
    qkv = linear(tokens, weights.first).chunk(3, dim=-1)
    return StartedTokens(tokens, *_attend_to_each_other(weights.layers[0].layer, None, qkv, tokens))


def _attend_to_each_other(
    layer: TwoWayLayer, x: Tensor | None, qkv: tuple[Tensor, ...], prompts: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns tokens ``(b, N, C)`` after self-attention and norm, and the tokens' queries to the image.

    Args:
        x: Residual ``(b, N, C)``, or None in the first layer.
        qkv: Queries, keys and values of the tokens.
        prompts: Tokens of the prompts, used as position encodings of the tokens.
    """
    attn, queries = layer.self_attn, layer.to_image.q
    q, k, v = qkv
    out = token_attention(q, k, v, None, None, attn.heads)
    return normalize_and_project(out, x, attn.out, layer.norm1, queries, prompts, len(queries.bias))


def _project(layer: JoinedTwoWay, image: Tensor) -> ProjectedMaps:
    """Projects images ``(b, P, C)`` to keys, queries and values."""
    return ProjectedMaps(*linear(image, layer.image_proj).chunk(3, dim=-1))


def _heads(
    plan: MaskPlan, weights: MaskWeights, tokens: Tensor, selected: slice
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns mask tokens ``(b, 4, C)``, fp32 mask weights ``(b, M, C/8)``, IoUs ``(b, M)`` and scores ``(b, 1)``."""
    iou, heads = int(plan.has_score), _heads_of(plan)  # index of the IoU token; a score token has index 0
    if weights.heads:
        stacked_out = mlps(tokens[:, : len(heads)], weights.heads)
        outputs = [out[:, : len(head[-1].bias)] for out, head in zip(stacked_out.unbind(1), heads, strict=True)]
        mask_weights = stacked_out[:, iou + 1 :, : len(heads[-1][-1].bias)][:, selected].float()
    else:
        outputs = [mlp(token, head) for token, head in zip(tokens.unbind(1), heads, strict=False)]
        mask_weights = torch.stack(outputs[iou + 1 :][selected], dim=1).float()
    ious = outputs[iou].sigmoid() if plan.has_sigmoid else outputs[iou]
    scores = outputs[0] if plan.has_score else torch.full_like(ious[:, :1], 10.0)
    return tokens[:, iou + 1 : iou + 1 + plan.count], mask_weights, ious[:, selected], scores


def _upscale(plan: MaskPlan, weights: MaskWeights, image: Tensor, high_res: list[Tensor], masks: Tensor) -> Tensor:
    """Returns logits ``(b, M, 4H, 4W)`` of image tokens ``(b, P, C)`` for mask weights ``masks (b, M, C/8)``.

    Upscaled maps stay in blocks of 2x2 pixels: ``(H, W, 2, 2, C)``, later ``(H, W, 2, 2, 2, 2, C)``. Only masks are
    permuted to pixel order.

    Args:
        high_res: Features ``(H, W, 2, 2, C/4)`` in blocks and ``(4H, 4W, C/8)`` in pixel order, or an empty list.
    """
    H, W = plan.size
    first, second = weights.upscaling  # each layer doubles the size
    x = linear(image, first).unflatten(1, (H, W)).unflatten(-1, (2, 2, -1))
    x = normalize(add_into(x, high_res[0]) if high_res else x, plan.up_norm, weights.dtype, gelu=True)
    x = linear(x, second).unflatten(-1, (2, 2, -1))
    return mask_logits(x, high_res[1] if high_res else None, masks)


# ---- pointers ----


def pointers_of(plan: MaskPlan, tokens: Tensor) -> Tensor:
    """Computes object pointers from tokens ``(B, C)``."""
    weights = _weights(plan, tokens.device)
    with without_autocast(tokens.device):
        if len(weights.pointer) == 3:
            layers = [Linear(weight[None], bias[None]) for weight, bias in weights.pointer]
            return mlps(tokens[:, None], layers)[:, 0]
        return mlp(tokens, weights.pointer) if weights.pointer else tokens


def downsampled(plan: MaskPlan, masks: Tensor) -> Tensor:
    """Downsamples input masks ``(B, 1, S, S)`` to mask prompts. The decoder predicts pointers from the prompts."""
    weights = _weights(plan, masks.device)
    assert weights.mask_downsample is not None
    with without_autocast(masks.device):
        return convolve(masks, weights.mask_downsample)

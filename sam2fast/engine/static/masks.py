"""Prompt encoder and mask decoder by few operations.

Prompts are decoded in groups, so that memory does not grow with their number. What depends on parameters alone, as the
tokens do where there are no points, is computed once.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.engine.common import Masks, Points, add_into, decode_in_groups, high_res_in_blocks
from sam2fast.engine.plan import Conv, Linear, MaskPlan, Norm, Projections, TwoWayLayer
from sam2fast.engine.static.ops import (
    Prepared,
    add,
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

GROUP = 32  # prompts that are decoded at once
PADDING = 2  # padding points of a prompt without points: its own, and the one that is always appended


class JoinedTwoWay(NamedTuple):
    """Stores a layer of the transformer, and layers of the same input as one linear layer.

    Projections are linear: the image's positions are projected once, and attention adds them.
    """

    layer: TwoWayLayer
    of_image: Linear  # keys for the tokens, queries, and values for the tokens
    key_position: Tensor  # (P, D) of the keys for the tokens
    query_position: Tensor  # (P, D) of the image's queries
    # With positions: queries and keys of the next layer, or queries of the last attention, and keys for the image.
    # Without: values for the image, and values of the next layer.
    of_tokens: Linear
    widths: list[int]  # of each of these
    placed: int  # sum of the widths of those with positions
    first_key: int  # number of the keys for the image, which their values follow


class MaskWeights(NamedTuple):
    """The layers in the dtype that products are computed in, and what is computed from weights alone."""

    downscaling: list[tuple[Conv, Norm]]
    downscaled: Conv
    kinds: Tensor  # (5, C), of the labels -1 to 3
    angles: Tensor  # (2, C/2) fp32
    tokens: Tensor  # (1, T, C)
    first: Linear  # of the tokens: queries, keys and values of the first layer
    layers: list[JoinedTwoWay]
    final: Projections
    final_of_image: Linear  # keys and values
    final_position: Tensor  # (P, D) of the keys
    nothing: Linear  # without results
    upscaling: tuple[Linear, ...]
    heads: list[Linear]  # weights (heads, N, K) and biases (heads, N) of all heads; none if one has not three layers

    @property
    def dtype(self) -> torch.dtype:
        """Of the products, but for the heads."""
        return self.downscaled.weight.dtype


class ProjectedMaps(NamedTuple):
    """Images ``(b, P, C)`` projected to the width D of a layer's attentions."""

    keys: Tensor  # (b, P, D) for the tokens, without positions
    queries: Tensor  # (b, P, D) of the image, without positions
    values: Tensor  # (b, P, D) for the tokens


class StartedTokens(NamedTuple):
    """What the first layer computes of tokens before they attend to the image."""

    tokens: Tensor  # (b, N, C)
    attended: Tensor  # (b, N, C)
    projected: Tensor  # (b, N, D) queries to the image

    def of(self, count: int) -> "StartedTokens":
        """Those of the first prompts."""
        return StartedTokens(*(x[:count] for x in self))


# ---- weights ----


def _weights(plan: MaskPlan, device: torch.device) -> MaskWeights:
    if plan.prepared is None:
        pairs = [(each.to_each_other, each.to_image, each.to_tokens) for each in plan.layers]
        products = [layer for own, to_image, tokens in pairs for layer in (*own[1:4], *to_image[2:4], *tokens[1:4])]
        products += [*plan.final[1:4], *plan._transposed, *(layer for head in _heads_of(plan) for layer in head)]
        tree = plan.downscaling, plan.downscaled, plan.layers, plan.final
        plan.prepared = Prepared(tree, [*plan.kinds, *plan.tokens, plan.matrix, *parameters_of(*products)])

    def compute(tree: Any, dtype: torch.dtype) -> MaskWeights:
        downscaling, downscaled, layers, final = tree
        found, heads = plan.derived(), _heads_of(plan)
        return MaskWeights(
            downscaling,
            downscaled,
            torch.cat(plan.kinds),
            2 * math.pi * plan.matrix.float(),
            torch.cat(plan.tokens)[None],
            joined(*layers[0].to_each_other[1:4]),
            _joined_layers(layers, final, found.position),
            final,
            joined(final.k, final.v),
            _projected(found.position, final.k),
            Linear(final.out.bias.new_empty(0, len(final.out.bias)), final.out.bias[:0]),
            (
                Linear(found.weight1.to(dtype), found.bias1.to(dtype)),
                Linear(found.weight2.to(dtype), found.bias2.to(dtype)),
            ),
            [stacked(layers) for layers in zip(*heads, strict=True)] if {*map(len, heads)} == {3} else [],
        )

    return plan.prepared.of(device, compute)


def _projected(position: Tensor, layer: Linear) -> Tensor:
    """Returns positions ``(P, C)`` times the weight of a layer, multiplied in fp32."""
    return (position.float() @ layer.weight.float().t()).to(layer.weight.dtype)


def _joined_layers(layers: Sequence[TwoWayLayer], final: Projections, position: Tensor) -> list[JoinedTwoWay]:
    found = []
    for layer, after in zip(layers, [*(each.to_each_other for each in layers[1:]), final], strict=True):
        queries, keys, values, _ = layer.to_tokens[1:]
        before = [after.q] if after is final else [after.q, after.k]
        of_tokens = [*before, keys, values, *([] if after is final else [after.v])]
        widths = [len(each.bias) for each in of_tokens]
        _, _, of_keys, of_values, _ = layer.to_image
        of_image = joined(of_keys, queries, of_values)
        of_key, of_query = _projected(position, of_keys), _projected(position, queries)
        first_key = len(before)
        placed = sum(widths[: first_key + 1])
        found.append(JoinedTwoWay(layer, of_image, of_key, of_query, joined(*of_tokens), widths, placed, first_key))
    return found


def _heads_of(plan: MaskPlan) -> list[tuple[Linear, ...]]:
    """The small networks that read one token each, in the order of these."""
    return [*([] if plan.score is None else [plan.score]), plan.iou, *plan.networks]


# ---- prompts ----


def _embed_points(plan: MaskPlan, weights: MaskWeights, points: Tensor, labels: Tensor) -> Tensor:
    """``(B, N, C)`` of points ``(B, N, 2)`` in input pixels and labels ``(B, N)``."""
    height, width = plan.input_size
    x, y = (points + 0.5).split(1, dim=-1)  # the pixels' centres
    x, y = (x / width).float() * 2 - 1, (y / height).float() * 2 - 1
    angle = torch.addcmul(x * weights.angles[0], y, weights.angles[1])
    position = torch.cat([angle.sin(), angle.cos()], dim=-1)
    position.masked_fill_((labels == -1)[..., None], 0.0)
    return position + F.embedding(labels.long() + 1, weights.kinds)


def _tokens_of(plan: MaskPlan, weights: MaskWeights, points: Tensor, labels: Tensor) -> Tensor:
    """The tokens ``(B, T + N + 1, C)`` of results, of points and of the padding point that is appended."""
    own, padding, B = weights.tokens, weights.kinds[None, :1], len(points)
    sparse = _embed_points(plan, weights, points, labels).to(own.dtype)
    return torch.cat([own.expand(B, -1, -1), sparse, padding.expand(B, -1, -1).to(own.dtype)], dim=1)


def _started_without_points(plan: MaskPlan, weights: MaskWeights, count: int, padding: int) -> StartedTokens:
    """The tokens of ``count`` prompts with so many padding points and no others, after the first attention."""

    def compute() -> StartedTokens:
        own = weights.tokens
        tokens = torch.cat([own, weights.kinds[None, :1].expand(-1, padding, -1).to(own.dtype)], dim=1)
        return _start(weights, tokens.repeat(count, 1, 1))

    layer = plan.layers[0]
    _, q, k, v, out = layer.to_each_other
    sources = *plan.kinds, *plan.tokens, *layer.norm1[:2], *parameters_of(q, k, v, out, layer.to_image.q)
    return plan.started((count, padding, weights.dtype), sources, compute)


def _embed_masks(weights: MaskWeights, masks: Tensor) -> Tensor:
    """``(B, P, C)`` of logits ``(B, 1, 4H, 4W)``."""
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
    """Predicts the masks of B prompts, as :meth:`Engine.decode`; ``points`` may also be B, for a padding point each."""
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
        images_of, dense_of, *levels_of = (x if len(x) == 1 else x[group] for x in (images, dense, *levels))
        image = add(images_of, dense_of, weights.dtype) if shared is None else shared
        prompts = tokens[group] if started is None else started.of(min(B - group.start, GROUP))  # type: ignore[index]
        return _decode(plan, weights, prompts, image, projected, levels_of, selected)

    return decode_in_groups(plan, multimask, B, GROUP, decode_group)


def _unrepeat(x: Tensor) -> Tensor:
    """The first item of a batch that was expanded."""
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
    """The selected masks of b prompts, given by tokens ``(b, N, C)``, on images ``(b or 1, P, C)``."""
    tokens, x, query = prompts if isinstance(prompts, StartedTokens) else _start(weights, prompts)
    own: tuple[Tensor, ...] = ()  # what the next layer reads of the tokens
    for i, each in enumerate(weights.layers):
        layer, at = each.layer, each.first_key
        if i > 0:
            x, query = _attend_to_each_other(layer, x, own, tokens)
        keys, queries, values = projected or _project(each, image)
        read = token_attention(query, keys, values, None, each.key_position, layer.to_image.heads)
        x, hidden = normalize_and_project(read, x, layer.to_image.out, layer.norm2, layer.mlp[0], relu=True)
        found = linear(hidden, layer.mlp[1])
        x, projected_tokens = normalize_and_project(found, x, None, layer.norm3, each.of_tokens, tokens, each.placed)
        of_tokens = projected_tokens.split(each.widths, dim=-1)
        own = *of_tokens[:at], *of_tokens[at + 2 :]
        keys, values = of_tokens[at : at + 2]
        read = token_attention(queries, keys, values, each.query_position, None, layer.to_tokens.heads)
        image = normalize_projected(read, image, layer.to_tokens.out, layer.norm4)
        projected = None
    final = weights.final
    keys, values = linear(image, weights.final_of_image).chunk(2, dim=-1)
    read = token_attention(own[0], keys, values, None, weights.final_position, final.heads)
    x, _ = normalize_and_project(read, x, final.out, plan.final_norm, weights.nothing)
    of_masks, mask_weights, ious, scores = _heads(plan, weights, x, selected)
    return Masks(_upscale(plan, weights, image, high_res, mask_weights), ious, of_masks, scores)


def _start(weights: MaskWeights, tokens: Tensor) -> StartedTokens:
    """What the first layer computes of tokens ``(b, N, C)`` before they attend to the image."""
    given = linear(tokens, weights.first).chunk(3, dim=-1)
    return StartedTokens(tokens, *_attend_to_each_other(weights.layers[0].layer, None, given, tokens))


def _attend_to_each_other(
    layer: TwoWayLayer, x: Tensor | None, given: tuple[Tensor, ...], prompts: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns tokens ``x (b, N, C)``, or none, plus their attention to each other, and their queries to the image.

    Args:
        given: Queries, keys and values of the tokens.
    """
    own, queries = layer.to_each_other, layer.to_image.q
    query, key, value = given
    read = token_attention(query, key, value, None, None, own.heads)
    return normalize_and_project(read, x, own.out, layer.norm1, queries, prompts, len(queries.bias))


def _project(each: JoinedTwoWay, image: Tensor) -> ProjectedMaps:
    """Projects images ``(b, P, C)``."""
    return ProjectedMaps(*linear(image, each.of_image).chunk(3, dim=-1))


def _heads(
    plan: MaskPlan, weights: MaskWeights, tokens: Tensor, selected: slice
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mask tokens ``(b, 4, C)``, weights ``(b, M, C/8)`` of the selected masks in fp32, their IoUs, and scores."""
    iou, heads = int(plan.has_score), _heads_of(plan)  # number of the token of IoUs; that of the score comes before
    if weights.heads:
        every = mlps(tokens[:, : len(heads)], weights.heads)
        found = [out[:, : len(head[-1].bias)] for out, head in zip(every.unbind(1), heads, strict=True)]
        mask_weights = every[:, iou + 1 :, : len(heads[-1][-1].bias)][:, selected].float()
    else:
        found = [mlp(token, head) for token, head in zip(tokens.unbind(1), heads, strict=False)]
        mask_weights = torch.stack(found[iou + 1 :][selected], dim=1).float()
    ious = found[iou].sigmoid() if plan.has_sigmoid else found[iou]
    scores = found[0] if plan.has_score else torch.full_like(ious[:, :1], 10.0)
    return tokens[:, iou + 1 : iou + 1 + plan.count], mask_weights, ious[:, selected], scores


def _upscale(plan: MaskPlan, weights: MaskWeights, image: Tensor, high_res: list[Tensor], masks: Tensor) -> Tensor:
    """Returns logits ``(b, M, 4H, 4W)`` of image tokens ``(b, P, C)`` for the masks' weights ``(b, M, C/8)``.

    Blocks of 2x2 stay contiguous, ``(H, W, 2, 2, C)`` and then ``(H, W, 2, 2, 2, 2, C)``, until the masks are made.

    Args:
        high_res: Features of twice the size in blocks, and of four times the size in the order of pixels, or none.
    """
    H, W = plan.size
    once, twice = weights.upscaling  # to twice the size each
    x = linear(image, once).unflatten(1, (H, W)).unflatten(-1, (2, 2, -1))
    x = normalize(add_into(x, high_res[0]) if high_res else x, plan.up_norm, weights.dtype, gelu=True)
    x = linear(x, twice).unflatten(-1, (2, 2, -1))
    return mask_logits(x, high_res[1] if high_res else None, masks)

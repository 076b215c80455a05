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

from sam2fast.engine.common import (
    Masks,
    Points,
    add_into,
    choice_of,
    finer_in_blocks,
    most_stable,
    with_pointer_tokens,
)
from sam2fast.engine.gpu.ops import (
    Prepared,
    add,
    attend,
    compiled,
    convolve,
    joined,
    linear,
    mlp,
    normalize,
    normalize_and_place,
    normalize_sum,
    parameters_of,
    without_autocast,
)
from sam2fast.engine.plan import Conv, Linear, MaskPlan, Norm, Projections, TwoWayLayer

GROUP = 32  # prompts that are decoded at once
PADDING = 2  # padding points of a prompt without points: its own, and the one that is always appended


class JoinedTwoWay(NamedTuple):
    """A layer of the transformer, and what of it reads the same input as one linear layer."""

    layer: TwoWayLayer
    own: Linear  # queries and keys of the tokens, in the first layer values too
    placed: Linear  # of the image with its positions: keys for the tokens, and queries


class MaskWeights(NamedTuple):
    """The layers in the dtype that products are computed in, and what is computed from weights alone."""

    downscaling: list[tuple[Conv, Norm]]
    downscaled: Conv
    kinds: Tensor  # (5, C), of the labels -1 to 3
    angles: Tensor  # (2, C/2) fp32
    tokens: Tensor  # (1, T, C)
    position: Tensor  # (P, C) fp32
    layers: list[JoinedTwoWay]
    final: Projections
    upscaling: tuple[Linear, ...]
    heads: list[Linear]  # weights (heads, K, N) and biases (heads, 1, N) of all heads; none where their widths differ

    @property
    def dtype(self) -> torch.dtype:
        """Of the products, but for the heads."""
        return self.downscaled.weight.dtype


class ProjectedMaps(NamedTuple):
    """Images ``(b, P, C)`` projected to the width D of a layer's attentions."""

    keys: Tensor  # (b, P, D) for the tokens
    values: Tensor  # (b, P, D) for the tokens
    queries: Tensor  # (b, P, D) of the image


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
        products = [layer for each in plan.layers for layer in _joined_of(each)]
        products += [*plan._transposed, *(layer for head in _heads_of(plan) for layer in head)]
        tree = plan.downscaling, plan.downscaled, plan.layers, plan.final
        plan.prepared = Prepared(tree, [*plan.kinds, *plan.tokens, plan.matrix, *parameters_of(*products)])

    def compute(tree: Any, dtype: torch.dtype) -> MaskWeights:
        downscaling, downscaled, layers, final = tree
        found = plan.derived()
        return MaskWeights(
            downscaling,
            downscaled,
            torch.cat(plan.kinds),
            2 * math.pi * plan.matrix.float(),
            torch.cat(plan.tokens)[None],
            found.position,
            list(map(_join, layers)),
            final,
            (
                Linear(found.weight1.to(dtype), found.bias1.to(dtype)),
                Linear(found.weight2.to(dtype), found.bias2.to(dtype)),
            ),
            _stacked(_heads_of(plan)),
        )

    return plan.prepared.of(device, compute)


def _joined_of(layer: TwoWayLayer) -> list[Linear]:
    own = layer.to_each_other
    values = [own.v] if layer.is_first else []
    return [own.q, own.k, *values, layer.to_image.k, layer.to_tokens.q]


def _join(layer: TwoWayLayer) -> JoinedTwoWay:
    *own, keys, queries = _joined_of(layer)
    return JoinedTwoWay(layer, joined(*own), joined(keys, queries))


def _heads_of(plan: MaskPlan) -> list[tuple[Linear, ...]]:
    """The small networks that read one token each, in the order of these."""
    return [*([] if plan.score is None else [plan.score]), plan.iou, *plan.networks]


def _stacked(heads: list[tuple[Linear, ...]]) -> list[Linear]:
    """The layers of all heads as batches, if their widths are equal but for those of the results, which are padded."""
    if len({tuple(layer.weight.shape[1] for layer in head) for head in heads}) > 1:
        return []
    found = []
    for layers in zip(*heads, strict=True):
        width = max(len(layer.bias) for layer in layers)
        missing = [width - len(layer.bias) for layer in layers]
        pairs = list(zip(layers, missing, strict=True))
        weights = torch.stack([F.pad(layer.weight.t(), (0, n)) for layer, n in pairs])
        found.append(Linear(weights, torch.stack([F.pad(layer.bias, (0, n)) for layer, n in pairs])[:, None]))
    return found


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
        return _start(weights.layers[0], tokens.repeat(count, 1, 1))

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
    finer: Sequence[Tensor],
    points: Points | None,
    masks: Tensor | None,
    multimask: bool,
) -> Masks:
    """Masks of B prompts: points ``(B, N, 2)`` with labels ``(B, N)``, mask logits ``(B or 1, 1, 4H, 4W)``, or both.

    Args:
        embedding: ``(B or 1, C, H, W)``.
        finer: ``(B or 1, C/8, 4H, 4W)`` and ``(B or 1, C/4, 2H, 2W)``, or none.
        points: may be B, for a padding point in each prompt.
        multimask: three masks rather than one.
    """
    weights = _weights(plan, embedding.device)
    with without_autocast(embedding.device):
        found = compiled(plan, _decode_in_groups)(plan, weights, embedding, finer, points, masks, multimask)
    return with_pointer_tokens(plan, found, multimask)


def _decode_in_groups(
    plan: MaskPlan,
    weights: MaskWeights,
    embedding: Tensor,
    finer: Sequence[Tensor],
    points: Points | None,
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
    levels = finer_in_blocks(plan, list(map(_unrepeat, finer)), B)
    shared = projected = None
    if len(images) == len(dense) == 1:
        shared = add(images, dense, weights.dtype)
        projected = _project(weights.layers[0], shared, add(shared, weights.position, weights.dtype))

    selected, is_dynamic = choice_of(plan, multimask)
    found: Masks | None = None
    for start in range(0, max(B, 1), GROUP):
        group = slice(start, start + GROUP)
        images_of, dense_of, *levels_of = (x if len(x) == 1 else x[group] for x in (images, dense, *levels))
        image = add(images_of, dense_of, weights.dtype) if shared is None else shared
        prompts = tokens[group] if started is None else started.of(min(B - start, GROUP))  # type: ignore[index]
        some = _decode(plan, weights, prompts, image, projected, levels_of, selected)
        some = most_stable(plan, some) if is_dynamic else some
        if B <= GROUP:
            return some
        found = found or Masks(*(x.new_empty(B, *x.shape[1:]) for x in some))
        for whole, x in zip(found, some, strict=True):
            whole[group] = x
    assert found is not None
    return found


def _unrepeat(x: Tensor) -> Tensor:
    """The first item of a batch that was expanded."""
    return x[:1] if x.stride(0) == 0 else x


def _decode(
    plan: MaskPlan,
    weights: MaskWeights,
    prompts: Tensor | StartedTokens,
    image: Tensor,
    projected: ProjectedMaps | None,
    finer: list[Tensor],
    selected: slice,
) -> Masks:
    """The selected masks of b prompts, given by tokens ``(b, N, C)``, on images ``(b or 1, P, C)``."""
    tokens, x, query = prompts if isinstance(prompts, StartedTokens) else _start(weights.layers[0], prompts)
    dtype, position = weights.dtype, weights.position
    placed_image = image if projected else add(image, position, dtype)
    placed = tokens
    for i, each in enumerate(weights.layers):
        layer = each.layer
        if i > 0:
            x, query = _attend_to_each_other(each, x, placed, tokens)
        keys, values, queries = projected or _project(each, image, placed_image)
        x = normalize_sum(x, attend(layer.to_image, query, keys, values), layer.norm2)[1]
        x, placed = normalize_and_place(x, mlp(x, layer.mlp), layer.norm3, tokens, dtype)
        read = attend(layer.to_tokens, queries, linear(placed, layer.to_tokens.k), linear(x, layer.to_tokens.v))
        image, placed_image = normalize_and_place(image, read, layer.norm4, position, dtype, dtype)
        projected = None
    final = weights.final
    read = attend(final, linear(placed, final.q), linear(placed_image, final.k), linear(image, final.v))
    x = normalize_sum(x, read, plan.final_norm)[1]
    own, mask_weights, ious, scores = _heads(plan, weights, x, selected)
    return Masks(_upscale(plan, weights, image, finer, mask_weights), ious, own, scores)


def _start(each: JoinedTwoWay, tokens: Tensor) -> StartedTokens:
    """What the first layer computes of tokens ``(b, N, C)`` before they attend to the image."""
    layer, dtype = each.layer, each.own.weight.dtype
    if layer.is_first:
        attended = attend(layer.to_each_other, *linear(tokens, each.own).chunk(3, dim=-1))
        attended = normalize(attended, layer.norm1)
        query = linear(add(attended, tokens, dtype), layer.to_image.q)
    else:
        attended, query = _attend_to_each_other(each, tokens, add(tokens, tokens, dtype), tokens)
    return StartedTokens(tokens, attended, query)


def _attend_to_each_other(each: JoinedTwoWay, x: Tensor, placed: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens ``x (b, N, C)``, with and without positions, after attending to each other; and their queries to the
    image."""
    own, layer = each.layer.to_each_other, each.layer
    q, k = linear(placed, each.own).chunk(2, dim=-1)
    found = attend(own, q, k, linear(x, own.v))
    x, placed = normalize_and_place(x, found, layer.norm1, prompts, each.own.weight.dtype)
    return x, linear(placed, layer.to_image.q)


def _project(each: JoinedTwoWay, image: Tensor, placed: Tensor) -> ProjectedMaps:
    """Images ``(b, P, C)``, which are also given with their positions."""
    keys, queries = linear(placed, each.placed).chunk(2, dim=-1)
    return ProjectedMaps(keys, linear(image, each.layer.to_image.v), queries)


def _heads(
    plan: MaskPlan, weights: MaskWeights, tokens: Tensor, selected: slice
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mask tokens ``(b, 4, C)``, weights ``(b, M, C/8)`` of the selected masks in fp32, their IoUs, and scores."""
    iou, heads = int(plan.has_score), _heads_of(plan)  # number of the token of IoUs; that of the score comes before
    if weights.heads:
        x = tokens[:, : len(heads)].to(weights.heads[0].weight.dtype).transpose(0, 1)
        for i, layer in enumerate(weights.heads):
            x = torch.baddbmm(layer.bias, x.relu_() if i else x, layer.weight)
        found = [out[:, : len(head[-1].bias)] for out, head in zip(x, heads, strict=True)]
        mask_weights = x[iou + 1 :, :, : len(heads[-1][-1].bias)].transpose(0, 1)[:, selected].float()
    else:
        found = [mlp(token, head) for token, head in zip(tokens.unbind(1), heads, strict=False)]
        mask_weights = torch.stack(found[iou + 1 :][selected], dim=1).float()
    ious = found[iou].sigmoid() if plan.has_sigmoid else found[iou]
    scores = found[0] if plan.has_score else torch.full_like(ious[:, :1], 10.0)
    return tokens[:, iou + 1 : iou + 1 + plan.count], mask_weights, ious[:, selected], scores


def _upscale(plan: MaskPlan, weights: MaskWeights, image: Tensor, finer: list[Tensor], masks: Tensor) -> Tensor:
    """Logits ``(b, M, 4H, 4W)`` of image tokens ``(b, P, C)`` for the masks' weights ``(b, M, C/8)``.

    Blocks of 2x2 stay contiguous, ``(H, W, 2, 2, C)`` and then ``(H, W, 2, 2, 2, 2, C)``, until the masks are made.
    """
    H, W = plan.size
    once, twice = weights.upscaling  # to twice the size each
    x = linear(image, once).unflatten(1, (H, W)).unflatten(-1, (2, 2, -1))
    x = normalize(add_into(x, finer[0]) if finer else x, plan.up_norm, weights.dtype, gelu=True)
    x = linear(x, twice).unflatten(-1, (2, 2, -1))
    x = torch.ops.aten.gelu_(add_into(x, finer[1]) if finer else x)
    logits = (masks @ x.float().flatten(1, -2).mT).unflatten(2, (H, W, 2, 2, 2, 2))
    return logits.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(len(masks), -1, 4 * H, 4 * W)

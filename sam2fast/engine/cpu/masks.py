"""Computes the prompt encoder, the mask decoder and object pointers on the CPU.

Prompts are decoded in small groups: weights for tokens are read once per group, and image tokens fit the last-level
cache. Images are processed one by one. If there are few tokens, the image's projections are folded into the tokens,
see :func:`_to_image` and :func:`_to_tokens`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.engine.common import Masks, Points, by_head, decode_in_groups, high_res_in_blocks
from sam2fast.engine.cpu.ops import (
    add_into,
    attention,
    convolve,
    linear,
    mlp,
    normalize,
    softmax_of_few_,
    weighted_sums,
)
from sam2fast.engine.plans import Derived, MaskPlan, Projections, TwoWayLayer

# Maximum number of elements in the image tokens of a group of prompts: four prompts on 1024 x 1024 pixels (16 MiB).
AT_ONCE = 2**22


class ProjectedImage(NamedTuple):
    """Projections of an image ``(P, C)`` to the inner width D of a layer's attentions."""

    keys: Tensor  # (P, D), keys for attention of tokens to the image
    values: Tensor  # (P, D), values for attention of tokens to the image
    queries: Tensor  # (P, D), queries for attention of the image to tokens


def embed_points(plan: MaskPlan, points: Tensor, labels: Tensor) -> Tensor:
    """Embeds points ``(B, N, 2)`` in input pixels, labels ``(B, N)`` and a padding point to ``(B, N + 1, C)``."""
    points, labels = F.pad(points + 0.5, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=-1).long()  # centres of pixels
    height, width = plan.input_size
    x, y = points.split(1, dim=-1)
    x, y = 2 * (x / width).float() - 1, 2 * (y / height).float() - 1
    x_weights, y_weights = plan.matrix.float()
    angle = 2 * math.pi * (x * x_weights + y * y_weights)
    position = torch.cat([angle.sin(), angle.cos()], dim=-1)
    return torch.where(labels[..., None] == -1, 0.0, position) + torch.cat(plan.label_embeddings)[labels + 1]


def embed_masks(plan: MaskPlan, masks: Tensor) -> Tensor:
    """Embeds mask logits ``(B, 1, 4H, 4W)`` as ``(B, P, C)``."""
    x = masks
    for conv, norm in plan.downscaling:
        x = F.gelu(normalize(convolve(x, conv).permute(0, 2, 3, 1), norm)).permute(0, 3, 1, 2)
    return convolve(x, plan.downscaled).flatten(2).transpose(1, 2)


def decode(
    plan: MaskPlan,
    embedding: Tensor,
    high_res: Sequence[Tensor],
    points: Points | int | None,
    masks: Tensor | None,
    multimask: bool,
) -> Masks:
    """Computes :meth:`Engine.decode` for B prompts. If ``points`` is the int B, each prompt has one padding point."""
    if isinstance(points, int):
        points = torch.zeros(points, 1, 2, device="cpu"), torch.full((points, 1), -1, device="cpu")
    prompts = torch.cat(plan.tokens)[None]
    if points is not None:
        sparse = embed_points(plan, *points)
        prompts = torch.cat([prompts.expand(len(sparse), -1, -1), sparse.to(prompts.dtype)], dim=1)
    elif masks is not None:
        prompts = prompts.expand(len(masks), -1, -1)
    B = len(prompts)
    dense = plan.no_mask[None] if masks is None else embed_masks(plan, masks)
    first, derived = plan.layers[0], plan.derived()
    images = (embedding.flatten(2).transpose(1, 2) + dense).to(first.to_image.q.weight.dtype).contiguous()  # (b, P, C)
    high_res = high_res_in_blocks(plan, high_res, B)
    projected = None
    if len(images) == 1 and not _folds(first.to_image, B * prompts.shape[1]):
        projected = _project(first, images[0], derived.position)

    def decode_group(group: slice, selected: slice) -> Masks:
        maps, *levels = ([x[i if len(x) > 1 else 0] for i in range(B)[group]] for x in (images, *high_res))
        return _decode(plan, derived, prompts[group], maps, levels, projected, selected)

    return decode_in_groups(plan, multimask, B, max(1, AT_ONCE // images[0].numel()), decode_group)


def _decode(
    plan: MaskPlan,
    derived: Derived,
    prompts: Tensor,
    images: list[Tensor],
    high_res: list[list[Tensor]],
    projected: ProjectedImage | None,
    selected: slice,
) -> Masks:
    """Decodes the ``selected`` masks of prompts ``(b, N, C)``. Each prompt has an image ``(P, C)``."""
    tokens, position = prompts, derived.position
    for layer in plan.layers:
        tokens, images = _two_way(layer, tokens, images, prompts, position, projected)
        projected = None
    tokens = normalize(tokens + _attend_to_image(plan.final, tokens + prompts, images, position), plan.final_norm)

    first = int(plan.has_score)
    mask_tokens = tokens[:, first + 1 : first + 1 + plan.count]
    pairs = list(zip(mask_tokens.unbind(1), plan.networks, strict=True))[selected]
    weights = torch.stack([mlp(token, network) for token, network in pairs], dim=1).float()
    ious = mlp(tokens[:, first], plan.iou)[:, selected]
    ious = ious.sigmoid() if plan.has_sigmoid else ious
    scores = torch.full_like(ious[:, :1], 10.0) if plan.score is None else mlp(tokens[:, 0], plan.score)
    masks = [
        _upscale(plan, derived, x, list(levels), w) for x, *levels, w in zip(images, *high_res, weights, strict=True)
    ]
    return Masks(masks[0][None] if len(masks) == 1 else torch.stack(masks), ious, mask_tokens, scores)


def _two_way(
    layer: TwoWayLayer,
    tokens: Tensor,
    images: list[Tensor],
    prompts: Tensor,
    position: Tensor,
    projected: ProjectedImage | None,
) -> tuple[Tensor, list[Tensor]]:
    """Returns tokens ``(b, N, C)`` and images ``(P, C)`` after a two-way layer.

    Args:
        images: Image of each prompt.
        prompts: Tokens ``(b, N, C)`` of the prompts, used as position encodings of the tokens.
        projected: Projections of the image if all prompts have the same image, or None.
    """
    self_attn, to_image, to_tokens = layer.self_attn, layer.to_image, layer.to_tokens
    with_position = tokens if layer.is_first else tokens + prompts
    q, k, v = linear(with_position, self_attn.q), linear(with_position, self_attn.k), linear(tokens, self_attn.v)
    out = _attend(self_attn, q, k, v)
    tokens = normalize(out if layer.is_first else tokens + out, layer.norm1)

    folds = _folds(to_image, tokens.shape[1])
    projections = [projected] * len(images) if projected else []
    if not folds and not projected:
        projections = [_project(layer, x, position) for x in images]
    if projections:
        queries = linear(tokens + prompts, to_image.q).split(1)
        parts = [_attend(to_image, q, x.keys[None], x.values[None]) for q, x in zip(queries, projections, strict=True)]
        out = torch.cat(parts)
    else:
        out = _to_image(to_image, tokens + prompts, images, position)
    tokens = normalize(tokens + out, layer.norm2)
    tokens = normalize(tokens + mlp(tokens, layer.mlp), layer.norm3)

    k, v = linear(tokens + prompts, to_tokens.k), linear(tokens, to_tokens.v)
    sources = [x.queries for x in projections] or [x + position for x in images]
    if folds:
        updates = _to_tokens(to_tokens, sources, k, v, bool(projections))
    else:
        inputs = zip(sources, k.split(1), v.split(1), strict=True)
        updates = [_attend(to_tokens, x[None], *pair)[0] for x, *pair in inputs]
    return tokens, [normalize(add_into(y, x), layer.norm4) for x, y in zip(images, updates, strict=True)]


def _attend_to_image(layer: Projections, tokens: Tensor, images: list[Tensor], position: Tensor) -> Tensor:
    """Returns the attention output ``(b, N, C)`` of tokens to images ``(P, C)``. Prompt i attends to image i."""
    if _folds(layer, tokens.shape[1]):
        return _to_image(layer, tokens, images, position)
    queries = linear(tokens, layer.q).split(1)
    keys = [linear(x + position, layer.k)[None] for x in images]
    values = [linear(x, layer.v)[None] for x in images]
    return torch.cat([_attend(layer, *qkv) for qkv in zip(queries, keys, values, strict=True)])


def _project(layer: TwoWayLayer, image: Tensor, position: Tensor) -> ProjectedImage:
    with_position, to_image = image + position, layer.to_image
    keys, queries = linear(with_position, to_image.k), linear(with_position, layer.to_tokens.q)
    return ProjectedImage(keys, linear(image, to_image.v), queries)


def _attend(layer: Projections, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Returns the attention output ``(b, N, C)`` of queries ``q (b, N, D)`` to keys and values ``(b, M, D)``."""
    out = attention(*by_head(layer.heads, q, k, v))
    return linear(out.transpose(1, 2).flatten(2), layer.out)


def _folds(layer: Projections, tokens: int) -> bool:
    """Returns True if projections folded into tokens save multiplications per image position.

    With folding, each position is multiplied by one vector of the outer width per token and head. Without folding, each
    position is projected once, and multiplied by one vector of the inner width per token.
    """
    inner, outer = layer.q.weight.shape
    return tokens * layer.heads * outer < inner * outer + tokens * inner


def _to_image(layer: Projections, tokens: Tensor, images: list[Tensor], position: Tensor) -> Tensor:
    """Computes :func:`_attend_to_image` with folded projections.

    Scores ``(W_q y) . (W_k x)`` are computed as ``(W_k^T W_q y) . x``. Weighted sums of the image are projected to
    values, instead of weighted sums of projected values.
    """
    shape = layer.heads, -1
    query = linear(tokens, layer.q).unflatten(-1, shape).transpose(1, 2)
    query = query * query.shape[-1] ** -0.5
    keys = (query @ layer.k.weight.unflatten(0, shape)).flatten(1, 2)  # (b, heads * N, C); softmax cancels the bias
    sums = []
    for x, key in zip(images, keys, strict=True):
        scores = linear(x + position, (key, None))
        sums.append(weighted_sums(scores.float().softmax(dim=0).to(key.dtype), x.to(key.dtype)))
    means = torch.stack(sums).unflatten(1, shape)
    out = means @ layer.v.weight.unflatten(0, shape).mT + layer.v.bias.unflatten(0, shape)[:, None]
    return linear(out.transpose(1, 2).flatten(2), layer.out)


def _to_tokens(layer: Projections, images: list[Tensor], k: Tensor, v: Tensor, is_projected: bool) -> list[Tensor]:
    """Returns the attention outputs ``(P, C)`` of images to tokens, with folded projections.

    The query projection is folded into the keys. The output projection is folded into the values.

    Args:
        images: Images ``(P, C)``, or queries ``(P, D)`` of the images if ``is_projected`` is True.
        k, v: Keys and values ``(b, N, D)`` of the tokens.
    """
    (keys, values), shape = by_head(layer.heads, k, v), (layer.heads, -1)
    keys = keys * keys.shape[-1] ** -0.5
    offsets: Sequence[Tensor | None] = [None] * len(keys)
    if is_projected:
        eye = torch.eye(layer.heads, dtype=keys.dtype, device=keys.device)[:, None, :, None]
        folded = (keys[:, :, :, None] * eye).flatten(3).flatten(1, 2)  # (b, heads * N, D)
    else:
        folded = (keys @ layer.q.weight.unflatten(0, shape)).flatten(1, 2)  # (b, heads * N, C)
        offsets = (keys @ layer.q.bias.unflatten(0, shape)[..., None]).flatten(1)
    values = (values @ layer.out.weight.t().unflatten(0, shape)).flatten(1, 2)  # (b, heads * N, C)
    outputs = []
    for x, key, offset, value in zip(images, folded, offsets, values, strict=True):
        scores = linear(x, (key, offset)).float().unflatten(1, shape)
        outputs.append(linear(softmax_of_few_(scores).flatten(1), (value.t(), layer.out.bias)))
    return outputs


def _upscale(plan: MaskPlan, derived: Derived, x: Tensor, high_res: list[Tensor], weights: Tensor) -> Tensor:
    """Returns logits ``(M, 4H, 4W)`` of image tokens ``(P, C)`` for mask ``weights (M, C/8)``.

    Upscaled maps stay in blocks of 2x2 pixels: ``(H, W, 2, 2, C)``, later ``(H, W, 2, 2, 2, 2, C)``. Only masks are
    permuted to pixel order.
    """
    H, W = plan.size
    x = linear(x, (derived.weight1, derived.bias1)).view(H, W, 2, 2, -1)
    x = torch.ops.aten.gelu_(normalize(add_into(x, high_res[0]) if high_res else x, plan.up_norm))
    x = linear(x, (derived.weight2, derived.bias2)).unflatten(-1, (2, 2, -1))
    x = torch.ops.aten.gelu_(add_into(x, high_res[1]) if high_res else x)
    masks = (weights @ x.float().flatten(0, -2).mT).view(-1, H, W, 2, 2, 2, 2)
    return masks.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, 4 * H, 4 * W)


def pointers_of(plan: MaskPlan, tokens: Tensor) -> Tensor:
    """Computes object pointers from tokens ``(B, C)``."""
    return mlp(tokens, plan.pointer) if plan.pointer else tokens


def downsampled(plan: MaskPlan, masks: Tensor) -> Tensor:
    """Downsamples input masks ``(B, 1, S, S)`` to mask prompts. The decoder predicts pointers from the prompts."""
    assert plan.mask_downsample is not None
    return convolve(masks.float(), plan.mask_downsample)

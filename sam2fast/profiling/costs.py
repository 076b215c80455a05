"""Products and bytes of the model's parts, by formula from shapes. A multiplication with its addition counts two.

Sums, norms, activations, softmax, rotations and resizing are no products, and count by their bytes alone.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from sam2fast.modeling.attention import Attention
from sam2fast.modeling.cross_attention import CrossAttention, FoldedTokens
from sam2fast.modeling.image_encoder import FpnNeck
from sam2fast.modeling.mask_decoder import MaskDecoder
from sam2fast.modeling.memory_attention import MemoryAttentionLayer
from sam2fast.modeling.two_way_transformer import TwoWayAttentionBlock


def product(rows: float, depth: float, columns: float) -> float:
    """FLOPs of a matrix product."""
    return 2.0 * rows * depth * columns


def attention(queries: float, keys: float, width: float, value_width: float | None = None) -> float:
    """FLOPs of both products of attention, all heads; widths are over all heads."""
    return product(queries, width, keys) + product(queries, keys, width if value_width is None else value_width)


def attention_with_projections(queries: float, keys: float, outer: float, inner: float, key_width: float) -> float:
    """FLOPs of attention that projects its queries, keys, values and results, as the original does."""
    projections = 2 * product(queries, outer, inner) + 2 * product(keys, key_width, inner)
    return projections + attention(queries, keys, inner)


def of_module(module: nn.Module, out: Tensor, x: Tensor) -> float:
    """FLOPs of a linear layer or a convolution."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    if isinstance(module, nn.ConvTranspose2d):
        return 2.0 * x.numel() / x.shape[1] * weight.numel()
    return 2.0 * out.numel() * weight[0].numel()


def dtype_name(x: Tensor) -> str:
    """``float32``, ``bfloat16``, ..."""
    return str(x.dtype).removeprefix("torch.")


def bytes_of(*values: Any) -> float:
    """Bytes of the tensors in nested tuples, lists and dicts, each once; what is expanded counts as it lies."""
    seen: dict[tuple[Any, ...], float] = {}
    for x in tensors(values):
        size = math.prod(n for n, stride in zip(x.shape, x.stride(), strict=True) if stride)
        seen[x.data_ptr(), x.shape, x.stride()] = float(size * x.element_size())
    return sum(seen.values())


def weight_bytes(*modules: nn.Module) -> float:
    """Bytes of the modules' parameters."""
    return float(sum(p.nbytes for module in modules for p in module.parameters()))


def tensors(value: Any) -> Iterable[Tensor]:
    """The tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from tensors(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from tensors(inner)


def window_attention(out: Tensor, qkv: Tensor, window: int) -> float:
    """``qkv (B, H, W, 3C)`` to ``out (B, H', W', C)``: padding positions are keys, and queries before pooling."""
    B, H, W, channels = qkv.shape
    keys = window**2 if window else H * W
    queries = padded_positions(H, W, window) * (out.shape[1] * out.shape[2]) / (H * W)
    return attention(B * queries, keys, channels // 3)


def padded_positions(H: int, W: int, window: int) -> int:
    """Positions of a map that is padded to whole windows; 0 is one window, the whole map."""
    return math.ceil(H / window) * math.ceil(W / window) * window**2 if window else H * W


def published_projection(module: nn.Linear, x: Tensor, window: int) -> float:
    """A projection of ``x (B, H, W, C)`` by the original, which pads to whole windows before it projects."""
    B, H, W, C = x.shape
    return product(B * padded_positions(H, W, window), C, module.out_features)


def neck(module: FpnNeck, xs: Sequence[Tensor], heads: Mapping[int, nn.Conv2d] | None, composes: bool = True) -> float:
    """FLOPs of the pyramid, without the heads that are called as modules.

    Args:
        composes: a level in no sum goes straight to its head's channels, by the product of both weights.
    """
    total = 0.0
    for i, x in enumerate(xs):
        lateral: nn.Conv2d = module.convs[len(xs) - 1 - i].conv  # type: ignore[assignment]
        positions = x.shape[0] * x.shape[2] * x.shape[3]
        if lateral.kernel_size != (1, 1) or lateral.stride != (1, 1) or lateral.padding != (0, 0):
            continue  # called as a module
        d, C = lateral.out_channels, lateral.in_channels
        if composes and is_composed(module, i, len(xs), heads):
            head = heads[i].out_channels  # type: ignore[index]
            total += product(positions, C, head) + product(head, d, C + 1)
        else:
            total += product(positions, C, d)
    return total


def is_composed(module: FpnNeck, level: int, levels: int, heads: Mapping[int, nn.Conv2d] | None) -> bool:
    """Whether a level takes part in no sum and has a head: see :meth:`FpnNeck.features`."""
    summed = level in module.fpn_top_down_levels and level < levels - 1
    feeds_finer = level > 0 and level - 1 in module.fpn_top_down_levels
    return bool(heads) and level in (heads or {}) and not summed and not feeds_finer


def heads_of_neck(xs: Sequence[Tensor], heads: Mapping[int, nn.Conv2d] | None) -> float:
    """FLOPs of all heads, each on its level, as the original computes them."""
    sizes = {i: xs[i].shape[0] * xs[i].shape[2] * xs[i].shape[3] for i in heads or {}}
    return sum(product(sizes[i], head.in_channels, head.out_channels) for i, head in (heads or {}).items())


def attended_tokens(page_table: Tensor, pointer_valid: Tensor, positions: int) -> list[int]:
    """How many tokens each row attends to; waits for the device."""
    return [int(n) for n in ((page_table >= 0).sum(dim=1) * positions + pointer_valid.sum(dim=1)).tolist()]


def memory_attention(tokens: Sequence[int], heads: int, N: int, width: int, m: int, value_width: int) -> float:
    """N queries to so many tokens, m wide, of each object: keys projected, values only after the sum.

    Args:
        width, value_width: of keys and of projected values, all heads.
    """
    sums = sum(product(M, m, width) + attention(N, M, width, heads * m) for M in tokens)
    return sums + len(tokens) * product(N, m, value_width)


def published_memory_attention(layer: MemoryAttentionLayer, N: int, tokens: Sequence[int]) -> float:
    """A layer of the original for each object that attends to so many tokens, N positions of the map."""
    itself: Attention = layer.self_attn  # type: ignore[assignment]
    cross: Attention = layer.cross_attn_image  # type: ignore[assignment]
    C, hidden, m = layer.linear1.in_features, layer.linear1.out_features, cross.k_proj.in_features
    each = attention_with_projections(N, N, C, itself.internal_dim, C) + 2 * product(N, C, hidden)
    return sum(each + attention_with_projections(N, M, C, cross.internal_dim, m) for M in tokens if M)


def attend_projected(module: Attention, q: Tensor, k: Tensor) -> float:
    """Attention of what is projected, without the last projection, which is called as a module."""
    return max(len(q), len(k)) * attention(q.shape[1], k.shape[1], module.internal_dim)


def tokens_to_image(module: CrossAttention, tokens: Tensor, images: Sequence[Tensor]) -> float:
    """Folded: the keys' weight is applied to the tokens' queries, the values' weight to the sums of the image."""
    B, T, C = tokens.shape
    P, D = images[0].shape[1], module.internal_dim
    folding = product(B * T, D, C + 1) + product(B * T, D, C)
    return folding + B * attention(P, T, module.num_heads * C)


def fold(module: CrossAttention, keys: Tensor, projected: bool) -> float:
    """Tokens made ready for an image: the queries' weight applied to keys, the last projection's to values."""
    B, T, C = keys.shape
    D = module.internal_dim
    return product(B * T, D, C) + (0.0 if projected else product(B * T, D, C + 1))


def read(out: Tensor, tokens: FoldedTokens) -> float:
    """An image that reads folded tokens."""
    B, columns, width = tokens.keys.shape
    return B * (product(out.shape[1], width, columns) + product(out.shape[1], columns, tokens.values.shape[2]))


def upscaling(tokens: Tensor, weights: Tensor) -> float:
    """``tokens (b, P, C)`` to masks by ``weights (b, M, C/8)``: two transposed convolutions and a product."""
    b, P, C = tokens.shape
    return b * (product(P, C, C) + product(4 * P, C // 4, C // 2) + product(weights.shape[1], C // 8, 16 * P))


def published_decoder(decoder: MaskDecoder, prompts: int, N: int, P: int) -> float:
    """The original's decoder for so many prompts with N tokens each, on an image of P positions."""
    C, transformer = decoder.transformer_dim, decoder.transformer
    total = 0.0
    for layer in transformer.layers:
        total += _published_block(layer, N, P, C)  # type: ignore[arg-type]
    total += attention_with_projections(N, P, C, transformer.final_attn_token_to_image.internal_dim, C)
    M = decoder.num_mask_tokens
    total += product(P, C, C) + product(4 * P, C // 4, C // 2) + product(M, C // 8, 16 * P)
    heads = [*decoder.output_hypernetworks_mlps, decoder.iou_prediction_head]
    heads += [decoder.pred_obj_score_head] if decoder.pred_obj_scores else []
    linears = (x for head in heads for x in head.modules() if isinstance(x, nn.Linear))
    return prompts * (total + sum(product(1, x.in_features, x.out_features) for x in linears))


def _published_block(layer: TwoWayAttentionBlock, N: int, P: int, C: int) -> float:
    hidden = layer.mlp.layers[0].out_features
    inner = layer.cross_attn_token_to_image.internal_dim
    return (
        attention_with_projections(N, N, C, layer.self_attn.internal_dim, C)
        + attention_with_projections(N, P, C, inner, C)
        + 2 * product(N, C, hidden)  # type: ignore[arg-type]
        + attention_with_projections(P, N, C, layer.cross_attn_image_to_token.internal_dim, C)
    )

"""Which calls of the model are which part. Nothing of the model's code knows of it."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from sam2fast.modeling import attention, hiera
from sam2fast.modeling.attention import Attention
from sam2fast.modeling.cross_attention import CrossAttention
from sam2fast.modeling.layers import MLP, Linear
from sam2fast.modeling.mask_decoder import MaskDecoder
from sam2fast.modeling.memory_encoder import CXBlock
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.modeling.two_way_transformer import ImageTokens, TwoWayTransformer
from sam2fast.modeling.upscaling import Upscaling
from sam2fast.profiling import costs
from sam2fast.profiling.patches import Patches
from sam2fast.profiling.recorder import Cost


def model_parts(patches: Patches, model: SAM2Base) -> None:
    """Everything of the model that images and videos have in common."""
    patches.products(model)
    _encoder(patches, model)
    patches.part(model.sam_prompt_encoder, "forward", "prompt encoder", weights=(model.sam_prompt_encoder,))
    _decoder(patches, model.sam_mask_decoder)


def _encoder(patches: Patches, model: SAM2Base) -> None:
    trunk, neck = model.image_encoder.trunk, model.image_encoder.neck
    patches.part(model, "encode_image", "encode")
    patches.part(trunk.patch_embed, "forward", "patch embedding", weights=(trunk.patch_embed,))
    layer = _Noted()
    for number, block in enumerate(trunk.blocks):
        stage = sum(end < number for end in trunk.stage_ends) + 1
        _block(patches, block, stage, lambda *args, number=number, **kwargs: layer.set(number))
    patches.calls(
        hiera,
        "window_attention",
        lambda: ("attention", f"layer {layer.number}"),
        weights=(),
        flops=lambda out, qkv, bias, heads, window, *rest: costs.window_attention(out, qkv, window),
    )
    patches.part(
        neck,
        "features",
        "neck",
        weights=(neck, *model._level_heads().values()),
        flops=lambda out, xs, heads=None: costs.neck(neck, xs, heads),
        published=lambda out, xs, heads=None: _value(
            costs.neck(neck, xs, heads, composes=False) + costs.heads_of_neck(xs, heads)
        ),
    )


def _block(patches: Patches, block: Any, stage: int, note: Callable[..., None]) -> None:
    for name in ("forward", "branches"):
        patches.part(block, name, f"stage {stage}")
    patches.around(block.attn, "forward", note)
    for norm in (block.norm1, block.norm2):
        patches.part(norm, "after", "norms", weights=(norm,))
    window, stride = block.window_size, block.q_stride[0] if block.q_stride else 1
    for name, module, side in (
        ("query, key, value", block.attn.qkv, window),
        ("output projection", block.attn.proj, window // stride),
    ):
        patches.part(
            module,
            "forward",
            name,
            weights=(module,),
            published=lambda out, x, module=module, side=side: _value(costs.published_projection(module, x, side)),
        )
    if block.proj is not None:
        patches.part(block.proj, "forward", "residual projection", weights=(block.proj,))
    _mlp(patches, block.mlp)


def _mlp(patches: Patches, mlp: MLP) -> None:
    """Its two layers, where they are computed at once, are not called as modules."""
    first, last = mlp.layers[0], mlp.layers[-1]
    sizes = [(layer.in_features, layer.out_features) for layer in mlp.layers if isinstance(layer, Linear)]
    at_once = mlp.is_transformers and type(first) is Linear and type(last) is Linear

    def flops(out: Tensor, x: Tensor) -> float:
        rows = x.numel() / x.shape[-1]
        return sum(costs.product(rows, *size) for size in sizes)

    patches.part(mlp, "forward", "MLP", weights=(mlp,), flops=flops if at_once else None)


def _between_gelu(patches: Patches, owner: nn.Module, layers: Sequence[nn.Module]) -> None:
    """Two layers of a ``(B, C, H, W)`` map that are computed at once are not called as modules."""
    sizes = [(layer.in_features, layer.out_features) for layer in layers if type(layer) is Linear]
    if len(sizes) == len(layers):
        patches.inside(
            owner,
            "forward",
            lambda out, x: sum(costs.product(x.numel() / x.shape[1], *size) for size in sizes),
        )


class _Noted:
    """A number that one wrapper notes for another: the layer that is being computed, or how many objects there are."""

    number = 0

    def set(self, number: int) -> None:
        self.number = number


def memory_attention_parts(patches: Patches, model: SAM2Base) -> None:
    """A frame that attends to itself and to the memory."""
    patches.part(model.memory_attention, "attend", "memory attention")
    for number, layer in enumerate(model.memory_attention.layers):
        _memory_layer(patches, layer, f"layer {number}")
    patches.part(attention, "rope_attention", "attention", weights=(), flops=_rope_attention)
    patches.part(attention, "memory_attention", "attention", then=_cost_of_memory)


def _rope_attention(out: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> float:
    B, heads, N, d = q.shape
    return costs.attention(B * heads * N, k.shape[2], d, v.shape[3])


def _memory_layer(patches: Patches, layer: Any, name: str) -> None:
    itself, cross = layer.self_attn, layer.cross_attn_image

    def published(out: Tensor, tgt: Tensor, pos: Tensor, memory: Any, *rest: Any) -> Callable[[], float]:
        return _published_layer(layer, tgt, memory)

    patches.part(layer, "attend", name, published=published)
    patches.part(layer, "_forward_sa", "self-attention")
    patches.part(cross, "attend", "cross-attention")
    patches.part(layer, "_feed_forward", "feed-forward", weights=(layer.norm3, layer.linear1, layer.linear2))
    projections = (itself.q_proj, itself.k_proj, itself.v_proj, itself.out_proj, cross.q_proj, cross.out_proj)
    for module in projections:
        patches.part(module, "forward", "projections", weights=(module,))


def _published_layer(layer: Any, tgt: Tensor, memory: Any) -> Callable[[], float]:
    tables = _tables(memory)
    return lambda: costs.published_memory_attention(layer, tgt.shape[1], tables())


def _cost_of_memory(
    out: Tensor,
    query: Tensor,
    memory: Any,
    key_weight: Tensor,
    key_bias: Any,
    value_weight: Tensor,
    *rest: Any,
    **options: Any,
) -> Callable[[], Cost]:
    """Of the memory only what is valid is read, once; which that is, only the device knows."""
    tokens_of = _tables(memory)
    (_, heads, N, _), (width, m), values = query.shape, key_weight.shape, value_weight.shape[0]
    fixed = costs.bytes_of(out, query, key_weight, value_weight, memory.position_encoding, memory.time_encoding)
    token, dtype = m * memory.pages.element_size(), costs.dtype_name(query)

    def cost() -> Cost:
        tokens = tokens_of()
        return Cost(costs.memory_attention(tokens, heads, N, width, m, values), dtype, fixed + sum(tokens) * token)

    return cost


def _tables(memory: Any) -> Callable[[], list[int]]:
    """Asked when the device is done: how many tokens each row attends to."""
    table, valid, positions = memory.page_table, memory.pointer_valid, memory.pages.shape[1]
    return lambda: costs.attended_tokens(table, valid, positions)


def memory_encoder_parts(patches: Patches, model: SAM2Base) -> None:
    """What happens in a frame's memory encoding, whose beginning belongs to the tracker."""
    encoder = model.memory_encoder
    for block in (module for module in encoder.modules() if isinstance(module, CXBlock)):
        _between_gelu(patches, block, (block.pwconv1, block.pwconv2))
    patches.part(encoder.mask_downsampler, "forward", "mask downsampling", weights=(encoder.mask_downsampler,))
    objects = _Noted()
    patches.around(encoder, "forward", lambda features, masks, **kwargs: objects.set(len(masks)))
    projection = encoder.pix_feat_proj
    patches.part(
        projection,
        "forward",
        "pixel projection",
        weights=(projection,),
        # The original projects the frame again for each object.
        published=lambda out, x: _value(objects.number * costs.of_module(projection, out[:1], x)),
    )
    patches.part(encoder.fuser, "forward", "fuser", weights=(encoder.fuser,))
    patches.part(encoder.out_proj, "forward", "output projection", weights=(encoder.out_proj,))
    patches.part(model.obj_ptr_proj, "forward", "object pointers", weights=(model.obj_ptr_proj,))


def _decoder(patches: Patches, decoder: MaskDecoder) -> None:
    def published(out: Any, **kwargs: Any) -> Callable[[], float]:
        sparse, image = kwargs["sparse_prompt_embeddings"], kwargs["image_embeddings"]
        tokens = sparse.shape[1] + int(decoder.pred_obj_scores) + 1 + decoder.num_mask_tokens
        return _value(costs.published_decoder(decoder, len(sparse), tokens, image.shape[2] * image.shape[3]))

    patches.part(decoder, "forward", "mask decoder", published=published)
    _transformer(patches, decoder.transformer)
    patches.part(
        Upscaling,
        "masks",
        "upscaling",
        weights=(decoder.output_upscaling,),
        flops=lambda out, upscaling, tokens, weights, prompts: costs.upscaling(tokens, weights),
        then=lambda out, upscaling, *rest: Cost(nbytes=costs.bytes_of(upscaling._finer)),
    )
    heads: list[nn.Module] = [decoder.iou_prediction_head]
    heads += [decoder.pred_obj_score_head] if decoder.pred_obj_scores else []
    for head in heads:
        patches.part(head, "forward", "heads", weights=(head,))
    patches.part(decoder, "_mask_weights", "heads", weights=(decoder.output_hypernetworks_mlps,))


def _transformer(patches: Patches, transformer: TwoWayTransformer) -> None:
    patches.part(transformer, "prepare", "transformer", "shared projections", then=_shared_projections)
    patches.part(transformer, "attend", "transformer")
    crosses = [transformer.final_attn_token_to_image]
    for number, layer in enumerate(transformer.layers):
        patches.part(layer, "forward", f"layer {number}", weights=(layer,))
        patches.inside(layer.self_attn, "attend_projected", _attend_projected(layer.self_attn))  # type: ignore[arg-type]
        crosses += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]  # type: ignore[list-item]
    for cross in crosses:
        _cross_attention(patches, cross)
    final = transformer.final_attn_token_to_image
    for name in ("tokens_to_image", "forward"):  # folded, or where that is more work not
        patches.part(final, name, "final attention", weights=(final,))


def _shared_projections(out: ImageTokens, tokens: Tensor, pe: Tensor, readers: int) -> Cost:
    """Nothing is moved where the first layer folds: then the tokens are only passed on."""
    return Cost(nbytes=costs.bytes_of(out) if out.projected else 0.0)


def _cross_attention(patches: Patches, cross: CrossAttention) -> None:
    def tokens_to_image(out: Tensor, tokens: Tensor, images: Sequence[Tensor], pe: Tensor) -> float:
        return costs.tokens_to_image(cross, tokens, images)

    def fold(out: Any, keys: Tensor, values: Tensor, projected: bool = False) -> float:
        return costs.fold(cross, keys, projected)

    patches.inside(cross, "tokens_to_image", tokens_to_image)
    patches.inside(cross, "fold", fold)
    patches.inside(cross, "read", lambda out, image, tokens: costs.read(out, tokens))
    patches.inside(cross, "attend_projected", _attend_projected(cross))


def _attend_projected(module: Attention) -> Callable[..., float]:
    return lambda out, q, k, v: costs.attend_projected(module, q, k)


def _value(number: float) -> Callable[[], float]:
    return lambda: number

"""The mask decoder's two-way transformer: prompt tokens and image tokens attend to each other."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from sam2fast.kernels._cpu import is_cpu_inference
from sam2fast.modeling.attention import Attention
from sam2fast.modeling.constants import TensorCache
from sam2fast.modeling.cross_attention import CrossAttention, image_chunks
from sam2fast.modeling.layers import (
    MLP,
    add_for,
    normalize,
    normalize_and_place,
    normalize_sum,
    project,
    project_together,
    stream_dtype,
)
from sam2fast.modeling.standard import is_standard, standard
from sam2fast.modeling.upscaling import add_into


class ProjectedImages(NamedTuple):
    """Images projected to the inner dimension D of a layer's cross-attentions."""

    keys: Tensor  # (b, P, D), keys for the tokens
    values: Tensor  # (b, P, D), values for the tokens
    queries: Tensor  # (b, P, D), queries of the image


class FirstAttention(NamedTuple):
    """What depends on tokens alone, which parameters are where there are no prompts."""

    tokens: Tensor  # (b, N, C) fp32
    queries: Tensor  # (b, N, C) after the first layer's self-attention
    projected: Tensor  # (b, N, D) queries of its attention to the image

    def of(self, count: int) -> "FirstAttention":
        """Those of the first prompts."""
        return FirstAttention(*(x[:count] for x in self))


class Placed(NamedTuple):
    """Tokens and chunks of images with their position encodings, as attention reads them."""

    queries: Tensor  # (B, N, C)
    keys: list[Tensor | None]  # (b, P, C), None where they are added when they are read


class ImageTokens(NamedTuple):
    """The transformer's image inputs; one image may be shared by all prompts."""

    tokens: Tensor  # (B or 1, P, C)
    pe: Tensor  # (1, P, C)
    projected: list[ProjectedImages]  # of a shared image for the first layer, if that is cheaper than folding


@standard
class TwoWayAttentionBlock(nn.Module):
    """Self-attention of tokens, tokens to image, MLP on tokens, image to tokens; norms after each.

    Source: ``sam2.modeling.sam.transformer.TwoWayAttentionBlock``.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_heads: int,
        mlp_dim: int = 2048,
        activation: type[nn.Module] = nn.ReLU,
        attention_downsample_rate: int = 2,
        skip_first_layer_pe: bool = False,
    ) -> None:
        super().__init__()
        self.self_attn = Attention(embedding_dim, num_heads)
        self.norm1 = nn.LayerNorm(embedding_dim)
        self.cross_attn_token_to_image = CrossAttention(embedding_dim, num_heads, attention_downsample_rate)
        self.norm2 = nn.LayerNorm(embedding_dim)
        self.mlp = MLP(embedding_dim, mlp_dim, embedding_dim, num_layers=2, activation=activation)
        self.norm3 = nn.LayerNorm(embedding_dim)
        self.norm4 = nn.LayerNorm(embedding_dim)
        self.cross_attn_image_to_token = CrossAttention(embedding_dim, num_heads, attention_downsample_rate)
        self.skip_first_layer_pe = skip_first_layer_pe
        self._joined: TensorCache[tuple[Tensor, Tensor]] = TensorCache()

    def forward(self, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens ``(B, N, C)`` and images ``(B, HW, C)`` after attending to each other, by a call of each module.

        Args:
            queries, query_pe: ``(B, N, C)``.
            keys: ``(B, HW, C)``.
            key_pe: ``(B or 1, HW, C)``.
        """
        if self.skip_first_layer_pe:
            queries = normalize(self.norm1, self.self_attn(q=queries, k=queries, v=queries))
        else:
            q = queries + query_pe
            queries = normalize(self.norm1, queries + self.self_attn(q=q, k=q, v=queries))
        q, k = queries + query_pe, keys + key_pe
        queries = normalize(self.norm2, queries + self.cross_attn_token_to_image(q=q, k=k, v=keys))
        queries = normalize(self.norm3, queries + self.mlp(queries))
        q, k = queries + query_pe, keys + key_pe
        return queries, normalize(self.norm4, keys + self.cross_attn_image_to_token(q=k, k=q, v=queries))

    def fused(
        self,
        queries: Tensor,
        keys: Sequence[Tensor],
        query_pe: Tensor,
        key_pe: Tensor,
        projected: Sequence[ProjectedImages] = (),
        placed: Placed | None = None,
        first: FirstAttention | None = None,
    ) -> tuple[Tensor, list[Tensor], Placed]:
        """:meth:`forward` of images in chunks ``(b, HW, C)``, usually without projecting them.

        Args:
            queries, query_pe: ``(B, N, C)``.
            keys: chunks ``(b or 1, HW, C)``.
            key_pe: ``(1, HW, C)``.
            projected: :meth:`project` of the image, if all chunks are the same and the caller has it.
            placed: queries and keys with their encodings, if the caller has them.
            first: :meth:`first` of ``queries``, if the caller has it; only without folding.

        Returns:
            The two results, and both with their encodings.
        """
        to_image, to_tokens = self.cross_attn_token_to_image, self.cross_attn_image_to_token
        dtype = stream_dtype(to_image.q_proj)
        if first is None:
            queries, q = self._attend_to_tokens(queries, query_pe, placed)
        else:
            queries, q = first.queries, query_pe
        fold = to_tokens.should_fold(queries.shape[1])
        if not fold and not projected:
            keyed = [None] * len(keys) if placed is None else placed.keys
            projected = [self.project(x, key_pe, k) for x, k in zip(keys, keyed, strict=True)]
        if projected:
            parts = (project(to_image.q_proj, q) if first is None else first.projected).chunk(len(projected))
            found = [to_image.attend_projected(t, x.keys, x.values) for t, x in zip(parts, projected, strict=True)]
            attended = _joined(found)
        else:
            attended = to_image.tokens_to_image(q, keys, key_pe)
        queries = normalize_sum(self.norm2, queries, attended)
        queries, q = normalize_and_place(self.norm3, queries, self.mlp(queries), query_pe, dtype)

        count = len(keys)
        readers: list[Callable[[Tensor], Tensor]]
        if fold:
            folded = to_tokens.fold(q, queries, bool(projected)).split(count)
            readers = [partial(to_tokens.read, tokens=some) for some in folded]
        else:
            k, v = project(to_tokens.k_proj, q), project(to_tokens.v_proj, queries)
            pairs = zip(k.chunk(count), v.chunk(count), strict=True)
            readers = [partial(to_tokens.attend_projected, k=k, v=v) for k, v in pairs]
        changed: list[Tensor] = []
        changed_placed: list[Tensor | None] = []
        for i, (x, read) in enumerate(zip(keys, readers, strict=True)):
            image = projected[min(i, len(projected) - 1)].queries if projected else x + key_pe
            attended, with_pe = read(image), None
            if is_cpu_inference(x):
                normed = normalize(self.norm4, add_into(attended, x))
            else:
                normed, with_pe = normalize_and_place(self.norm4, x, attended, key_pe[0], dtype, dtype)
            changed.append(normed)
            changed_placed.append(with_pe)
        return queries, changed, Placed(q, changed_placed)

    def _attend_to_tokens(self, queries: Tensor, query_pe: Tensor, placed: Placed | None) -> tuple[Tensor, Tensor]:
        """Tokens after the self-attention, and with their encodings."""
        layer = self.cross_attn_token_to_image.q_proj
        if self.skip_first_layer_pe:
            queries = normalize(self.norm1, self.self_attn(q=queries, k=queries, v=queries))
            return queries, add_for(layer, queries, query_pe)
        q = add_for(self.self_attn.q_proj, queries, query_pe) if placed is None else placed.queries
        attended = self.self_attn(q=q, k=q, v=queries)
        return normalize_and_place(self.norm1, queries, attended, query_pe, stream_dtype(layer))

    def first(self, tokens: Tensor) -> FirstAttention:
        """What :meth:`fused` computes of ``tokens (b, N, C)`` before they attend to the image."""
        queries, q = self._attend_to_tokens(tokens, tokens, None)
        return FirstAttention(tokens, queries, project(self.cross_attn_token_to_image.q_proj, q))

    def first_parameters(self) -> tuple[Tensor, ...]:
        """The parameters that :meth:`first` reads."""
        modules = self.self_attn, self.norm1, self.cross_attn_token_to_image.q_proj
        return tuple(parameter for module in modules for parameter in module.parameters())

    def project(self, keys: Tensor, key_pe: Tensor, placed: Tensor | None = None) -> ProjectedImages:
        """Projects images ``(b, HW, C)`` once for all tokens that attend to them; ``placed`` is ``keys + key_pe``."""
        to_image, to_tokens = self.cross_attn_token_to_image, self.cross_attn_image_to_token
        placed = add_for(to_image.k_proj, keys, key_pe) if placed is None else placed
        k, q = project_together(self._joined, (to_image.k_proj, to_tokens.q_proj), placed)
        return ProjectedImages(k, project(to_image.v_proj, keys), q)


@standard
class TwoWayTransformer(nn.Module):
    """``depth`` two-way blocks and a last attention of the tokens to the image.

    Source: ``sam2.modeling.sam.transformer.TwoWayTransformer``.
    """

    def __init__(
        self,
        depth: int,
        embedding_dim: int,
        num_heads: int,
        mlp_dim: int,
        activation: type[nn.Module] = nn.ReLU,
        attention_downsample_rate: int = 2,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayAttentionBlock(
                embedding_dim, num_heads, mlp_dim, activation, attention_downsample_rate, skip_first_layer_pe=i == 0
            )
            for i in range(depth)
        )
        self.final_attn_token_to_image = CrossAttention(embedding_dim, num_heads, attention_downsample_rate)
        self.norm_final_attn = nn.LayerNorm(embedding_dim)

    def forward(self, image_embedding: Tensor, image_pe: Tensor, point_embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens ``(B, N, C)`` and image tokens ``(B, HW, C)`` after attending to each other.

        Args:
            image_embedding: ``(B, C, H, W)``; a batch of 1 is shared by all prompts up to its first update.
            image_pe: ``(1, C, H, W)``.
            point_embedding: ``(B, N, C)``.
        """
        tokens, pe = (x.flatten(2).transpose(1, 2) for x in (image_embedding, image_pe))
        if is_standard(self):
            queries, chunks = self.attend(self.prepare(tokens, pe, point_embedding[..., 0].numel()), point_embedding)
            return queries, torch.cat(chunks)
        queries, keys = point_embedding, tokens
        for layer in self.layers:
            queries, keys = layer(queries=queries, keys=keys, query_pe=point_embedding, key_pe=pe)
        attended = self.final_attn_token_to_image(q=queries + point_embedding, k=keys + pe, v=keys)
        return normalize(self.norm_final_attn, queries + attended), keys

    def prepare(self, tokens: Tensor, pe: Tensor, num_tokens: int) -> ImageTokens:
        """Image tokens ``(B or 1, HW, C)`` and their encoding ``(1, HW, C)`` for :meth:`attend`, any number of times.

        Args:
            num_tokens: total number of prompt tokens that will attend to the images.
        """
        first: TwoWayAttentionBlock = self.layers[0]  # type: ignore[assignment]
        fold = len(tokens) > 1 or first.cross_attn_token_to_image.should_fold(num_tokens)
        return ImageTokens(tokens, pe, [] if fold else [first.project(tokens, pe)])

    def attend(
        self, image: ImageTokens, point_embedding: Tensor, first: FirstAttention | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """:meth:`forward` of prepared images; the image tokens are chunks ``(b, HW, C)``.

        Args:
            first: of the first layer and ``point_embedding``, if the caller has it.
        """
        queries, keys, projected = point_embedding, image_chunks(image.tokens, len(point_embedding)), image.projected
        placed: Placed | None = None
        for layer in self.layers:
            block = cast(TwoWayAttentionBlock, layer)
            queries, keys, placed = block.fused(queries, keys, point_embedding, image.pe, projected, placed, first)
            projected, first = [], None
        final = self.final_attn_token_to_image
        if placed is None:
            placed = Placed(add_for(final.q_proj, queries, point_embedding), [None] * len(keys))
        if final.should_fold(queries.shape[1]):
            attended = final.tokens_to_image(placed.queries, keys, image.pe)
        else:
            triples = zip(placed.queries.chunk(len(keys)), keys, placed.keys, strict=True)
            attended = _joined(
                [final(q, add_for(final.k_proj, x, image.pe) if k is None else k, x) for q, x, k in triples]
            )
        return normalize_sum(self.norm_final_attn, queries, attended), keys


def _joined(chunks: list[Tensor]) -> Tensor:
    return chunks[0] if len(chunks) == 1 else torch.cat(chunks)

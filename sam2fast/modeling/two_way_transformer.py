"""The two-way transformer of the mask decoder. Prompt tokens and image tokens attend to each other."""

from torch import Tensor, nn

from sam2fast.modeling.attention import Attention
from sam2fast.modeling.layers import MLP


class TwoWayAttentionBlock(nn.Module):
    """Token self-attention, token-to-image attention, MLP on tokens, image-to-token attention, each with a norm.

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
        self.cross_attn_token_to_image = Attention(embedding_dim, num_heads, attention_downsample_rate)
        self.norm2 = nn.LayerNorm(embedding_dim)
        self.mlp = MLP(embedding_dim, mlp_dim, embedding_dim, num_layers=2, activation=activation)
        self.norm3 = nn.LayerNorm(embedding_dim)
        self.norm4 = nn.LayerNorm(embedding_dim)
        self.cross_attn_image_to_token = Attention(embedding_dim, num_heads, attention_downsample_rate)
        self.skip_first_layer_pe = skip_first_layer_pe

    def forward(self, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor) -> tuple[Tensor, Tensor]:
        """Updates tokens ``queries (B, N, C)`` and image ``keys (B, HW, C)``. ``key_pe`` is ``(B or 1, HW, C)``."""
        if self.skip_first_layer_pe:
            queries = self.norm1(self.self_attn(q=queries, k=queries, v=queries))
        else:
            q = queries + query_pe
            queries = self.norm1(queries + self.self_attn(q=q, k=q, v=queries))
        q, k = queries + query_pe, keys + key_pe
        queries = self.norm2(queries + self.cross_attn_token_to_image(q=q, k=k, v=keys))
        queries = self.norm3(queries + self.mlp(queries))
        q, k = queries + query_pe, keys + key_pe
        return queries, self.norm4(keys + self.cross_attn_image_to_token(q=k, k=q, v=queries))


class TwoWayTransformer(nn.Module):
    """Two-way transformer: ``depth`` blocks, then token-to-image attention.

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
        self.depth, self.embedding_dim, self.num_heads, self.mlp_dim = depth, embedding_dim, num_heads, mlp_dim
        self.layers = nn.ModuleList(
            TwoWayAttentionBlock(
                embedding_dim, num_heads, mlp_dim, activation, attention_downsample_rate, skip_first_layer_pe=i == 0
            )
            for i in range(depth)
        )
        self.final_attn_token_to_image = Attention(embedding_dim, num_heads, attention_downsample_rate)
        self.norm_final_attn = nn.LayerNorm(embedding_dim)

    def forward(self, image_embedding: Tensor, image_pe: Tensor, point_embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Returns updated prompt tokens ``(B, N, C)`` and image tokens ``(B, HW, C)``.

        Args:
            image_embedding, image_pe: Image map ``(B, C, H, W)`` and position encoding ``(B or 1, C, H, W)``.
            point_embedding: Prompt tokens ``(B, N, C)``.
        """
        queries = point_embedding
        keys, pe = (x.flatten(2).transpose(1, 2) for x in (image_embedding, image_pe))
        for layer in self.layers:
            queries, keys = layer(queries=queries, keys=keys, query_pe=point_embedding, key_pe=pe)
        attn_out = self.final_attn_token_to_image(q=queries + point_embedding, k=keys + pe, v=keys)
        return self.norm_final_attn(queries + attn_out), keys

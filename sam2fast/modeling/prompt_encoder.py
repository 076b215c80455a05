"""The prompt encoder. Embeds clicks, boxes and masks for the mask decoder."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2fast.modeling.layers import LayerNorm2d
from sam2fast.modeling.position_encoding import PositionEmbeddingRandom


class PromptEncoder(nn.Module):
    """Embeds points, box corners and mask logits.

    Labels of points are 1 (foreground), 0 (background), 2 and 3 (a box's top left and bottom right), and -1 (padding).

    Source: ``sam2.modeling.sam.prompt_encoder.PromptEncoder``.
    """

    def __init__(
        self,
        embed_dim: int,
        image_embedding_size: tuple[int, int],
        input_image_size: tuple[int, int],
        mask_in_chans: int,
        activation: type[nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.input_image_size = input_image_size
        self.image_embedding_size = image_embedding_size
        self.mask_input_size = (4 * image_embedding_size[0], 4 * image_embedding_size[1])
        self.pe_layer = PositionEmbeddingRandom(embed_dim // 2)
        self.num_point_embeddings = 4
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, embed_dim) for _ in range(self.num_point_embeddings))
        self.not_a_point_embed = nn.Embedding(1, embed_dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_in_chans // 4, kernel_size=2, stride=2),
            LayerNorm2d(mask_in_chans // 4),
            activation(),
            nn.Conv2d(mask_in_chans // 4, mask_in_chans, kernel_size=2, stride=2),
            LayerNorm2d(mask_in_chans),
            activation(),
            nn.Conv2d(mask_in_chans, embed_dim, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, embed_dim)

    def get_dense_pe(self) -> Tensor:
        """Returns the position encoding ``(1, C, H, W)`` of the image embedding."""
        return self.pe_layer(self.image_embedding_size)[None]

    def forward(
        self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Returns sparse ``(B, N, C)`` and dense ``(B, C, H, W)`` embeddings.

        Args:
            points: Coordinates ``(B, P, 2)``, (x, y) in input pixels, and labels ``(B, P)``. If ``boxes`` is None, a
                padding point is appended.
            boxes: Boxes ``(B, 4)`` XYXY in input pixels.
            masks: Logits ``(B, 1, 4H, 4W)``.
        """
        sparse = []
        if points is not None:
            sparse.append(self._embed_points(*points, pad=boxes is None))
        if boxes is not None:
            sparse.append(self._embed_boxes(boxes))
        batch = self._get_batch_size(points, boxes, masks)
        if not sparse:
            sparse.append(self.not_a_point_embed.weight.new_empty(batch, 0, self.embed_dim))
        if masks is not None:
            dense = self._embed_masks(masks)
        else:
            dense = self.no_mask_embed.weight[..., None, None].expand(batch, -1, *self.image_embedding_size)
        return torch.cat(sparse, dim=1), dense

    def _get_batch_size(self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None) -> int:
        prompts = [x for x in (None if points is None else points[0], boxes, masks) if x is not None]
        return len(prompts[0]) if prompts else 1

    def _get_device(self) -> torch.device:
        return self.no_mask_embed.weight.device

    def _embed_boxes(self, boxes: Tensor) -> Tensor:
        """Returns embeddings ``(B, 2, C)`` of the corners of ``boxes (B, 4)``."""
        corners = torch.tensor([[2, 3]], device=boxes.device).expand(len(boxes), -1)
        return self._embed_points(boxes.reshape(-1, 2, 2), corners, pad=False)

    def _embed_masks(self, masks: Tensor) -> Tensor:
        return self.mask_downscaling(masks)

    def _embed_points(self, points: Tensor, labels: Tensor, pad: bool) -> Tensor:
        points = points + 0.5  # centre of the pixel
        if pad:
            points = torch.cat([points, points.new_zeros(len(points), 1, 2)], dim=1)
            labels = torch.cat([labels, labels.new_full((len(labels), 1), -1)], dim=1)
        position = self.pe_layer.forward_with_coords(points, self.input_image_size)
        tables = [self.not_a_point_embed, *self.point_embeddings]
        embeddings = torch.cat([table.weight for table in tables])  # (5, C), row of a label: label + 1
        return torch.where(labels[..., None] == -1, 0.0, position) + embeddings[labels.long() + 1]


def embed_prompts(
    encoder: Any, points: dict[str, Tensor] | None, masks: Tensor | None, features: Tensor
) -> tuple[Tensor, Tensor]:
    """Calls a :class:`PromptEncoder`, or a replacement, for B prompts. ``features (B, C, H, W)`` define B and device.

    Args:
        points: Dict of ``point_coords (B, P, 2)`` in input pixels and ``point_labels (B, P)``, or None.
        masks: Logits ``(B, 1, h, w)``, resized to the encoder's ``mask_input_size``, or None.
    """
    B, device = len(features), features.device
    if masks is not None and masks.shape[-2:] != (size := encoder.mask_input_size):
        masks = F.interpolate(masks.float(), size=size, mode="bilinear", align_corners=False, antialias=True)
    if points is not None:
        coords, labels = points["point_coords"], points["point_labels"]
    else:
        coords = torch.zeros(B, 1, 2, device=device)
        labels = torch.full((B, 1), -1, dtype=torch.int32, device=device)
    return encoder(points=(coords, labels), boxes=None, masks=masks)

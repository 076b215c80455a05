"""A dense auxiliary task for training from scratch: pairwise pixel affinity and object boundaries."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2fast.training.data.batch import ClipBatch
from sam2fast.training.losses import CORE_LOSS_KEY, balanced_bce_and_dice
from sam2fast.training.model import ClipPrediction


class DenseAuxiliary(nn.Module):
    """Supervises the image features directly. Training from scratch by prompts alone stays on a plateau.

    Affinity: the embeddings of two pixels are similar if both show the same object, and dissimilar otherwise. Half of
    the pairs are near each other. Boundary: pixels that differ from one of their four neighbours.

    Args:
        channels: number of channels of all levels of the features together.
        embedding_dim: size of a pixel's embedding.
        num_pairs: number of pairs per image.
        radius: largest distance of a near pair along either axis, in pixels of the features.
        weights: weights of the two losses, affinity and boundary.
    """

    def __init__(
        self,
        channels: int,
        embedding_dim: int = 32,
        num_pairs: int = 1024,
        radius: int = 4,
        weights: tuple[float, float] = (1.0, 0.5),
    ) -> None:
        super().__init__()
        self.num_pairs = num_pairs
        self.radius = radius
        self.weights = weights
        self.embedding = nn.Conv2d(channels, embedding_dim, 1)
        self.boundary = nn.Conv2d(channels, 1, 1)
        self.log_scale = nn.Parameter(torch.tensor(math.log(5.0)))
        self.bias = nn.Parameter(torch.tensor(0.0))

    def forward(self, prediction: ClipPrediction, batch: ClipBatch) -> dict[str, Tensor]:
        """Scalars ``loss_affinity`` and ``loss_boundary``, and their weighted sum ``core_loss``."""
        generator = torch.Generator().manual_seed(batch.seeds[0])
        affinity, boundary = self.losses(dense_features(prediction), object_ids(batch), generator)
        total = self.weights[0] * affinity + self.weights[1] * boundary
        return {CORE_LOSS_KEY: total, "loss_affinity": affinity, "loss_boundary": boundary}

    def losses(self, features: Tensor, ids: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The losses of affinity and boundary, averaged over pairs and over images.

        Args:
            features: ``(B, C, h, w)``.
            ids: object ids ``(B, H, W)``, integers, sampled at the centres of the features' pixels; 0 for background.
            generator: draws the pairs.
        """
        ids = sample_ids(ids, features.shape[2], features.shape[3])
        embedding, boundary = self.embedding(features), self.boundary(features)
        return (
            self._affinity(embedding.float(), ids, generator),
            balanced_bce_and_dice(boundary[:, 0], find_boundaries(ids)).mean(),
        )

    def _affinity(self, embedding: Tensor, ids: Tensor, generator: torch.Generator) -> Tensor:
        first, second = draw_pairs(ids, self.num_pairs, self.radius, generator)  # (B, K)
        unit = F.normalize(embedding.flatten(2), dim=1)  # (B, C, h·w)
        flat = ids.flatten(1)
        similarity = (_pick(unit, first) * _pick(unit, second)).sum(1)
        same = flat.gather(1, first) == flat.gather(1, second)
        logits = self.log_scale.exp() * similarity + self.bias
        losses = F.binary_cross_entropy_with_logits(logits, same.to(logits.dtype), reduction="none")
        counted = first != second
        # Equal weights of positive and negative pairs, independent of their numbers.
        kinds = (same & counted, ~same & counted)
        return sum((losses * kind).sum() / kind.sum().clamp(min=1) for kind in kinds) / 2  # type: ignore[return-value]


def _pick(maps: Tensor, pixels: Tensor) -> Tensor:
    """Values ``(B, C, K)`` of maps ``(B, C, P)`` at pixels ``(B, K)``."""
    return maps.gather(2, pixels[:, None].expand(-1, maps.shape[1], -1))


def sample_ids(ids: Tensor, height: int, width: int) -> Tensor:
    """Ids ``(B, height, width)``: those of ``(B, H, W)`` nearest to the centres of a grid of cells."""
    rows, columns = (
        ((torch.arange(n, device=ids.device) * 2 + 1) * size).div(2 * n, rounding_mode="floor")
        for n, size in ((height, ids.shape[1]), (width, ids.shape[2]))
    )
    return ids[:, rows[:, None], columns]


def find_boundaries(ids: Tensor) -> Tensor:
    """Bool ``(B, H, W)``: pixels of ``ids`` that differ from the one above, below, left or right."""
    result = torch.zeros_like(ids, dtype=torch.bool)
    down = ids[:, 1:] != ids[:, :-1]
    across = ids[:, :, 1:] != ids[:, :, :-1]
    for part, differs in (
        (result[:, 1:], down),
        (result[:, :-1], down),
        (result[:, :, 1:], across),
        (result[:, :, :-1], across),
    ):
        part |= differs
    return result


def draw_pairs(ids: Tensor, num_pairs: int, radius: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pairs of pixels, as indices ``(B, num_pairs)`` into flattened ids ``(B, H, W)``; all ids are equally frequent.

    In the first half of the pairs, the second pixel is within ``radius`` of the first along either axis; in the other
    half it is random too.
    """
    B, H, W = ids.shape
    device, ids = ids.device, ids.to(generator.device)
    values, region = ids.unique(return_inverse=True)
    region = (region.view(B, H * W) + torch.arange(B, device=ids.device)[:, None] * len(values)).flatten()
    weight = region.bincount()[region].double().reciprocal().view(B, H * W)
    first, far = weight.multinomial(2 * num_pairs, replacement=True, generator=generator).chunk(2, dim=1)
    step = torch.randint(-radius, radius + 1, (2, B, num_pairs), generator=generator, device=ids.device)
    y = (first // W + step[0]).clamp(0, H - 1)
    x = (first % W + step[1]).clamp(0, W - 1)
    is_near = torch.arange(num_pairs, device=ids.device) < (num_pairs + 1) // 2
    return first.to(device), torch.where(is_near, y * W + x, far).to(device)


def dense_features(prediction: ClipPrediction) -> Tensor:
    """All levels, concatenated ``(N, sum of C_i, h, w)`` at the size of the finest."""
    size = prediction.levels[0].shape[-2:]
    levels = [prediction.levels[0]]
    levels += [F.interpolate(level, size=size, mode="bilinear", align_corners=False) for level in prediction.levels[1:]]
    return torch.cat([level.float() for level in levels], dim=1)


def object_ids(batch: ClipBatch) -> Tensor:
    """Object ids ``(T * B, S, S)`` int32 of the pixels, counted from 1; 0 for background."""
    T, num_objects, *size = batch.masks.shape
    ids = torch.zeros(T, batch.num_videos, *size, dtype=torch.int32, device=batch.masks.device)
    numbers = torch.arange(1, num_objects + 1, dtype=torch.int32, device=ids.device)[:, None, None]
    # Objects of an image rarely overlap; where they do, the last one counts.
    for o, video in enumerate(batch.video.tolist()):
        ids[:, video] = torch.where(batch.masks[:, o], numbers[o], ids[:, video])
    return ids.flatten(0, 1)

"""A fake model that paints a mask for each prompt; the official predictor and ours both accept it."""

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

SIDE = 80  # of the low-resolution logits


class PaintedModel:
    """Paints ellipses of at most ``radius`` of the image; predicted IoUs are multiples of ``1 / levels``."""

    image_size = 1024
    hidden_dim = 8
    sam_image_embedding_size = 64
    directly_add_no_mem_embed = False
    device = torch.device("cpu")

    def __init__(self, radius: float = 0.3, levels: int = 100) -> None:
        self.radius = radius
        self.levels = levels
        self.calls: list[int] = []  # prompts of each call of the decoder
        self.sam_prompt_encoder = _PromptEncoder()

    def sam_mask_decoder(
        self, *, sparse_prompt_embeddings: Tensor, dense_prompt_embeddings: Tensor, multimask_output: bool, **_: Any
    ) -> tuple[Tensor, Tensor, None, None]:
        """Logits ``(B, C, 80, 80)`` and IoUs ``(B, C)`` for the first point of each prompt, and the mask if any."""
        self.calls.append(len(sparse_prompt_embeddings))
        logits, ious = [], []
        for prompt, mask in zip(sparse_prompt_embeddings, dense_prompt_embeddings, strict=True):
            x, y = prompt[0].tolist()
            for kind in range(3) if multimask_output else [3]:
                painted, iou = _paint(x, y, kind, round(abs(float(mask.mean())) * 16), self.radius, self.levels)
                logits.append(painted + 0.5 * mask[0])
                ious.append(iou)
        B = len(sparse_prompt_embeddings)
        return (
            torch.stack(logits).view(B, -1, SIDE, SIDE),
            torch.tensor(ious, dtype=torch.float32).view(B, -1),
            None,
            None,
        )

    def predictor(self, predictor: Any) -> Any:
        """Lets a predictor of this model set images without encoding them."""
        features = {"image_embed": torch.zeros(1, 1), "high_res_feats": [torch.zeros(1, 1), torch.zeros(1, 1)]}

        def set_image(image: np.ndarray) -> None:
            assert image.ndim == 3 and image.size
            predictor._orig_hw = [image.shape[:2]]
            predictor._features, predictor._is_image_set, predictor._is_batch = features, True, False

        predictor.set_image = set_image
        return predictor


@functools.lru_cache(maxsize=4096)
def _paint(x: float, y: float, kind: int, mask: int, radius: float, levels: int) -> tuple[Tensor, float]:
    """An ellipse about the point with a blurred or sharp edge, holes, and islands around it; not to be written to."""
    rng = np.random.default_rng([round(x * 16) + 1000, round(y * 16) + 1000, kind, mask])
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    width, height = rng.uniform(0.02, radius, 2) * SIDE
    # Points in one cell of a coarse net are meant for the same object, so that there are duplicates.
    cx, cy = (np.floor(v / 1024 * 5) + 0.5 + rng.uniform(-0.05, 0.05) for v in (x, y))
    distance = np.hypot((columns - cx / 5 * SIDE) / width, (rows - cy / 5 * SIDE) / height)
    logits = (1 - distance) * 10 ** rng.uniform(0.3, 1.8)
    for _ in range(8):
        i, j = rng.integers(0, SIDE - 4, 2)
        h, w = rng.integers(1, 5, 2)
        logits[i : i + h, j : j + w] *= -1  # a hole inside, an island outside
    iou = rng.integers(0, levels + 1) / levels
    return torch.from_numpy(logits).float(), iou


class _PromptEncoder:
    mask_input_size = (SIDE, SIDE)

    def __call__(self, points: tuple[Tensor, Tensor], boxes: None, masks: Tensor | None) -> tuple[Tensor, Tensor]:
        coords, labels = points
        assert (labels == 1).all() and labels.shape == coords.shape[:2] == (len(coords), 1)
        return coords, torch.zeros(len(coords), 1, 1, 1) if masks is None else masks

    def get_dense_pe(self) -> None:
        return None


def generator(kind: type, model: PaintedModel, **options: Any) -> Any:
    """A generator of automatic masks, official or ours, of the painted model."""
    made = kind(model, **options)
    model.predictor(made.predictor)
    return made

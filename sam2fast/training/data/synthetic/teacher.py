"""Cut-outs of photographs, found by a trained model that is asked about a grid of points."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

_log = logging.getLogger(__name__)

Logits = NDArray[np.float32]


class Predictor(Protocol):
    """What is asked; :class:`sam2fast.sam2_image_predictor.SAM2ImagePredictor` is one."""

    def set_image(self, image: NDArray[np.uint8]) -> None: ...

    def predict(
        self,
        point_coords: NDArray[np.float32],
        point_labels: NDArray[np.int32],
        *,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[NDArray, NDArray, NDArray]: ...


def teach_cutouts(
    images: Iterable[Path],
    predictor: Predictor,
    out: Path,
    points_per_side: int = 12,
    least_iou: float = 0.85,
    least_stability: float = 0.9,
    areas: tuple[float, float] = (0.01, 0.6),
    most_overlap: float = 0.7,
    longest: int = 768,
    batch: int = 16,
) -> Iterator[tuple[Path, int]]:
    """Writes the objects that a model finds in photographs as RGBA files ``out/cutouts/NAME_NN.png``.

    Args:
        images: photographs; those that cannot be read are reported and skipped.
        predictor: of the model.
        out: a media folder, see :class:`~sam2fast.training.data.synthetic.media.Media`.
        points_per_side: of the grid of single clicks.
        least_iou: of a mask's predicted IoU.
        least_stability: of the IoU between the mask with a stricter and with a laxer threshold, a logit of 1 and of -1.
        areas: of a mask, as shares of the picture.
        most_overlap: IoU from which the lower scored of two masks is a duplicate.
        longest: side that larger pictures are scaled down to.
        batch: clicks answered at once.

    Yields:
        Each picture, once its cut-outs are written, and their number.
    """
    folder = out / "cutouts"
    folder.mkdir(parents=True, exist_ok=True)
    for path in images:
        try:
            with Image.open(path) as opened:
                picture = ImageOps.exif_transpose(opened).convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            _log.warning("%s is left out: %s", path, error)
            yield path, 0
            continue
        picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        predictor.set_image(np.asarray(picture))
        found, scores = [], []
        for points in _grid(picture.size, points_per_side, batch):
            labels = np.ones(points.shape[:2], dtype=np.int32)
            logits, ious, _ = predictor.predict(points, labels, multimask_output=True, return_logits=True)
            # One click alone comes without a batch dimension.
            for mask, iou in zip(logits.reshape(-1, *logits.shape[-2:]), ious.reshape(-1), strict=True):
                share = float((mask > 0).mean())
                if iou > least_iou and areas[0] <= share <= areas[1] and _stability(mask) > least_stability:
                    found.append(_opacity(mask))
                    scores.append(float(iou))
        kept = _distinct(found, scores, most_overlap)
        for number, index in enumerate(kept):
            cutout = picture.copy()
            alpha = Image.fromarray(found[index])
            cutout.putalpha(alpha)
            # Cropped to what is opaque: faint specks may lie anywhere.
            box = Image.fromarray(found[index] > 127).getbbox()
            cutout.crop(box).save(folder / f"{path.name.replace('.', '_')}_{number:02d}.png")
        yield path, len(kept)


def _grid(size: tuple[int, int], points_per_side: int, batch: int) -> Iterator[NDArray[np.float32]]:
    """Clicks ``(B, 1, 2)`` in pixels, evenly over a picture of ``size`` (width, height)."""
    steps = (np.arange(points_per_side, dtype=np.float32) + 0.5) / points_per_side
    points = np.stack(np.meshgrid(steps * size[0], steps * size[1]), axis=2).reshape(-1, 1, 2).astype(np.float32)
    for start in range(0, len(points), batch):
        yield points[start : start + batch]


def _stability(logits: Logits) -> float:
    """IoU of the mask at the logits 1 and -1; the one lies within the other."""
    return float((logits > 1).sum() / max(1, (logits > -1).sum()))


def _opacity(logits: Logits) -> NDArray[np.uint8]:
    """Alpha ``(H, W)``: opaque where the model is sure, half at its threshold."""
    alpha = np.round(255 / (1 + np.exp(-2 * np.clip(logits, -10, 10))))
    return np.where(alpha < 8, 0, alpha).astype(np.uint8)


def _distinct(masks: list[NDArray[np.uint8]], scores: list[float], most_overlap: float) -> list[int]:
    """Indices of the masks, best first, without those that resemble a better one."""
    kept: list[int] = []
    for index in np.argsort(scores)[::-1].tolist():
        mask = masks[index] > 127
        others = (masks[other] > 127 for other in kept)
        if all((mask & other).sum() <= most_overlap * (mask | other).sum() for other in others):
            kept.append(index)
    return kept

"""Simulates clicks and boxes, and compares the predicted masks with the true masks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam2fast.amg.parameters import decoder_batch_size
from sam2fast.evaluation.clicks.depth import deepest_pixel
from sam2fast.evaluation.j_and_f import jaccard
from sam2fast.evaluation.noisy_boxes import noisy_boxes
from sam2fast.io.rle import read_run_lengths
from sam2fast.kernels.run_lengths import decode_masks
from sam2fast.transforms import ImageLike

if TYPE_CHECKING:
    from sam2fast.sam2_image_predictor import SAM2ImagePredictor

# True masks of O objects: bool (O, H, W), or COCO run lengths, compressed or not.
TrueMasks: TypeAlias = "NDArray[np.bool_] | Tensor | Sequence[Mapping[str, Any]]"
OBJECTS_PER_BATCH = 32
# Maximum number of pixels of true masks in a batch of objects. Predicted masks have three times as many.
PIXELS_PER_BATCH = 1 << 26
NO_CLICK = -1


class TrueMaskBatches:
    """Decodes masks of an image of ``size`` (H, W) in batches. Raises ValueError for another dtype or size."""

    def __init__(self, masks: TrueMasks, size: tuple[int, int]) -> None:
        self.size = size
        self._runs: Sequence[Mapping[str, Any]] | None = None
        if isinstance(masks, np.ndarray | Tensor):
            self._array = masks.cpu().numpy() if isinstance(masks, Tensor) else masks
            if self._array.dtype != np.bool_ or self._array.ndim != 3:
                raise ValueError(f"masks must be bool (O, H, W), got {self._array.dtype} {self._array.shape}")
            sizes = {self._array.shape[1:]}
        else:
            if not all(isinstance(rle, Mapping) for rle in masks):
                raise ValueError("masks must be one array (O, H, W), or a list of run lengths in COCO's format")
            self._runs = masks
            sizes = {(int(rle["size"][0]), int(rle["size"][1])) for rle in masks}
        if sizes - {size}:
            height, width = (sizes - {size}).pop()
            raise ValueError(f"the masks have {width}x{height} pixels, the image {size[1]}x{size[0]}")

    def __len__(self) -> int:
        return len(self._array if self._runs is None else self._runs)

    def parts(self, count: int) -> Iterator[tuple[slice, NDArray[np.bool_]]]:
        """Yields ``count`` objects at a time: their slice, and their masks, bool ``(B, H, W)``.

        Raises:
            ValueError: If run lengths are damaged, or a mask is empty.
        """
        for first in range(0, len(self), count):
            part = slice(first, first + count)
            if self._runs is None:
                masks = np.array(self._array[part], order="C")  # torch needs positive strides
            else:
                masks = decode_masks(read_run_lengths(self._runs[part])).numpy()
            empty = np.flatnonzero(~masks.any(axis=(1, 2)))
            if len(empty):
                raise ValueError(f"mask {first + empty[0]} is empty: there is nothing to click on")
            yield part, masks


@dataclass(frozen=True)
class ClickScores:
    """Scores of O objects with K clicks each.

    After a perfect mask, an object gets no more clicks: its IoU stays 1, and coordinates and labels of the remaining
    clicks are -1.
    """

    ious: NDArray[np.float64]  # (O, K) IoU of the predicted and the true mask after each click
    best_of_three: NDArray[np.float64]  # (O,) maximum IoU of the three masks after the first click
    scores: NDArray[np.float64]  # (O, K) predicted IoU after each click
    points: NDArray[np.int64]  # (O, K, 2) clicks (x, y) in pixels of the image
    labels: NDArray[np.int64]  # (O, K) 1 for foreground, 0 for background


@dataclass(frozen=True)
class BoxScores:
    """Scores of O objects with one box each."""

    ious: NDArray[np.float64]  # (O,) IoU of the predicted and the true mask
    scores: NDArray[np.float64]  # (O,) predicted IoU
    boxes: NDArray[np.float32]  # (O, 4) XYXY in pixels of the image, inclusive


def evaluate_clicks(
    predictor: "SAM2ImagePredictor",
    image: ImageLike | None,
    masks: TrueMasks,
    clicks: int = 5,
    *,
    feed_back: bool = True,
    objects_per_batch: int = OBJECTS_PER_BATCH,
) -> ClickScores:
    """Prompts each object with simulated clicks, and compares the mask after each click with the true mask.

    The first click is the object's pixel that is farthest from its outline. The model predicts three masks, and the
    mask with the highest predicted IoU is used. Each later click is the pixel of the error regions that is farthest
    from their outline: a positive click in missed pixels, or a negative click in falsely predicted pixels. The model
    gets all clicks so far and predicts one mask. Distances are measured at the image's full size, and the image's edge
    counts as outline.

    Args:
        image: image to encode once. None uses the image that is already set.
        masks: true masks, bool ``(O, H, W)`` of the image's size, or COCO run lengths of O objects.
        clicks: number of clicks per object, at least 1.
        feed_back: if True, later clicks also pass the low-resolution logits of the previous mask.
        objects_per_batch: maximum number of objects in a decoder batch.

    Raises:
        ValueError: If masks have another dtype or size or are empty, ``clicks`` or ``objects_per_batch`` is below 1, or
            the model's outputs are not finite.
        RuntimeError: If no image is set.
        ImportError: If scipy is not installed.
        Exception: If ``set_image`` raises an exception.
    """
    if clicks < 1:
        raise ValueError(f"clicks is {clicks}; expected at least 1")
    truths = TrueMaskBatches(masks, _size_of(predictor, image))
    O = len(truths)  # noqa: E741
    result = ClickScores(
        ious=np.ones((O, clicks)),
        best_of_three=np.ones(O),
        scores=np.ones((O, clicks)),
        points=np.full((O, clicks, 2), NO_CLICK),
        labels=np.full((O, clicks), NO_CLICK),
    )
    for part, truth in truths.parts(_batch_size(predictor, objects_per_batch, truths.size)):
        batch = ClickScores(
            result.ious[part], result.best_of_three[part], result.scores[part], result.points[part], result.labels[part]
        )
        _click_until_done(predictor, truth, batch, feed_back)
    return result


def evaluate_boxes(
    predictor: "SAM2ImagePredictor",
    image: ImageLike | None,
    masks: TrueMasks,
    *,
    noise: float = 0.0,
    rng: np.random.Generator | None = None,
    objects_per_batch: int = OBJECTS_PER_BATCH,
) -> BoxScores:
    """Prompts each object with only its box, and compares the predicted mask with the true mask.

    Args:
        image, masks, objects_per_batch: see :func:`evaluate_clicks`.
        noise: maximum shift of each side of the box, as a fraction of the box's size below 0.5, and at most 20 pixels,
            as in training.
        rng: generator of the noise; by default a new generator with a fixed seed.

    Raises:
        ValueError, RuntimeError, Exception: See :func:`evaluate_clicks`; or ``noise`` is out of range.
    """
    if not 0 <= noise < 0.5:
        raise ValueError(f"noise is {noise}; expected a fraction from 0 to below 0.5")
    truths = TrueMaskBatches(masks, _size_of(predictor, image))
    O = len(truths)  # noqa: E741
    draws = torch.from_numpy((rng or np.random.default_rng(0)).random((O, 4)))
    result = BoxScores(np.ones(O), np.ones(O), np.zeros((O, 4), dtype=np.float32))
    for part, truth in truths.parts(_batch_size(predictor, objects_per_batch, truths.size)):
        result.boxes[part] = noisy_boxes(torch.from_numpy(truth)[:, None], draws[part], noise).numpy()
        answer = _ask(predictor, truth, box=result.boxes[part], multimask_output=False)
        result.ious[part], result.scores[part] = answer.ious, answer.scores
    return result


def next_click(truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> tuple[int, int, int]:
    """Returns x, y and label of the next click: 1 on missed pixels, 0 on falsely predicted pixels.

    Equal to :func:`~sam2fast.training.prompt_sampling.sample_error_center`, but faster. The masks ``(H, W)`` differ.
    """
    missed, false = deepest_pixel(truth & ~predicted), deepest_pixel(predicted & ~truth)
    return (missed.x, missed.y, 1) if missed.depth > false.depth else (false.x, false.y, 0)


def _click_until_done(
    predictor: "SAM2ImagePredictor", truth: NDArray[np.bool_], result: ClickScores, feed_back: bool
) -> None:
    """Sets the scores of the objects ``truth``, bool ``(B, H, W)``, in ``result``."""
    masks, logits = np.zeros_like(truth), None
    for k in range(result.ious.shape[1]):
        # Only objects without a perfect mask get more clicks.
        wrong = np.flatnonzero([not np.array_equal(*pair) for pair in zip(truth, masks, strict=True)])
        if not len(wrong):
            return
        for o in wrong:
            x, y, label = next_click(truth[o], masks[o])
            result.points[o, k], result.labels[o, k] = (x, y), label
        answer = _ask(
            predictor,
            truth[wrong],
            multimask_output=k == 0,
            points=result.points[wrong, : k + 1],
            labels=result.labels[wrong, : k + 1],
            logits=logits[torch.from_numpy(wrong)] if feed_back and logits is not None else None,
        )
        masks[wrong], result.ious[wrong, k] = answer.masks, answer.ious
        result.scores[wrong, k:] = answer.scores[:, None]
        if logits is None:
            logits, result.best_of_three[wrong] = answer.logits, answer.best
        else:
            logits[torch.from_numpy(wrong)] = answer.logits


@dataclass(frozen=True)
class _Answer:
    """Masks of B objects with the highest predicted IoU."""

    masks: NDArray[np.bool_]  # (B, H, W)
    ious: NDArray[np.float64]  # (B,)
    best: NDArray[np.float64]  # (B,) maximum IoU of all predicted masks
    scores: NDArray[np.float64]  # (B,)
    logits: Tensor  # (B, 1, 4h, 4h) in [-32, 32], on the device


def _ask(
    predictor: "SAM2ImagePredictor",
    truth: NDArray[np.bool_],
    *,
    multimask_output: bool,
    points: NDArray[np.int64] | None = None,
    labels: NDArray[np.int64] | None = None,
    box: NDArray[np.float32] | None = None,
    logits: Tensor | None = None,
) -> _Answer:
    """Predicts masks for one prompt, in pixels of the image, for each object of ``truth``, bool ``(B, H, W)``."""
    mask, coords, types, corners = predictor._prep_prompts(points, labels, box, logits, normalize_coords=True)
    predicted, scores, low_res = predictor._predict(coords, types, corners, mask, multimask_output)
    if not scores.isfinite().all():
        raise ValueError("the model's scores are not finite: its weights are damaged, or the dtype is too narrow")
    masks, rows, best = predicted.cpu().numpy(), np.arange(len(truth)), scores.argmax(dim=1).cpu().numpy()
    ious = np.array([[float(jaccard(m, true)) for m in three] for three, true in zip(masks, truth, strict=True)])
    return _Answer(
        masks=masks[rows, best],
        ious=ious[rows, best],
        best=ious.max(axis=1),
        scores=scores.cpu().double().numpy()[rows, best],
        logits=low_res[rows, best][:, None],
    )


def _size_of(predictor: "SAM2ImagePredictor", image: ImageLike | None) -> tuple[int, int]:
    """Sets the image unless it is None. Returns the (H, W) of the image."""
    if image is not None:
        predictor.set_image(image)
    if predictor._orig_hw is None or predictor._is_batch:
        raise RuntimeError("there is no single image: give one, or call set_image first")
    return predictor._orig_hw[-1]


def _batch_size(predictor: "SAM2ImagePredictor", limit: int, size: tuple[int, int]) -> int:
    if limit < 1:
        raise ValueError(f"objects_per_batch is {limit}; expected at least 1")
    return max(1, min(decoder_batch_size(limit, predictor.model), PIXELS_PER_BATCH // (size[0] * size[1])))

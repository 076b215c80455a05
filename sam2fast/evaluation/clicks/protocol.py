"""Clicks and boxes as a perfect user would give them, and how close the masks come to the true ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam2fast.amg.decoder_batch_size import prompts_per_call
from sam2fast.evaluation.clicks.depth import deepest_pixel
from sam2fast.evaluation.clicks.truths import Truths
from sam2fast.evaluation.j_and_f import jaccard
from sam2fast.prompt_inputs import noisy_boxes
from sam2fast.transforms import ImageLike

if TYPE_CHECKING:
    from sam2fast.sam2_image_predictor import SAM2ImagePredictor

# True masks: bool (O, H, W), or O times COCO's run lengths, compressed or not.
TrueMasks: TypeAlias = "NDArray[np.bool_] | Tensor | Sequence[Mapping[str, Any]]"
AT_ONCE = 32
# Pixels of the true masks of the objects that are done together; of the predicted ones there are three times as many.
PIXELS_AT_ONCE = 1 << 26
NO_CLICK = -1


@dataclass(frozen=True)
class ClickScores:
    """What became of O objects with K clicks each.

    An object whose mask is perfect gets no more clicks: its IoU stays 1, and the coordinates and labels of the clicks
    that were not needed are -1.
    """

    ious: NDArray[np.float64]  # (O, K) of the mask after each click with the true one
    best_of_three: NDArray[np.float64]  # (O,) the greatest of the three masks' after the first click
    scores: NDArray[np.float64]  # (O, K) the IoU that the model expects of the mask after each click
    points: NDArray[np.int64]  # (O, K, 2) the clicks (x, y) in pixels of the image
    labels: NDArray[np.int64]  # (O, K) 1 on the object, 0 beside it


@dataclass(frozen=True)
class BoxScores:
    """What became of O objects with a box each."""

    ious: NDArray[np.float64]  # (O,) of the mask with the true one
    scores: NDArray[np.float64]  # (O,) the IoU that the model expects
    boxes: NDArray[np.float32]  # (O, 4) XYXY in pixels of the image, inclusive


def evaluate_clicks(
    predictor: "SAM2ImagePredictor",
    image: ImageLike | None,
    masks: TrueMasks,
    clicks: int = 5,
    *,
    feed_back: bool = True,
    at_once: int = AT_ONCE,
) -> ClickScores:
    """Clicks each object until it has been clicked so many times, and compares the mask after each click.

    The first click is at the point of the object that is farthest from its outline; the model answers with three masks,
    and the one that it scores highest is taken. Each later click is at the point of the wrong regions that is farthest
    from their outline: on what was missed, or beside the object, on what was taken by mistake, whichever lies deeper.
    The model is given all clicks so far and answers with one mask. Distances are measured at the image's full size, and
    the image's edge counts as outline.

    Args:
        image: is encoded once; None for the one that is set.
        masks: the true ones, bool ``(O, H, W)`` of the image's size, or COCO's run lengths of O objects.
        clicks: of each object, at least 1.
        feed_back: from the second click on the model is also given the low-resolution logits of its mask so far.
        at_once: objects that the decoder answers together, at most.

    Raises:
        ValueError: masks of another type or size, or without a pixel; ``clicks`` or ``at_once`` below 1; the model's
            numbers are not finite.
        RuntimeError: there is no image.
        ImportError: the package scipy is not installed.
        Exception: what ``set_image`` raises.
    """
    if clicks < 1:
        raise ValueError(f"clicks is {clicks}; expected at least 1")
    truths = Truths(masks, _size_of(predictor, image))
    O = len(truths)  # noqa: E741
    found = ClickScores(
        ious=np.ones((O, clicks)),
        best_of_three=np.ones(O),
        scores=np.ones((O, clicks)),
        points=np.full((O, clicks, 2), NO_CLICK),
        labels=np.full((O, clicks), NO_CLICK),
    )
    for part, truth in truths.parts(_objects_at_once(predictor, at_once, truths.size)):
        some = ClickScores(
            found.ious[part], found.best_of_three[part], found.scores[part], found.points[part], found.labels[part]
        )
        _click_until_done(predictor, truth, some, feed_back)
    return found


def evaluate_boxes(
    predictor: "SAM2ImagePredictor",
    image: ImageLike | None,
    masks: TrueMasks,
    *,
    noise: float = 0.0,
    rng: np.random.Generator | None = None,
    at_once: int = AT_ONCE,
) -> BoxScores:
    """Gives each object's box, without clicks, and compares the one mask that the model answers with.

    Args:
        image, masks, at_once: as for :func:`evaluate_clicks`.
        noise: each side of the box is moved by up to this share of its length and 20 pixels, as in training; below 0.5.
        rng: draws the noise; by default the same one each time.

    Raises:
        ValueError, RuntimeError, Exception: as :func:`evaluate_clicks`; ``noise`` out of range.
    """
    if not 0 <= noise < 0.5:
        raise ValueError(f"noise is {noise}; expected a share from 0 to below 0.5")
    truths = Truths(masks, _size_of(predictor, image))
    O = len(truths)  # noqa: E741
    draws = torch.from_numpy((rng or np.random.default_rng(0)).random((O, 4)))
    found = BoxScores(np.ones(O), np.ones(O), np.zeros((O, 4), dtype=np.float32))
    for part, truth in truths.parts(_objects_at_once(predictor, at_once, truths.size)):
        found.boxes[part] = noisy_boxes(torch.from_numpy(truth)[:, None], draws[part], noise).numpy()
        answer = _ask(predictor, truth, box=found.boxes[part], multimask_output=False)
        found.ious[part], found.scores[part] = answer.ious, answer.scores
    return found


def error_centre(truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> tuple[int, int, int]:
    """The next click: x, y, and 1 where the object was missed or 0 where something else was taken for it.

    It is what :func:`~sam2fast.training.prompts.sample_error_center` gives, sooner.

    Args:
        truth, predicted: ``(H, W)``; they differ somewhere.
    """
    missed, false = deepest_pixel(truth & ~predicted), deepest_pixel(predicted & ~truth)
    return (missed.x, missed.y, 1) if missed.depth > false.depth else (false.x, false.y, 0)


def _click_until_done(
    predictor: "SAM2ImagePredictor", truth: NDArray[np.bool_], found: ClickScores, feed_back: bool
) -> None:
    """Fills in the scores of the objects ``truth (B, H, W)``."""
    masks, logits = np.zeros_like(truth), None
    for k in range(found.ious.shape[1]):
        # A mask once perfect stays so: these are fewer and fewer.
        wrong = np.flatnonzero([not np.array_equal(*pair) for pair in zip(truth, masks, strict=True)])
        if not len(wrong):
            return
        for o in wrong:
            x, y, label = error_centre(truth[o], masks[o])
            found.points[o, k], found.labels[o, k] = (x, y), label
        answer = _ask(
            predictor,
            truth[wrong],
            multimask_output=k == 0,
            points=found.points[wrong, : k + 1],
            labels=found.labels[wrong, : k + 1],
            logits=logits[torch.from_numpy(wrong)] if feed_back and logits is not None else None,
        )
        masks[wrong], found.ious[wrong, k] = answer.masks, answer.ious
        found.scores[wrong, k:] = answer.scores[:, None]
        if logits is None:
            logits, found.best_of_three[wrong] = answer.logits, answer.best
        else:
            logits[torch.from_numpy(wrong)] = answer.logits


@dataclass(frozen=True)
class _Answer:
    """The best-scored masks of B objects."""

    masks: NDArray[np.bool_]  # (B, H, W)
    ious: NDArray[np.float64]  # (B,)
    best: NDArray[np.float64]  # (B,) of all masks that the model gave
    scores: NDArray[np.float64]  # (B,)
    logits: Tensor  # (B, 1, S/4, S/4) in [-32, 32], on the device


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
    """One prompt for each of the objects ``truth (B, H, W)``, in pixels of the image."""
    mask, coords, kinds, corners = predictor._prep_prompts(points, labels, box, logits, normalize_coords=True)
    found, scores, low_res = predictor._predict(coords, kinds, corners, mask, multimask_output)
    if not scores.isfinite().all():
        raise ValueError("the model's scores are not finite: its weights are damaged, or the dtype is too narrow")
    masks, rows, best = found.cpu().numpy(), torch.arange(len(truth)), scores.argmax(dim=1).cpu()
    ious = np.array([[float(jaccard(m, true)) for m in three] for three, true in zip(masks, truth, strict=True)])
    return _Answer(
        masks=masks[rows.numpy(), best.numpy()],
        ious=ious[rows.numpy(), best.numpy()],
        best=ious.max(axis=1),
        scores=scores.cpu().double().numpy()[rows.numpy(), best.numpy()],
        logits=low_res[rows.to(low_res.device), best.to(low_res.device)][:, None],
    )


def _size_of(predictor: "SAM2ImagePredictor", image: ImageLike | None) -> tuple[int, int]:
    """Of the image, which is set unless it is None."""
    if image is not None:
        predictor.set_image(image)
    if predictor._orig_hw is None or predictor._is_batch:
        raise RuntimeError("there is no single image: give one, or call set_image first")
    return predictor._orig_hw[-1]


def _objects_at_once(predictor: "SAM2ImagePredictor", limit: int, size: tuple[int, int]) -> int:
    if limit < 1:
        raise ValueError(f"at_once is {limit}; expected at least 1")
    return max(1, min(prompts_per_call(limit, predictor.model), PIXELS_AT_ONCE // (size[0] * size[1])))

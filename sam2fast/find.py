"""Finds an object of one photograph in other photographs, by image features and clicks."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from sam2fast.image_features import Features, facts_of
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.transforms import ImageLike, to_pixels

__all__ = ["Match", "Reference", "find"]

CLICKS = 8  # number of clicks per image
RELATIVE = 0.2  # minimum ratio of a result's likeness to the best likeness
OVERLAP = 0.3  # maximum overlap of two results, as a fraction of the smaller result's area
BINS = (6, 12, 12)  # numbers of bins of a colour histogram: lightness, red against green, yellow against blue
# Weights and bias of the terms of `Search`: between the fits of bench/find_pairs.py for mini and for SAM 2 tiny.
WEIGHTS, BIAS = (9.3, 2.5, 2.1, 6.3), -15.1


class Match(NamedTuple):
    """An object that :func:`find` proposes."""

    mask: np.ndarray  # (H, W) bool
    likeness: float  # likeness in [0, 1], comparable to results of the same model
    iou: float  # predicted IoU of the mask


class Reference:
    """Stores the mean features and the colours of a labelled object.

    Args:
        predictor: Predictor that encodes the image. The current image of the predictor stays set.
        image: RGB image of any type that :func:`sam2fast.transforms.to_pixels` accepts.
        mask: Mask ``(H, W)`` of the object at the image's size. Pixels above 0 are the object.
        features: Result of ``predictor.encode(image)`` to use. None encodes the image.

    Raises:
        ValueError: If the mask is empty or has another size than the image, or ``features`` come from another model.
    """

    def __init__(
        self, predictor: SAM2ImagePredictor, image: ImageLike, mask: ArrayLike, *, features: Features | None = None
    ) -> None:
        pixels, inside = to_pixels(image), torch.as_tensor(np.asarray(mask) > 0)
        if inside.shape != pixels.shape[:2]:
            size, expected = ("x".join(map(str, x.shape[:2])) for x in (inside, pixels))
            raise ValueError(f"the reference's mask is {size}, but its image {expected} (rows x columns)")
        if not inside.any():
            raise ValueError("the reference's mask is empty; expected pixels above 0 where the object is")
        embedding = _embedding(predictor, features or predictor.encode(pixels.numpy()))
        share = _resized(inside[None].float(), embedding.shape[-1])[0]
        self.mean = embedding.mean((1, 2))
        self.prototype = (embedding * share).sum((1, 2)) / share.sum()
        side = 4 * embedding.shape[-1]
        self.colours = _histograms(_colours(pixels, side), _resized(inside[None].float(), side))[0]
        self.facts = facts_of(predictor.model)


def find(
    predictor: SAM2ImagePredictor,
    reference: Reference | Sequence[Reference],
    image: ImageLike,
    most: int = 1,
    *,
    min_likeness: float = 0.0,
    features: Features | None = None,
) -> list[Match]:
    """Finds objects that look like a labelled object. Returns proposals for review, in descending order of likeness.

    Results may be other objects of the same type. If the image has no such object, a different object may be returned.

    Args:
        predictor: Predictor with the model of the references. The current image of the predictor stays set.
        reference: Labelled object, or several views of this object. The most similar view determines the likeness.
        image: RGB image of any type that :func:`sam2fast.transforms.to_pixels` accepts.
        most: Maximum number of results.
        min_likeness: Minimum likeness of a result. Good values depend on the model.
        features: Result of ``predictor.encode(image)`` to use. None encodes the image.

    Raises:
        ValueError: If there is no reference, or references or ``features`` come from another model.
    """
    references = [reference] if isinstance(reference, Reference) else list(reference)
    if not references:
        raise ValueError("there are no references; expected at least one")
    if any(one.facts != facts_of(predictor.model) for one in references):
        raise ValueError("a reference comes from another model; make it again with this predictor")
    search = Search(predictor, references, to_pixels(image), features)
    chosen = search.choose(most, min_likeness)
    masks = search.full_masks(chosen)
    matches = zip(masks, search.likeness[chosen].tolist(), search.ious[chosen].tolist(), strict=True)
    # A small mask may vanish at the size of a small image.
    return [Match(*match) for match in matches if match[0].any()]


class Search:
    """Predicts masks for clicks on the places that are most similar to the references.

    Attributes:
        masks: Low-resolution masks ``(N, 4h, 4h)``.
        ious: Predicted IoUs ``(N)``.
        terms: Terms of the likeness ``(R, N, 4)`` for R references: similarity of the mean features, similar area in
            the mask divided by similar area in and around the mask, predicted IoU, and overlap of the colours.
        likeness: Likeness ``(N)`` to the most similar reference.
    """

    def __init__(
        self,
        predictor: SAM2ImagePredictor,
        references: Sequence[Reference],
        pixels: Tensor,
        features: Features | None = None,
    ) -> None:
        features = features or predictor.encode(pixels.numpy())
        embedding = _embedding(predictor, features)
        centres = (embedding.mean((1, 2)) + torch.stack([one.mean for one in references])) / 2  # (R, C)
        prototypes = F.normalize(torch.stack([one.prototype for one in references]) - centres, dim=1)
        centred = embedding - centres[..., None, None]  # (R, C, h, h)
        similarity = torch.einsum("rc,rchw->rhw", prototypes, F.normalize(centred, dim=1))
        self._predictor, self._size = predictor, (pixels.shape[0], pixels.shape[1])
        points = _peaks(similarity.amax(0)) * torch.tensor(self._size[::-1])
        prompts = points[:, None].numpy(), np.ones((CLICKS, 1))
        masks, ious, logits = predictor.predict(*prompts, features=features, output_mode="low_res")
        self.masks, self._logits = (torch.from_numpy(x).flatten(0, 1) for x in (masks, logits))
        self.ious = torch.from_numpy(ious).flatten()

        share = F.avg_pool2d(self.masks.float(), self.masks.shape[-1] // embedding.shape[-1])  # (N, h, h)
        mean = torch.einsum("nhw,rchw->rnc", share, centred)
        alike = torch.einsum("rnc,rc->rn", F.normalize(mean, dim=2), prototypes)
        around = F.max_pool2d((share > 0).float(), 7, 1, 3) - (share > 0).float()
        strong = similarity.clamp(min=0) ** 2
        inside, near = (torch.einsum("nhw,rhw->rn", x, strong) for x in (share, torch.maximum(share, around)))
        colours = _histograms(_colours(pixels, self.masks.shape[-1]), self.masks.float())
        common = torch.stack([torch.minimum(colours, one.colours).sum(1) for one in references])
        terms = alike, inside / near.clamp(min=1e-6), self.ious.expand_as(alike), common
        self.terms = torch.stack(terms, dim=2)
        self.rate(torch.tensor(WEIGHTS), BIAS)

    def rate(self, weights: Tensor, bias: float) -> None:
        """Computes the likeness from the terms."""
        self.likeness = torch.sigmoid(self.terms @ weights + bias).amax(0)

    def choose(self, most: int, min_likeness: float, relative: float = RELATIVE) -> list[int]:
        """Returns the indices of at most ``most`` masks with little overlap, in descending order of likeness."""
        chosen = list[int]()
        least, areas = max(min_likeness, relative * float(self.likeness.max())), self.masks.sum((1, 2))
        for i in self.likeness.argsort(descending=True).tolist():
            if len(chosen) == most or self.likeness[i] < least:
                break
            common = (self.masks[chosen] & self.masks[i]).sum((1, 2))
            if areas[i] and bool((common < OVERLAP * areas[chosen].clamp(max=areas[i])).all()):
                chosen.append(i)
        return chosen

    def full_masks(self, indices: Sequence[int]) -> np.ndarray:
        """Returns masks at the image's size as bool ``(len(indices), H, W)``."""
        threshold = self._predictor.mask_threshold
        logits = self._logits[list(indices)][None]
        return self._predictor._transforms.postprocess_to_bool(logits, self._size, threshold)[0].numpy()


def _embedding(predictor: SAM2ImagePredictor, features: Features) -> Tensor:
    """Returns the embedding ``(C, h, h)`` of an image in fp32 on the CPU. Raises ValueError for another model."""
    features.check(predictor.model)
    return features.tensors["image_embed"][0].float().cpu()


def _resized(masks: Tensor, side: int) -> Tensor:
    return F.interpolate(masks[None], size=(side, side), mode="area")[0]


def _peaks(similarity: Tensor) -> Tensor:
    """Returns the most similar positions ``(CLICKS, 2)``, (x, y) in [0, 1], with a distance between positions."""
    side = similarity.shape[-1]
    left = (similarity + F.avg_pool2d(similarity[None], 3, 1, 1, count_include_pad=False)[0]) / 2
    apart, points = max(2, side // 16), []
    for _ in range(CLICKS):
        y, x = divmod(int(left.argmax()), side)
        points.append(((x + 0.5) / side, (y + 0.5) / side))
        left[max(0, y - apart) : y + apart + 1, max(0, x - apart) : x + apart + 1] = -torch.inf
    return torch.tensor(points)


def _colours(pixels: Tensor, side: int) -> Tensor:
    """Returns the histogram bin ``(side, side)`` of each pixel's colour, for a histogram with ``BINS`` bins."""
    step = max(1, min(pixels.shape[:2]) // 512)
    values = pixels[::step, ::step].permute(2, 0, 1).float() / (255 if pixels.dtype == torch.uint8 else 1)
    red, green, blue = _resized(values, side)
    axes = (red + green + blue) / 3, red - green + 0.5, (red + green) / 2 - blue + 0.5
    bins = [(axis * count).long().clamp(0, count - 1) for axis, count in zip(axes, BINS, strict=True)]
    return (bins[0] * BINS[1] + bins[1]) * BINS[2] + bins[2]


def _histograms(colours: Tensor, weights: Tensor) -> Tensor:
    """Returns N smoothed histograms of ``colours`` for weights ``(N, side, side)``. Each histogram sums to 1."""
    counts = torch.zeros(len(weights), math.prod(BINS)).index_add_(1, colours.flatten(), weights.flatten(1))
    smooth = F.avg_pool3d(counts.reshape(-1, 1, *BINS), 3, 1, 1).flatten(1)
    return smooth / smooth.sum(1, keepdim=True).clamp(min=1e-6)

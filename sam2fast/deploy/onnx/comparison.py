"""Compares masks of converted graphs with masks of float32 on the package's photographs."""

from pathlib import Path

import numpy as np

from sam2fast.deploy.onnx.runtime.graphs import OnnxModel
from sam2fast.deploy.onnx.runtime.images import OnnxImagePredictor
from sam2fast.deploy.onnx.runtime.videos import OnnxVideoPredictor
from sam2fast.io.images import open_image
from sam2fast.utils.testing import mask_iou

MEDIA = Path(__file__).parents[2] / "demo" / "media"
PHOTOGRAPHS = ("coffee.jpg", "cat.jpg")
CLICKS = 5  # number of clicks along each side of a photograph
# Minimum mean and lowest IoU of an export.
MEAN, WORST = 0.98, 0.9


def compare_masks(expected: OnnxModel, actual: OnnxModel) -> dict[str, float]:
    """Returns the mean and the worst IoU of masks of two models, and the number of masks.

    The masks are masks of clicks on two photographs, and masks of two objects tracked to a moved photograph. For
    each click, the mask with the highest predicted IoU of ``expected`` is compared with the mask of the same index of
    ``actual``.
    """
    ious = []
    for name in PHOTOGRAPHS:
        pixels = np.asarray(open_image(MEDIA / name).convert("RGB"))
        (masks, scores), (others, _) = (_click(model, pixels) for model in (expected, actual))
        rows, best = np.arange(len(masks)), scores.argmax(1)
        ious += [mask_iou(a, b) for a, b in zip(masks[rows, best], others[rows, best], strict=True)]
    objects = scores.max(1).argsort()[-2:]
    prompts = masks[objects, best[objects]]
    tracked = (_track(model, pixels, prompts) for model in (expected, actual))
    ious += [mask_iou(a, b) for a, b in zip(*tracked, strict=True)]
    return {"mean": float(np.mean(ious)), "worst": min(ious), "masks": len(ious)}


def check_masks(expected: OnnxModel, actual: OnnxModel) -> dict[str, float]:
    """Compares masks of converted graphs, ``actual``, with masks of float32. Returns :func:`compare_masks`'s result.

    Raises:
        RuntimeError: If the mean IoU is below ``MEAN``, or an IoU below ``WORST``.
    """
    ious, dtype = compare_masks(expected, actual), actual.manifest.dtype
    if not (ious["mean"] >= MEAN and ious["worst"] >= WORST):
        choice = "float32" if dtype == "float16" else "float16 or float32"
        raise RuntimeError(
            f"masks of {dtype} and float32 have a mean IoU of {ious['mean']:.3f}, worst {ious['worst']:.3f}; expected "
            f"at least {MEAN}, worst {WORST}: choose dtype {choice}"
        )
    return ious


def _click(model: OnnxModel, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns masks ``(N, 3, H, W)`` and predicted IoUs ``(N, 3)`` of clicks on a grid."""
    places = (np.arange(CLICKS) + 0.5) / CLICKS
    coords = np.stack(np.meshgrid(places, places), axis=-1).reshape(-1, 1, 2)
    predictor = OnnxImagePredictor(model)
    predictor.set_image(pixels)
    masks, scores, _ = predictor.predict(coords, np.ones((len(coords), 1), np.int32), normalize_coords=False)
    return masks > 0, scores


def _track(model: OnnxModel, pixels: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Returns the masks ``(N, 1, H, W)`` of objects on the photograph moved by a sixteenth of its sides."""
    height, width = pixels.shape[:2]
    predictor = OnnxVideoPredictor(model)
    state = predictor.init_state([pixels, np.roll(pixels, (height // 16, width // 16), axis=(0, 1))])
    for i, mask in enumerate(masks):
        predictor.add_new_mask(state, 0, i, mask)
    *_, (_, _, logits) = predictor.propagate_in_video(state)
    return logits > 0

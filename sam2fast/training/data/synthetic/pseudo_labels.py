"""Pseudo-labels: objects in photographs, found by a trained model prompted with a grid of points.

    python -m sam2fast.training.data.synthetic.pseudo_labels CHECKPOINT OUT IMAGES...

writes the photographs in the folders IMAGES with their masks, see :func:`write_labelled_images`; it resumes where it
stopped.
"""

import argparse
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sam2fast.datasets.davis import FRAMES, MASKS
from sam2fast.io.images import IMAGE_READ_ERRORS, open_image, write_jpeg
from sam2fast.training.data.synthetic.media import SUFFIXES

if TYPE_CHECKING:
    from sam2fast.sam2_image_predictor import SAM2ImagePredictor

_log = logging.getLogger(__name__)

Logits = NDArray[np.float32]


class ObjectSearch(NamedTuple):
    """Which predicted masks count as objects."""

    points_per_side: int = 12  # of the grid of clicks
    least_iou: float = 0.85  # smallest predicted IoU
    least_stability: float = 0.9  # smallest IoU between the masks at the logits 1 and -1
    areas: tuple[float, float] = (0.01, 0.6)  # smallest and largest area of a mask, as shares of the image
    most_overlap: float = 0.7  # IoU above which the mask with the lower score is a duplicate
    batch: int = 16  # clicks per forward pass


OBJECTS = ObjectSearch()
# For whole images: also smaller, larger and less certain masks, since parts and surroundings are wanted too.
OBJECTS_AND_PARTS = ObjectSearch(least_iou=0.8, least_stability=0.85, areas=(0.002, 0.7), most_overlap=0.8)


def write_cutouts(
    images: Iterable[Path],
    predictor: "SAM2ImagePredictor",
    out: Path,
    search: ObjectSearch = OBJECTS,
    longest: int = 768,
) -> Iterator[tuple[Path, int]]:
    """Writes the objects that a model finds in photographs as RGBA files ``out/cutouts/NAME_NN.png``.

    Args:
        images: photographs; unreadable ones are skipped with a warning.
        predictor: the model.
        out: a media folder, see :class:`~sam2fast.training.data.synthetic.media.Media`.
        longest: largest side in pixels; larger images are scaled down.

    Yields:
        The path of each image after its cut-outs are written, and their number.
    """
    folder = out / "cutouts"
    folder.mkdir(parents=True, exist_ok=True)
    for path in images:
        image = _open(path, longest)
        found = [] if image is None else _find_objects(image, predictor, search)
        for number, alpha in enumerate(found):
            assert image is not None
            cutout = image.copy()
            cutout.putalpha(Image.fromarray(alpha))
            # Cropped to its opaque pixels: faint specks may lie anywhere.
            box = Image.fromarray(alpha > 127).getbbox()
            cutout.crop(box).save(folder / f"{path.name.replace('.', '_')}_{number:02d}.png")
        yield path, len(found)


def write_labelled_images(
    images: Iterable[Path],
    predictor: "SAM2ImagePredictor",
    out: Path,
    search: ObjectSearch = OBJECTS_AND_PARTS,
    longest: int = 512,
) -> Iterator[tuple[Path, int]]:
    """Writes photographs with the masks of the objects, and parts of objects, that a model finds in them.

    They are videos of one frame in the layout with one folder per object, since masks may overlap:
    ``out/JPEGImages/NAME/00000.jpg`` and ``out/Annotations/NAME/000/00000.png``. Photographs
    that exist already, cannot be read or have no objects are skipped. Arguments and result are those of
    :func:`write_cutouts`.
    """
    for path in images:
        name = path.name.replace(".", "_")
        frame = out / FRAMES / name / "00000.jpg"
        image = None if frame.exists() else _open(path, longest)
        found = [] if image is None else _find_objects(image, predictor, search)
        for number, alpha in enumerate(found):
            file = out / MASKS / name / f"{number:03d}" / "00000.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(alpha > 127).save(file)
        if image is not None and found:
            # Last: the frame marks the masks as complete.
            frame.parent.mkdir(parents=True, exist_ok=True)
            partial = frame.with_suffix(".partial")
            write_jpeg(image, partial, quality=92)
            partial.rename(frame)
        yield path, len(found)


def _open(path: Path, longest: int) -> Image.Image | None:
    """A photograph, upright and scaled down; None, with a warning, if it cannot be read."""
    try:
        with open_image(path) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except IMAGE_READ_ERRORS as error:
        _log.warning("%s is left out: %s", path, error)
        return None
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return image


def _find_objects(image: Image.Image, predictor: "SAM2ImagePredictor", search: ObjectSearch) -> list[NDArray[np.uint8]]:
    """Alpha ``(H, W)`` of each object, best first."""
    predictor.set_image(np.asarray(image))
    found, scores = [], []
    for points in _grid(image.size, search.points_per_side, search.batch):
        labels = np.ones(points.shape[:2], dtype=np.int32)
        logits, ious, _ = predictor.predict(points, labels, multimask_output=True, return_logits=True)
        # The result of a single click has no batch dimension.
        for mask, iou in zip(logits.reshape(-1, *logits.shape[-2:]), ious.reshape(-1), strict=True):
            if iou <= search.least_iou:
                continue
            share = float((mask > 0).mean())
            if search.areas[0] <= share <= search.areas[1] and _stability(mask) > search.least_stability:
                found.append(_opacity(mask))
                scores.append(float(iou))
    return [found[index] for index in _distinct(found, scores, search.most_overlap)]


def _grid(size: tuple[int, int], points_per_side: int, batch: int) -> Iterator[NDArray[np.float32]]:
    """Clicks ``(B, 1, 2)`` in pixels on a regular grid over an image of ``size`` (width, height)."""
    steps = (np.arange(points_per_side, dtype=np.float32) + 0.5) / points_per_side
    points = np.stack(np.meshgrid(steps * size[0], steps * size[1]), axis=2).reshape(-1, 1, 2).astype(np.float32)
    for start in range(0, len(points), batch):
        yield points[start : start + batch]


def _stability(logits: Logits) -> float:
    """IoU of the masks at the logits 1 and -1; the first lies within the second."""
    return float((logits > 1).sum() / max(1, (logits > -1).sum()))


def _opacity(logits: Logits) -> NDArray[np.uint8]:
    """Alpha ``(H, W)``: opaque where the model is certain, half at the mask threshold."""
    alpha = np.round(255 / (1 + np.exp(-2 * np.clip(logits, -10, 10))))
    return np.where(alpha < 8, 0, alpha).astype(np.uint8)


def _distinct(masks: list[NDArray[np.uint8]], scores: list[float], most_overlap: float) -> list[int]:
    """Indices of the masks, best first, without duplicates of better ones."""
    kept: list[int] = []
    for index in np.argsort(scores)[::-1].tolist():
        mask = masks[index] > 127
        others = (masks[other] > 127 for other in kept)
        if all((mask & other).sum() <= most_overlap * (mask | other).sum() for other in others):
            kept.append(index)
    return kept


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--model", default="sam2_hiera_t", help="the checkpoint's configuration")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--points-per-side", type=int, default=9)
    options = parser.parse_args(arguments)
    files = (path for folder in options.images for path in sorted(folder.rglob("*")))
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not images:
        parser.error(f"no photographs ({', '.join(SUFFIXES)}) in {', '.join(map(str, options.images))}")

    from sam2fast.build_sam import build_sam2
    from sam2fast.sam2_image_predictor import SAM2ImagePredictor

    predictor = SAM2ImagePredictor(build_sam2(options.model, options.checkpoint, device=options.device))
    search = OBJECTS_AND_PARTS._replace(points_per_side=options.points_per_side)
    for path, count in write_labelled_images(images, predictor, options.out, search):
        print(f"{path}: {count}", flush=True)


if __name__ == "__main__":
    main()

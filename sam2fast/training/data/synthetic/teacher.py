"""The objects of photographs, found by a trained model that is asked about a grid of points.

    python -m sam2fast.training.data.synthetic.teacher CHECKPOINT OUT IMAGES...

writes the photographs in the folders IMAGES with their masks, see :func:`teach_pictures`; it goes on where it stopped.
"""

import argparse
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sam2fast.datasets.davis import FRAMES, MASKS
from sam2fast.io.images import UNREADABLE, open_picture, write_jpeg
from sam2fast.training.data.synthetic.media import SUFFIXES

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


class Search(NamedTuple):
    """Which answers of the model count as objects."""

    points_per_side: int = 12  # of the grid of single clicks
    least_iou: float = 0.85  # of a mask's predicted IoU
    least_stability: float = 0.9  # of the IoU between the masks at the logits 1 and -1
    areas: tuple[float, float] = (0.01, 0.6)  # of a mask, as shares of the picture
    most_overlap: float = 0.7  # IoU from which the lower scored of two masks is a duplicate
    batch: int = 16  # clicks answered at once


THINGS = Search()
# For whole pictures also smaller and larger things, and less sure ones: parts and surroundings are wanted too.
EVERYTHING = Search(least_iou=0.8, least_stability=0.85, areas=(0.002, 0.7), most_overlap=0.8)


def teach_cutouts(
    images: Iterable[Path], predictor: Predictor, out: Path, search: Search = THINGS, longest: int = 768
) -> Iterator[tuple[Path, int]]:
    """Writes the objects that a model finds in photographs as RGBA files ``out/cutouts/NAME_NN.png``.

    Args:
        images: photographs; those that cannot be read are reported and skipped.
        predictor: of the model.
        out: a media folder, see :class:`~sam2fast.training.data.synthetic.media.Media`.
        longest: side that larger pictures are scaled down to.

    Yields:
        Each picture, once its cut-outs are written, and their number.
    """
    folder = out / "cutouts"
    folder.mkdir(parents=True, exist_ok=True)
    for path in images:
        picture = _open(path, longest)
        found = [] if picture is None else _find_objects(picture, predictor, search)
        for number, alpha in enumerate(found):
            assert picture is not None
            cutout = picture.copy()
            cutout.putalpha(Image.fromarray(alpha))
            # Cropped to what is opaque: faint specks may lie anywhere.
            box = Image.fromarray(alpha > 127).getbbox()
            cutout.crop(box).save(folder / f"{path.name.replace('.', '_')}_{number:02d}.png")
        yield path, len(found)


def teach_pictures(
    images: Iterable[Path], predictor: Predictor, out: Path, search: Search = EVERYTHING, longest: int = 512
) -> Iterator[tuple[Path, int]]:
    """Writes photographs with the masks of the objects that a model finds in them, wholes and parts alike.

    They are videos of one frame in the layout with one folder per object, since masks may overlap:
    ``out/JPEGImages/NAME/00000.jpg`` and ``out/Annotations/NAME/000/00000.png``. Photographs that are there already,
    that cannot be read or that have no objects are passed over. Arguments and result as for :func:`teach_cutouts`.
    """
    for path in images:
        name = path.name.replace(".", "_")
        frame = out / FRAMES / name / "00000.jpg"
        picture = None if frame.exists() else _open(path, longest)
        found = [] if picture is None else _find_objects(picture, predictor, search)
        for number, alpha in enumerate(found):
            file = out / MASKS / name / f"{number:03d}" / "00000.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(alpha > 127).save(file)
        if picture is not None and found:
            # Last, since it tells that the masks are complete.
            frame.parent.mkdir(parents=True, exist_ok=True)
            partial = frame.with_suffix(".partial")
            write_jpeg(picture, partial, quality=92)
            partial.rename(frame)
        yield path, len(found)


def _open(path: Path, longest: int) -> Image.Image | None:
    """An upright photograph, scaled down; None, with a warning, if it cannot be read."""
    try:
        with open_picture(path) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
    except UNREADABLE as error:
        _log.warning("%s is left out: %s", path, error)
        return None
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return picture


def _find_objects(picture: Image.Image, predictor: Predictor, search: Search) -> list[NDArray[np.uint8]]:
    """Alpha ``(H, W)`` of each object, best first."""
    predictor.set_image(np.asarray(picture))
    found, scores = [], []
    for points in _grid(picture.size, search.points_per_side, search.batch):
        labels = np.ones(points.shape[:2], dtype=np.int32)
        logits, ious, _ = predictor.predict(points, labels, multimask_output=True, return_logits=True)
        # One click alone comes without a batch dimension.
        for mask, iou in zip(logits.reshape(-1, *logits.shape[-2:]), ious.reshape(-1), strict=True):
            if iou <= search.least_iou:
                continue
            share = float((mask > 0).mean())
            if search.areas[0] <= share <= search.areas[1] and _stability(mask) > search.least_stability:
                found.append(_opacity(mask))
                scores.append(float(iou))
    return [found[index] for index in _distinct(found, scores, search.most_overlap)]


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
    search = EVERYTHING._replace(points_per_side=options.points_per_side)
    for path, count in teach_pictures(images, predictor, options.out, search):
        print(f"{path}: {count}", flush=True)


if __name__ == "__main__":
    main()

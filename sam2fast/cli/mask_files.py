"""Reads masks for prompts from image files: bright pixels, opaque pixels, or one label of a label image."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ImageOps

from sam2fast.cli.prompts import mask_file
from sam2fast.cli.user_errors import USER_ERRORS, UserError, print_note
from sam2fast.datasets.dataset_files import Labels, labels_in, read_labels
from sam2fast.evaluation.scores import VOID
from sam2fast.io.image_files import image_format, read_if_pillow_fails
from sam2fast.io.images import IMAGE_READ_ERRORS, open_image

INEXACT = ("JPEG", "MPO", "WEBP")  # suffixes of lossy formats
# An image with more levels is a soft mask: dark pixels are background, bright pixels are the object.
MOST_LEVELS = 32
# Share of equal neighbours from which pixels between background and object are further labels instead of a soft edge.
LEAST_INSIDE = 1 / 3
MOST_NAMED = 8


def masks_of_labels(file: Path) -> dict[int, Path]:
    """Returns ``FILE:LABEL`` by label, ascending, for all labels of a palette or grey image except 0."""
    labels = labels_in(_labels(file))
    if not labels:
        raise UserError(f"the label image {file} is empty: all of its pixels are 0")
    if VOID in labels and len(labels) > 1:
        print_note(f"{file}: {VOID} becomes an object; if it marks void pixels, choose labels, as {file}:{labels[0]}")
    return {label: Path(f"{file}:{label}") for label in labels}


def read_foreground(mask: Path) -> NDArray[np.bool_]:
    """Reads a mask as bool ``(H, W)``.

    Foreground pixels are brighter than half of the brightest pixel, so 0/1, 0/255 and soft masks work. If the image has
    transparent pixels, the opaque pixels are the foreground.

    Args:
        mask: Image of a mask, or ``FILE:LABEL`` for one label of a label image.

    Raises:
        FixableError: If the image cannot be read, is empty, has several objects, or has different masks in its colours
            and in alpha.
    """
    file, label = mask_file(mask)
    if label is not None:
        labels = _labels(file)
        if label not in labels_in(labels):
            raise UserError(f"{file} has no label {label}; it has {_named(labels_in(labels))}")
        return labels == label
    try:
        pixels, alpha, is_exact = _pixels(file)
    except IMAGE_READ_ERRORS as error:
        raise UserError(f"the mask {file} cannot be read as an image: {' '.join(str(error).split())}") from error
    if alpha is not None and alpha.min() < alpha.max():
        opaque = alpha > alpha.max() / 2
        shown = pixels[opaque].max(axis=1) > 0
        if not shown.all() and shown.any() and len(np.unique(pixels[opaque][shown], axis=0)) == 1:
            raise UserError(f"{file} has a mask in its colours and another one in alpha; save it without alpha")
        pixels = alpha[..., None]
    if not pixels.any():
        raise UserError(f"the mask {file} is empty: all of its pixels are black")
    if _has_several_objects(pixels, is_exact):
        raise UserError(f"{file} has several objects or levels; {_advice(file)}")
    brightness = pixels.max(axis=2)
    return brightness > brightness.max() / 2


def _pixels(file: Path) -> tuple[np.ndarray, np.ndarray | None, bool]:
    """Returns the pixels ``(H, W, C)``, the alpha channel ``(H, W)`` or None, and True for a lossless format."""
    stored = read_if_pillow_fails(file)
    if stored is not None:
        values = np.nan_to_num(stored.values).clip(0)
        values = values.max() - values if stored.is_negative else values
        return values if values.ndim == 3 else values[..., None], None, True
    with open_image(file) as opened:
        image, is_exact = ImageOps.exif_transpose(opened) or opened, opened.format not in INEXACT
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            return np.nan_to_num(np.asarray(image)).clip(0)[..., None], None, is_exact
        if not image.has_transparency_data:
            return np.asarray(image.convert("RGB")), None, is_exact
        image = image.convert("LA") if image.mode == "La" else image  # Pillow cannot convert La to RGBA
        pixels = np.asarray(image.convert("RGBA"))
        return pixels[..., :3], pixels[..., 3], is_exact


def _has_several_objects(pixels: np.ndarray, is_exact: bool) -> bool:
    """Returns True if the image shows more than one object. Soft edges of a mask do not count as objects."""
    pixels = pixels.astype(np.float32)
    brightness = pixels.max(axis=2)
    most = brightness.max()
    values = pixels @ np.array([1, 256, 65536][: pixels.shape[2]], dtype=np.float32)  # a number for each colour
    bright, counts = np.unique(values[brightness > most / 2], return_counts=True)
    margin = 0 if is_exact and len(np.unique(brightness)) <= MOST_LEVELS else most / 8
    of_object = pixels[values == bright[counts.argmax()]][0]
    others = (brightness > margin) & (np.abs(pixels - of_object).max(axis=2) > margin)
    inside = others.copy()
    same_rows, same_columns = values[1:] == values[:-1], values[:, 1:] == values[:, :-1]
    for part, same in (
        (inside[1:], same_rows),
        (inside[:-1], same_rows),
        (inside[:, 1:], same_columns),
        (inside[:, :-1], same_columns),
    ):
        part &= same
    return bool(inside.sum() >= max(LEAST_INSIDE * others.sum(), 1))


def _advice(file: Path) -> str:
    try:
        labels = labels_in(_labels(file))
    except USER_ERRORS:
        return "save one of them in white on black, or all as a palette or grey image of labels"
    return f"choose one, as {file}:{labels[0]} ({_named(labels)}), take all by --masks, or save one in white on black"


def _labels(file: Path) -> Labels:
    with suppress(*IMAGE_READ_ERRORS):  # reading the labels raises these errors again
        if image_format(file) == "JPEG":
            raise UserError(f"{file} has no exact labels, since JPEG changes values; save labels as PNG")
    return read_labels(file)


def _named(labels: Iterable[int]) -> str:
    names = [str(label) for label in labels]
    return ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")

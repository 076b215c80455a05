"""Masks as Label Studio's brush labels: its run lengths, tasks and labelling interface."""

from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

# The format of https://github.com/HumanSignal/label-studio-sdk (converter/brush.py): the number of values, the bits of
# a value, and of the lengths of runs in four sizes, each less one where it cannot be 0; then the runs. Values are those
# of RGBA images.
CHANNELS = 4
VALUE_BITS = 8
LENGTH_BITS = np.array([3, 4, 8, 16])
HEADER = [(32, 0), (5, VALUE_BITS - 1), *((4, bits - 1) for bits in LENGTH_BITS.tolist())]
LONGEST = 1 << int(LENGTH_BITS[-1])
FILES_ADDRESS = "/data/local-files/?d="  # below the root of Label Studio's local files


def brush_run_lengths(mask: np.ndarray) -> list[int]:
    """The bytes of a bool mask ``(H, W)`` as run lengths, row by row; white and opaque where the object is."""
    pixels = mask.ravel()
    begins = np.flatnonzero(np.append(True, pixels[1:] != pixels[:-1]))
    values = pixels[begins] * np.int64(255)
    lengths = np.diff(begins, append=pixels.size) * CHANNELS
    # Runs that are too long are split.
    pieces = -(-lengths // LONGEST)
    last = np.cumsum(pieces) - 1
    rests = lengths - (pieces - 1) * LONGEST
    values, lengths = np.repeat(values, pieces), np.full(pieces.sum(), LONGEST)
    lengths[last] = rests

    kinds = np.searchsorted(1 << LENGTH_BITS, lengths)  # the first in which the length fits
    # The bit of a run, the kind of its length, the length, the value.
    words = (((4 + kinds) << LENGTH_BITS[kinds]) + lengths - 1 << VALUE_BITS) + values
    sizes = 3 + LENGTH_BITS[kinds] + VALUE_BITS
    head_sizes, head = np.array(HEADER).T
    head[0] = pixels.size * CHANNELS
    return np.packbits(_bits(np.append(head, words), np.append(head_sizes, sizes))).tolist()


def _bits(words: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The lowest bits of each word, the highest first."""
    shifts = np.repeat(np.cumsum(sizes), sizes) - np.arange(sizes.sum()) - 1
    return (np.repeat(words, sizes) >> shifts & 1).astype(np.uint8)


def label_studio_task(image: str, objects: Iterable[tuple[np.ndarray, str, float]]) -> dict[str, Any]:
    """A task with its prediction.

    Args:
        image: the path of its file below the root of Label Studio's local files.
        objects: the mask, bool ``(H, W)``, the class and the score of each.
    """
    result = [
        {
            "type": "brushlabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": mask.shape[1],
            "original_height": mask.shape[0],
            "image_rotation": 0,
            "value": {"format": "rle", "rle": brush_run_lengths(mask), "brushlabels": [label]},
            "score": score,
        }
        for mask, label, score in objects
    ]
    prediction = {"model_version": "sam2fast", "result": result}
    return {"data": {"image": FILES_ADDRESS + quote(image)}, "predictions": [prediction]}


def label_studio_interface(classes: Sequence[str]) -> str:
    """The labelling interface for these tasks, in XML."""
    labels = "".join(f"    <Label value={quoteattr(label)}/>\n" for label in classes)
    tags = f'  <BrushLabels name="label" toName="image">\n{labels}  </BrushLabels>\n'
    return f'<View>\n  <Image name="image" value="$image"/>\n{tags}</View>\n'

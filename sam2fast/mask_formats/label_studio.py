"""Masks as Label Studio's brush labels: its run lengths, tasks and labelling interface."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

import numpy as np

from sam2fast.io.overlay import area_of
from sam2fast.io.rle import encode_rle
from sam2fast.mask_formats.polygons import largest_ring

# The format of https://github.com/HumanSignal/label-studio-sdk (converter/brush.py): the number of values, the bits of
# a value, and of the lengths of runs in four sizes, each less one where it cannot be 0; then the runs. Values are those
# of RGBA images.
CHANNELS = 4
VALUE_BITS = 8
LENGTH_BITS = np.array([3, 4, 8, 16])
HEADER = [(32, 0), (5, VALUE_BITS - 1), *((4, bits - 1) for bits in LENGTH_BITS.tolist())]
LONGEST = 1 << int(LENGTH_BITS[-1])
ROUNDING = 1e-3  # of a frame
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
    """Returns a task with its prediction, from mask, class and score of each object. ``image`` is relative to the root
    of Label Studio's files.
    """
    control = Control("BrushLabels", "label", "image", "image", [])
    result = [image_region(control, mask, label, score) for mask, label, score in objects]
    prediction = {
        "model_version": "sam2fast",
        "result": result,
        "score": min((one["score"] for one in result), default=0),
    }
    return {"data": {"image": FILES_ADDRESS + quote(image)}, "predictions": [prediction]}


class Control(NamedTuple):
    """A tag of a labelling interface that labels an image or a video."""

    tag: str  # "BrushLabels"
    name: str
    to_name: str  # the name of the image or video
    data: str  # the key of its address in a task's data
    labels: list[str]


def controls_of(interface: str) -> list[Control]:
    """The tags of a labelling interface that label an image or a video. Raises ValueError if it is no XML."""
    try:
        tags = list(ElementTree.fromstring(interface).iter())  # noqa: S314  expat bounds what entities expand to
    except ElementTree.ParseError as error:
        raise ValueError(f"the labelling interface is no XML: {error}") from error
    shown = {tag.get("name"): tag.get("value", "").removeprefix("$") for tag in tags if tag.tag in ("Image", "Video")}
    return [
        Control(tag.tag, tag.get("name", ""), of, shown[of], [_label_of(one) for one in tag.iter("Label")])
        for tag in tags
        if (of := tag.get("toName", "")) in shown
    ]


def _label_of(tag: ElementTree.Element) -> str:
    return str(tag.get("alias") or tag.get("value"))


def find_control(controls: Iterable[Control], to_name: str, tags: Sequence[str], label: str | None = None) -> Control:
    """The first control of ``to_name`` with one of these tags and the label. Raises ValueError if there is none."""
    found = [control for control in controls if control.to_name == to_name and control.tag in tags]
    if not found:
        raise ValueError(f"the labelling interface has no {' or '.join(tags)} for {to_name!r}")
    for control in found:
        if label is None or label in control.labels:
            return control
    raise ValueError(f"{found[0].tag} {found[0].name!r} has no label {label!r}")


def image_region(
    control: Control, mask: np.ndarray, label: str, score: float, tolerance: float = 1.0
) -> dict[str, Any]:
    """A mask, bool ``(H, W)``, as a region of BrushLabels or, the outline of its largest part, of PolygonLabels.

    Raises:
        ValueError: If the mask is empty, and the control has polygons.
        ImportError: If shapely is not installed, the control has polygons, and the tolerance, in pixels, is not 0.
    """
    kind = control.tag.lower()
    if kind == "brushlabels":
        value: dict[str, Any] = {"format": "rle", "rle": brush_run_lengths(mask)}
    else:
        value = {"points": outline(mask, tolerance), "closed": True}
    return {
        "type": kind,
        "from_name": control.name,
        "to_name": control.to_name,
        "original_width": mask.shape[1],
        "original_height": mask.shape[0],
        "image_rotation": 0,
        "value": value | {kind: [label]},
        "score": score,
    }


def outline(mask: np.ndarray, tolerance: float = 1.0) -> list[list[float]]:
    """The outline of a mask's largest part, without holes: points (x, y) in percent of the width and height."""
    if not mask.any():
        raise ValueError("no object is found there; an empty mask has no outline")
    height, width = mask.shape
    return (largest_ring(encode_rle(mask), tolerance) * (100 / width, 100 / height)).tolist()


def box_around(mask: np.ndarray) -> dict[str, float]:
    """The box around a mask that is not empty, as of a rectangle: in percent of the width and height."""
    area = area_of(mask)
    assert area is not None
    (top, bottom), (left, right) = (
        (side.start * 100 / of, side.stop * 100 / of) for side, of in zip(area, mask.shape, strict=True)
    )
    return {"x": left, "y": top, "width": right - left, "height": bottom - top, "rotation": 0}


def vector_around(mask: np.ndarray) -> dict[str, Any]:
    """The :func:`outline` of a mask as of a vector."""
    points = outline(mask)
    names = [f"v{i}" for i in range(len(points))]
    linked = zip(points, names, [None, *names], strict=False)
    return {"closed": True, "vertices": [{"x": x, "y": y, "id": i, "prevPointId": last} for (x, y), i, last in linked]}


def corners_of(rectangle: Mapping[str, Any], width: int, height: int) -> list[float]:
    """A rectangle of Label Studio, in percent, as a box XYXY in pixels. Raises ValueError if it is rotated."""
    if rectangle.get("rotation"):
        raise ValueError("a rectangle is rotated; draw it upright")
    x, y = rectangle["x"] * width / 100, rectangle["y"] * height / 100
    return [x, y, x + rectangle["width"] * width / 100, y + rectangle["height"] * height / 100]


def keyframes(
    given: Sequence[Mapping[str, Any]], frames: range, found: Mapping[int, Mapping[str, Any]], seconds: float
) -> list[dict[str, Any]]:
    """Returns the given keyframes, and geometry found on ``frames``, which count from 1 and last ``seconds`` each.

    The region is hidden on frames without geometry.
    """
    keys = [dict(key) for key in given]
    for frame in frames:
        if frame in found:
            keys.append({"frame": frame, "time": (frame - 1) * seconds, "enabled": True, **found[frame]})
        elif keys:
            keys[-1]["enabled"] = False  # from the next frame on
    return keys


@dataclass(frozen=True)
class ShownFrames:
    """Label Studio's frames of a video, whose rate, that of the tag ``Video``, may be another than the video's."""

    frames: int
    seconds: float  # of a frame
    video_rate: float | None  # frames per second of the video, if known
    video_frames: int

    def video_index(self, frame: int) -> int:
        """The number in the video, from 0, of a frame that counts from 1. Raises ValueError if there is none."""
        if not 1 <= frame <= self.frames:
            raise ValueError(f"frame {frame} is not in this video, which has frames 1 to {self.frames}")
        ratio = self.seconds * (self.video_rate or 0)
        if not ratio or abs(ratio - 1) * self.frames <= 1:  # a difference of one frame at the end is rounding
            ratio = 1
        return min(int((frame - 1) * ratio + ROUNDING), self.video_frames - 1)


def label_studio_interface(classes: Sequence[str]) -> str:
    """The labelling interface for these tasks, in XML."""
    labels = "".join(f"    <Label value={quoteattr(label)}/>\n" for label in classes)
    tags = f'  <BrushLabels name="label" toName="image">\n{labels}  </BrushLabels>\n'
    return f'<View>\n  <Image name="image" value="$image"/>\n{tags}</View>\n'

"""Converts masks to Label Studio's brush labels: run lengths, tasks and labelling interface."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

import numpy as np

from sam2fast.io.overlay import area_of
from sam2fast.io.rle import encode_rle
from sam2fast.results.polygons import largest_ring

# Run lengths of RGBA values in the format of https://github.com/HumanSignal/label-studio-sdk (converter/brush.py). The
# header contains the number of values, the number of bits of a value minus 1, and four numbers of bits for lengths of
# runs, each minus 1. After the header, each run stores its length minus 1.
CHANNELS = 4
VALUE_BITS = 8
LENGTH_BITS = np.array([3, 4, 8, 16])
HEADER = [(32, 0), (5, VALUE_BITS - 1), *((4, bits - 1) for bits in LENGTH_BITS.tolist())]
LONGEST = 1 << int(LENGTH_BITS[-1])
ROUNDING = 1e-3  # tolerance of times, in frames
FILES_ADDRESS = "/data/local-files/?d="  # prefix of paths below the root of Label Studio's local files


def brush_run_lengths(mask: np.ndarray) -> list[int]:
    """Returns the bytes of row-major run lengths of a bool mask ``(H, W)``, stored as an RGBA image.

    Foreground is opaque white, and background is transparent black.
    """
    pixels = mask.ravel()
    begins = np.flatnonzero(np.append(True, pixels[1:] != pixels[:-1]))
    values = pixels[begins] * np.int64(255)
    lengths = np.diff(begins, append=pixels.size) * CHANNELS
    # Splits runs longer than LONGEST.
    pieces = -(-lengths // LONGEST)
    last = np.cumsum(pieces) - 1
    rests = lengths - (pieces - 1) * LONGEST
    values, lengths = np.repeat(values, pieces), np.full(pieces.sum(), LONGEST)
    lengths[last] = rests

    classes = np.searchsorted(1 << LENGTH_BITS, lengths)  # index of the smallest number of bits that stores the length
    # A word consists of a bit 1 (for a run), two bits for the class, the length - 1, and the value.
    words = (((4 + classes) << LENGTH_BITS[classes]) + lengths - 1 << VALUE_BITS) + values
    sizes = 3 + LENGTH_BITS[classes] + VALUE_BITS
    head_sizes, head = np.array(HEADER).T
    head[0] = pixels.size * CHANNELS
    return np.packbits(_bits(np.append(head, words), np.append(head_sizes, sizes))).tolist()


def _bits(words: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Returns the lowest ``sizes[i]`` bits of each word, most significant bit first."""
    shifts = np.repeat(np.cumsum(sizes), sizes) - np.arange(sizes.sum()) - 1
    return (np.repeat(words, sizes) >> shifts & 1).astype(np.uint8)


def label_studio_task(image: str, objects: Iterable[tuple[np.ndarray, str, float]]) -> dict[str, Any]:
    """Returns a task for an image, with a prediction of objects.

    Args:
        image: Path of the image, relative to the root of Label Studio's local files.
        objects: Mask, class and score of each object.
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
    """Stores a tag of a labelling interface that labels an image or a video."""

    tag: str  # name of the tag, such as "BrushLabels"
    name: str
    to_name: str  # name of the tag of the image or video
    data: str  # key of a task's data that stores the address of the image or video
    labels: list[str]


def controls_of(interface: str) -> list[Control]:
    """Returns the tags of an interface that label images or videos. Raises ValueError if the interface is not XML."""
    try:
        tags = list(ElementTree.fromstring(interface).iter())  # noqa: S314  expat limits the expansion of entities
    except ElementTree.ParseError as error:
        raise ValueError(f"the labelling interface is not XML: {error}") from error
    shown = {tag.get("name"): tag.get("value", "").removeprefix("$") for tag in tags if tag.tag in ("Image", "Video")}
    return [
        Control(tag.tag, tag.get("name", ""), of, shown[of], [_label_of(one) for one in tag.iter("Label")])
        for tag in tags
        if (of := tag.get("toName", "")) in shown
    ]


def _label_of(tag: ElementTree.Element) -> str:
    return str(tag.get("alias") or tag.get("value"))


def find_control(controls: Iterable[Control], to_name: str, tags: Sequence[str], label: str | None = None) -> Control:
    """Returns the first control of ``to_name`` with a tag in ``tags`` and with ``label``, or raises ValueError."""
    candidates = [control for control in controls if control.to_name == to_name and control.tag in tags]
    if not candidates:
        raise ValueError(f"the labelling interface has no {' or '.join(tags)} for {to_name!r}")
    for control in candidates:
        if label is None or label in control.labels:
            return control
    raise ValueError(f"{candidates[0].tag} {candidates[0].name!r} has no label {label!r}")


def image_region(
    control: Control, mask: np.ndarray, label: str, score: float, tolerance: float = 1.0
) -> dict[str, Any]:
    """Returns a region of a bool mask ``(H, W)``: pixels for BrushLabels, or the :func:`outline` for PolygonLabels.

    Args:
        tolerance: Tolerance of the outline in pixels, as in :func:`~sam2fast.results.polygons.polygons_of`.

    Raises:
        ValueError: If the mask is empty, and the control has polygons.
        ImportError: If shapely is not installed, the control has polygons, and the tolerance is not 0.
    """
    region_type = control.tag.lower()
    if region_type == "brushlabels":
        value: dict[str, Any] = {"format": "rle", "rle": brush_run_lengths(mask)}
    else:
        value = {"points": outline(mask, tolerance), "closed": True}
    return {
        "type": region_type,
        "from_name": control.name,
        "to_name": control.to_name,
        "original_width": mask.shape[1],
        "original_height": mask.shape[0],
        "image_rotation": 0,
        "value": value | {region_type: [label]},
        "score": score,
    }


def outline(mask: np.ndarray, tolerance: float = 1.0) -> list[list[float]]:
    """Returns the outline of a mask's largest part without holes: points (x, y) in percent of width and height."""
    if not mask.any():
        raise ValueError("no object was found, and an empty mask has no outline")
    height, width = mask.shape
    return (largest_ring(encode_rle(mask), tolerance) * (100 / width, 100 / height)).tolist()


def box_around(mask: np.ndarray) -> dict[str, float]:
    """Returns the bounding box of a non-empty mask as a rectangle, in percent of width and height."""
    area = area_of(mask)
    assert area is not None
    (top, bottom), (left, right) = (
        (side.start * 100 / of, side.stop * 100 / of) for side, of in zip(area, mask.shape, strict=True)
    )
    return {"x": left, "y": top, "width": right - left, "height": bottom - top, "rotation": 0}


def vector_around(mask: np.ndarray) -> dict[str, Any]:
    """Returns the :func:`outline` of a mask as Label Studio's vector."""
    points = outline(mask)
    names = [f"v{i}" for i in range(len(points))]
    linked = zip(points, names, [None, *names], strict=False)
    return {"closed": True, "vertices": [{"x": x, "y": y, "id": i, "prevPointId": last} for (x, y), i, last in linked]}


def corners_of(rectangle: Mapping[str, Any], width: int, height: int) -> list[float]:
    """Converts a rectangle in percent to a box XYXY in pixels. Raises ValueError if the rectangle is rotated."""
    if rectangle.get("rotation"):
        raise ValueError("rotated rectangles are not supported; draw an unrotated rectangle")
    x, y = rectangle["x"] * width / 100, rectangle["y"] * height / 100
    return [x, y, x + rectangle["width"] * width / 100, y + rectangle["height"] * height / 100]


def keyframes(
    prompts: Sequence[Mapping[str, Any]], frames: range, shapes: Mapping[int, Mapping[str, Any]], seconds: float
) -> list[dict[str, Any]]:
    """Returns keyframes of a region: ``prompts``, followed by a keyframe for each of ``frames`` that has a shape.

    The region is hidden on frames without a shape.

    Args:
        prompts: Keyframes that are kept.
        frames: Numbers of frames from 1.
        shapes: Geometry of the region, by number of the frame.
        seconds: Duration of a frame.
    """
    keys = [dict(key) for key in prompts]
    for frame in frames:
        if frame in shapes:
            keys.append({"frame": frame, "time": (frame - 1) * seconds, "enabled": True, **shapes[frame]})
        elif keys:
            keys[-1]["enabled"] = False  # the region is hidden after this keyframe
    return keys


@dataclass(frozen=True)
class ShownFrames:
    """Maps Label Studio's frames to frames of a video, since the tag ``Video`` may have another frame rate."""

    frames: int  # number of Label Studio's frames
    seconds: float  # duration of a frame
    video_rate: float | None  # frames per second of the video, or None if unknown
    video_frames: int  # number of frames of the video

    def video_index(self, frame: int) -> int:
        """Converts Label Studio's frame (from 1) to a video frame (from 0). Raises ValueError for unknown frames."""
        if not 1 <= frame <= self.frames:
            raise ValueError(f"frame {frame} is not in this video, which has frames 1 to {self.frames}")
        ratio = self.seconds * (self.video_rate or 0)
        if not ratio or abs(ratio - 1) * self.frames <= 1:  # at the end, rounding may cause a difference of one frame
            ratio = 1
        return min(int((frame - 1) * ratio + ROUNDING), self.video_frames - 1)


def label_studio_interface(classes: Sequence[str]) -> str:
    """Returns the XML of the labelling interface for :func:`label_studio_task`."""
    labels = "".join(f"    <Label value={quoteattr(label)}/>\n" for label in classes)
    tags = f'  <BrushLabels name="label" toName="image">\n{labels}  </BrushLabels>\n'
    return f'<View>\n  <Image name="image" value="$image"/>\n{tags}</View>\n'

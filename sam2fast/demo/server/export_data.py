"""The data that downloads are made of: a video's frames, and masks of its objects."""

import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sam2fast.demo.server.alpha import HARD, Edges, MaskWithLogits, alpha_of
from sam2fast.demo.server.clean_masks import clean_masks
from sam2fast.demo.server.frame_masks import ObjectMask
from sam2fast.demo.server.jobs import Report, ignore_progress
from sam2fast.demo.server.library import UploadSource
from sam2fast.demo.server.source_masks import FrameMaskTable, Logits, MatchedLogits, resize_masks
from sam2fast.demo.server.transcode import source_frames
from sam2fast.demo.server.video_files import iterate_frames, pixel_aspect_of
from sam2fast.io.overlay import Colour
from sam2fast.io.rle import decode_rle
from sam2fast.results.image_writers import TOLERANCE

DEFAULT_RATE = 24.0

# The colours of objects in overlays. Source: the official demo; the page has the same table in
# ``frontend/src/scene/scene.ts``.
COLOURS: tuple[Colour, ...] = (
    (0x38, 0x80, 0xF3),
    (0xF0, 0xAA, 0x19),
    (0x00, 0xD2, 0xBE),
    (0x28, 0xD2, 0x32),
    (0x87, 0x73, 0xFF),
    (0x00, 0xC8, 0xF0),
    (0xFA, 0x87, 0x19),
    (0xE6, 0x19, 0x3B),
    (0xFA, 0x7D, 0xC8),
)


class Quality(NamedTuple):
    """The CRF of x264 and VP9, lower is better."""

    x264: int
    vp9: int


HIGH = Quality(18, 24)  # of videos that are edited further
QUALITIES = {"high": HIGH, "smaller": Quality(26, 36)}


class ExportData(NamedTuple):
    """A copy of a session's data that does not change while a file is made of it.

    Attributes:
        file: the video's file.
        frames: number of frames.
        size: (H, W).
        rate: frames per second.
        masks: masks by frame, in order, and by object.
        names: names of objects by id, in their order; empty for numbers in the order of the ids.
        labels: class labels of objects by id; not of all.
        listed: the page's list of classes, whose order numbers them; other labels follow.
        source: what the video was made of, if frames are read from there; ``size`` is that of its frames.
        quality: of videos in MP4 and WebM.
        tolerance: of polygons: their largest distance from the masks' outlines, in pixels.
        edges: outlines of cut-outs and mattes.
        logits: what masks were made of, for mattes.
        first: the source's number of the first frame.
        report: receives the share of the file that is made, and may cancel it.
    """

    file: Path
    frames: int
    size: tuple[int, int]
    rate: float | None
    masks: Mapping[int, Mapping[int, ObjectMask]]
    names: Mapping[int, str] = MappingProxyType({})
    labels: Mapping[int, str] = MappingProxyType({})
    listed: Sequence[str] = ()
    source: UploadSource | None = None
    quality: Quality = HIGH
    tolerance: float = TOLERANCE
    edges: Edges = HARD
    logits: MatchedLogits = MappingProxyType({})
    first: int = 0
    report: Report = ignore_progress

    @property
    def stem(self) -> str:
        """The beginning of file names; that of an upload is a long hash, of which 16 digits are enough."""
        stem = self.file.stem
        return stem[:16] if re.fullmatch(r"[0-9a-f]{64}", stem) else stem

    @property
    def objects(self) -> list[int]:
        """All object ids, in the order of ``names`` or sorted."""
        return list(self.names) or sorted({object_id for masks in self.masks.values() for object_id in masks})

    @property
    def steady_rate(self) -> Fraction:
        """Frames per second."""
        return Fraction(self.rate or DEFAULT_RATE).limit_denominator(1001)

    def name_of(self, object_id: int) -> str:
        """The name of an object."""
        return self.names.get(object_id, f"Object {object_id}")

    def class_of(self, object_id: int) -> str:
        """The class label of an object; one without a label is a class of its own."""
        return self.labels.get(object_id) or self.name_of(object_id)

    @property
    def classes(self) -> list[str]:
        """The listed classes, then other class labels in the order of the objects."""
        return list(dict.fromkeys([*self.listed, *map(self.class_of, self.objects)]))

    def at_source(self, source: UploadSource, logits: Logits) -> "ExportData":
        """The same at the source's size."""
        size = source.made.size
        resized = self._changed(lambda masks, report: resize_masks(masks, logits, size, report))
        return resized._replace(source=source, size=size)

    def cleaned(self, limits: Mapping[int, float]) -> "ExportData":
        """The same without specks and small holes: see :func:`~sam2fast.demo.server.clean_masks.clean_masks`."""
        return self._changed(lambda masks, report: clean_masks(masks, limits, report)) if limits else self

    def _changed(self, change: Callable[[FrameMaskTable, Report], FrameMaskTable]) -> "ExportData":
        """The same with changed masks; the change is the first tenth of the progress."""
        report = self.report
        masks = change(self.masks, lambda share: report(0.1 * share))
        return self._replace(masks=masks, report=lambda share: report(0.1 + 0.9 * share))

    def images(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """All frames ``(H, W, 3)`` in order with their indices; reports the progress."""
        images = iterate_frames(self.file) if self.source is None else enumerate(source_frames(*self.source))
        for frame, image in images:
            self.report(frame / self.frames)
            if frame < self.frames:  # of a source that changed
                yield frame, image

    def alpha(self, frame: int, image: NDArray[np.uint8], objects: Container[int] | None = None) -> NDArray[np.uint8]:
        """The alpha ``(H, W)`` of objects, by default of all, on a frame with its image."""
        logits = self.logits.get(frame, {})
        masks = self.masks.get(frame, {}).items()
        parts = (
            MaskWithLogits(decode_rle(mask.rle), logits.get(i)) for i, mask in masks if objects is None or i in objects
        )
        return alpha_of(parts, self.edges, image)

    @property
    def pixel_aspect(self) -> Fraction:
        """Width of a pixel divided by its height; those of sources are made square."""
        return pixel_aspect_of(self.file) if self.source is None else Fraction(1)


def safe_name(name: str) -> str:
    """A name of a client without characters that file systems refuse; may be empty."""
    clean = re.sub(r'[\x00-\x1f\x7f\ud800-\udfff<>:"|?*/\\]', "_", name).strip(". ")[-100:]
    return clean.encode()[-200:].decode(errors="ignore")  # file systems take 255 bytes


def object_colour(object_id: int) -> Colour:
    """The colour of an object; object 1 has the first."""
    return COLOURS[(object_id - 1) % len(COLOURS)]

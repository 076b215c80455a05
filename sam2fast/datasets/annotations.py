"""The annotations of one video, whatever layout they come from."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sam2fast.datasets.errors import DatasetError
from sam2fast.datasets.segmentations import run_lengths_of
from sam2fast.io.rle import RLE

# Run lengths by object. One that is not there was not annotated; one that was looked for and not seen has no pixel.
Masks: TypeAlias = Mapping[int, RLE]


@dataclass(frozen=True)
class VideoAnnotations:
    """Masks of a video, read frame by frame when they are asked for.

    Attributes:
        name: of the video.
        size: (H, W) of its masks.
        frames: names of the annotated frames, as files have them without their suffix, in order.
        objects: ids of all objects, from 1. Layouts that count from 0 have one less.
        facts: what else the source says, by the layout that has a place for it, as JSON has it.
    """

    name: str
    size: tuple[int, int]
    frames: tuple[str, ...]
    objects: tuple[int, ...]
    facts: Mapping[str, Any]
    read: Callable[[str], Masks] = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        """Names become names of files, wherever they come from.

        Raises:
            DatasetError: one is none, or a name or id is there twice.
        """
        for name in (self.name, *self.frames):
            if not name or name.startswith(".") or "/" in name or "\\" in name or "\0" in name:
                raise DatasetError(f"{name!r} of video {self.name!r} cannot be the name of a file")
        for what, values in (("frame", self.frames), ("object", self.objects)):
            if len(set(values)) != len(values):
                raise DatasetError(f"{self.name}: a {what} is there twice")
        if any(number < 1 for number in self.objects):
            raise DatasetError(f"{self.name}: ids of objects must be 1 or more, got {min(self.objects)}")

    def masks(self, frame: str) -> Masks:
        """The masks of an annotated frame.

        Raises:
            DatasetError: a file of it is missing or cannot be read, or a mask is damaged or of another size.
        """
        masks = self.read(frame)
        for number, rle in masks.items():
            where = f"{self.name}, frame {frame}, object {number}"
            if not isinstance(rle, Mapping) or not isinstance(rle.get("counts"), str):
                raise DatasetError(f"{where}: a mask must have compressed run lengths, got {str(rle)[:60]}")
            run_lengths_of(rle, self.size, where)
        return masks

    def __iter__(self) -> Iterator[tuple[str, Masks]]:
        """The frames' names with their masks, one frame in memory at a time."""
        for frame in self.frames:
            yield frame, self.masks(frame)


def first_difference(one: VideoAnnotations, other: VideoAnnotations) -> str | None:
    """What two videos' annotations differ in first, facts included; None if they are equal.

    Raises:
        DatasetError: a mask cannot be read.
    """
    for what in ("size", "frames", "objects", "facts"):
        if getattr(one, what) != getattr(other, what):
            return f"the {what} of {one.name}: {getattr(one, what)} and {getattr(other, what)}"
    for (frame, masks), (_, others) in zip(one, other, strict=True):
        for number in one.objects:
            if masks.get(number) != others.get(number):
                return f"the mask of object {number} in frame {frame} of {one.name}"
    return None

"""Annotations of one video in any layout, and the metadata file for values that a layout has no field for."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from sam2fast.datasets.dataset_files import DatasetError, read_json
from sam2fast.datasets.segmentations import run_lengths_of
from sam2fast.io.rle import RLE

# Run lengths by object id. Objects that were not annotated have no entry. Invisible objects have empty masks.
Masks: TypeAlias = Mapping[int, RLE]
FOLDER = "Facts"  # folder of the metadata files


@dataclass(frozen=True)
class VideoAnnotations:
    """Masks of a video, read lazily, frame by frame.

    Raises :class:`DatasetError` if a name is not a file name, or a name or id occurs twice. Access to masks raises
    :class:`DatasetError` if a file is missing or unreadable, or a mask is damaged or has another size.

    Attributes:
        name: name of the video.
        size: (H, W) of the video's masks.
        frames: names of the annotated frames, without suffix, in order.
        objects: ids of all objects, from 1. Layouts that count from 0 store ids minus 1.
        facts: further metadata of the source as JSON values, by the layout that has a field for it.
    """

    name: str
    size: tuple[int, int]
    frames: tuple[str, ...]
    objects: tuple[int, ...]
    facts: Mapping[str, Any]
    read: Callable[[str], Masks] = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in (self.name, *self.frames):
            if not name or name.startswith(".") or "/" in name or "\\" in name or "\0" in name:
                raise DatasetError(f"{name!r} of video {self.name!r} cannot be the name of a file")
        for what, values in (("frame", self.frames), ("object", self.objects)):
            if len(set(values)) != len(values):
                raise DatasetError(f"{self.name}: a {what} occurs twice")
        if any(number < 1 for number in self.objects):
            raise DatasetError(f"{self.name}: ids of objects must be 1 or more, got {min(self.objects)}")

    def masks(self, frame: str) -> Masks:
        """Returns the masks of an annotated frame."""
        masks = self.read(frame)
        for number, rle in masks.items():
            where = f"{self.name}, frame {frame}, object {number}"
            if not isinstance(rle, Mapping) or not isinstance(rle.get("counts"), str):
                raise DatasetError(f"{where}: a mask must have compressed run lengths, got {str(rle)[:60]}")
            run_lengths_of(rle, self.size, where)
        return masks

    def __iter__(self) -> Iterator[tuple[str, Masks]]:
        """Yields each frame's name and masks. One frame is in memory at a time."""
        for frame in self.frames:
            yield frame, self.masks(frame)


def first_difference(one: VideoAnnotations, other: VideoAnnotations) -> str | None:
    """Returns the first difference between two videos' annotations and metadata, or None if they are equal."""
    for what in ("size", "frames", "objects", "facts"):
        if getattr(one, what) != getattr(other, what):
            return f"the {what} of {one.name}: {getattr(one, what)} and {getattr(other, what)}"
    for (frame, masks), (_, others) in zip(one, other, strict=True):
        for number in one.objects:
            if masks.get(number) != others.get(number):
                return f"the mask of object {number} in frame {frame} of {one.name}"
    return None


@dataclass(frozen=True)
class Metadata:
    """Values that a layout has no field for, stored in a JSON file in addition to the masks of each video.

    Attributes:
        size, frames, objects, facts: see :class:`VideoAnnotations`.
        unannotated: objects that were not annotated, by frame, for layouts that cannot store this.
        numbers: palette index of each object with an index that differs from its id.
        meta: entry of the video in ``meta.json`` of YouTube-VOS.
    """

    size: tuple[int, int]
    frames: tuple[str, ...]
    objects: tuple[int, ...]
    facts: Mapping[str, Any]
    unannotated: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    numbers: Mapping[int, int] = field(default_factory=dict)
    meta: Any = None

    @classmethod
    def of(cls, video: VideoAnnotations, **more: Any) -> "Metadata":
        return cls(video.size, video.frames, video.objects, video.facts, **more)

    def content(self) -> dict[str, Any]:
        """Returns a dictionary for JSON, without empty fields."""
        content: dict[str, Any] = {
            "size": list(self.size),
            "frames": list(self.frames),
            "objects": list(self.objects),
            "facts": dict(self.facts),
        }
        if self.unannotated:
            content["unannotated"] = {frame: list(numbers) for frame, numbers in self.unannotated.items()}
        if self.numbers:
            content["numbers"] = {str(number): index for number, index in self.numbers.items()}
        if self.meta is not None:
            content["meta"] = self.meta
        return content

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.content()) + "\n", encoding="utf-8")

    @classmethod
    def parse(cls, content: Any, where: str) -> "Metadata":
        """Inverts :meth:`content`. Raises :class:`DatasetError` with a message that begins with ``where``."""
        try:
            height, width = (int(side) for side in content["size"])
            return cls(
                (height, width),
                tuple(str(name) for name in content["frames"]),
                tuple(int(number) for number in content["objects"]),
                dict(content["facts"]),
                {str(k): tuple(int(i) for i in v) for k, v in content.get("unannotated", {}).items()},
                {int(k): int(v) for k, v in content.get("numbers", {}).items()},
                content.get("meta"),
            )
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise DatasetError(
                f"{where}: expected size, frames, objects and facts of a video, and {type(error).__name__}: {error}"
            ) from error


def metadata_file(root: Path, name: str) -> Path:
    """Returns the path of a video's metadata file."""
    return root / FOLDER / f"{name}.json"


def read_metadata(root: Path, name: str) -> Metadata | None:
    """Reads the metadata of a video. Returns None without a file, as in data sets that were not converted."""
    path = metadata_file(root, name)
    return Metadata.parse(read_json(path), str(path)) if path.is_file() else None

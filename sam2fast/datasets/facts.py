"""What a layout has no place for: a small JSON file beside the masks of each video."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sam2fast.datasets.annotations import VideoAnnotations
from sam2fast.datasets.errors import DatasetError
from sam2fast.datasets.files import read_json

FOLDER = "Facts"


@dataclass(frozen=True)
class Facts:
    """The content of such a file.

    Attributes:
        size, frames, objects, facts: of :class:`~sam2fast.datasets.annotations.VideoAnnotations`.
        unannotated: of a layout that cannot say so, the objects by frame that were not annotated there.
        numbers: in palette pictures, the index of each object that is not its id.
        meta: the video's entry in ``meta.json`` of YouTube-VOS.
    """

    size: tuple[int, int]
    frames: tuple[str, ...]
    objects: tuple[int, ...]
    facts: Mapping[str, Any]
    unannotated: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    numbers: Mapping[int, int] = field(default_factory=dict)
    meta: Any = None

    @classmethod
    def of(cls, video: VideoAnnotations, **more: Any) -> "Facts":
        return cls(video.size, video.frames, video.objects, video.facts, **more)

    def content(self) -> dict[str, Any]:
        """As JSON has it, without what is empty."""
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
        """Writes the file."""
        path.write_text(json.dumps(self.content()) + "\n", encoding="utf-8")

    @classmethod
    def parse(cls, content: Any, where: str) -> "Facts":
        """The same back.

        Raises:
            DatasetError: the content is something else; the message begins with ``where``.
        """
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


def facts_file(root: Path, name: str) -> Path:
    """Where the facts of a video lie."""
    return root / FOLDER / f"{name}.json"


def read_facts(root: Path, name: str) -> Facts | None:
    """The facts of a video; None if there is no such file, as in data sets that were not converted.

    Raises:
        DatasetError: it is damaged.
    """
    path = facts_file(root, name)
    return Facts.parse(read_json(path), str(path)) if path.is_file() else None

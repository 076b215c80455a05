"""The layout of YouTube-VOS: DAVIS's, masks of every fifth frame, and ``meta.json`` with the objects' categories."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from sam2fast.datasets.annotations import VideoAnnotations
from sam2fast.datasets.davis import MASKS, Davis
from sam2fast.datasets.errors import DatasetError
from sam2fast.datasets.facts import read_facts
from sam2fast.datasets.files import FrameKey, list_folders, read_json
from sam2fast.io.atomic import moved_to

META = "meta.json"
CATEGORY = "object"  # of objects that have none


@dataclass(frozen=True)
class YouTubeVOS(Davis):
    """See :class:`~sam2fast.datasets.layout.Layout`."""

    name: ClassVar[str] = "ytvos"

    def videos(self) -> list[str]:
        folders = {path.name for path in list_folders(self._below(MASKS), f"{MASKS}/<video>/<frame>.png")}
        return sorted(folders | self._entries().keys())

    def finish(self) -> None:
        """Writes ``meta.json`` with the entries of all videos."""
        if not (self.root / MASKS).is_dir():
            return
        entries = dict(self._entries()) if (self.root / META).is_file() else {}
        for folder in list_folders(self.root / MASKS, "the masks that were written"):
            facts = read_facts(self.root, folder.name)
            if facts is not None:
                entries[folder.name] = facts.meta
        text = json.dumps({"videos": dict(sorted(entries.items()))}, indent=1) + "\n"
        # One name for all processes, so that what one that was killed has left does not stay.
        with moved_to(self.root / META, self.root / f".{META}.part") as partial:
            partial.write_text(text, encoding="utf-8")

    def _entries(self) -> dict[str, Any]:
        path = self.root / META
        try:
            state = path.stat()
        except OSError as error:
            raise DatasetError(f"{path}: {error.strerror or error}") from error
        return _videos_in(path, state.st_mtime_ns, state.st_size)

    def _entry(self, name: str) -> Any:
        entries = self._entries()
        if name not in entries:
            raise DatasetError(f"{self.root / META} does not have the video {name}")
        return entries[name]

    def _objects(self, name: str, files: Mapping[FrameKey, Path], size: tuple[int, int]) -> tuple[int, ...]:
        objects = _objects_of(self._entry(name))
        if objects is None:
            raise DatasetError(f'{self.root / META}, video {name}: expected "objects" by their ids, such as "1"')
        return objects

    def _facts(self, name: str, files: Mapping[FrameKey, Path]) -> dict[str, Any]:
        return {**super()._facts(name, files), "ytvos": self._entry(name)}

    def _meta(self, video: VideoAnnotations, seen: Mapping[int, list[str]]) -> Any:
        """The entry that the video came with; else the frames that show each object."""
        if "ytvos" in video.facts:
            return video.facts["ytvos"]
        return {"objects": {str(i): {"category": CATEGORY, "frames": frames} for i, frames in seen.items()}}


@lru_cache(maxsize=2)  # it is asked for with every video, and may be large
def _videos_in(path: Path, changed: int, size: int) -> dict[str, Any]:
    content = read_json(path)
    videos = content.get("videos") if isinstance(content, dict) else None
    if not isinstance(videos, dict):
        raise DatasetError(f'{path}: expected {{"videos": {{<video>: {{"objects": ...}}}}}}')
    return videos


def _objects_of(entry: Any) -> tuple[int, ...] | None:
    objects = entry.get("objects") if isinstance(entry, dict) else None
    if not isinstance(objects, dict) or not all(number.isdecimal() and int(number) for number in objects):
        return None
    return tuple(int(number) for number in objects)

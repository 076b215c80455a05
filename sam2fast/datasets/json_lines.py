"""Layout with one JSON lines file per video, ``<video>.jsonl``: a line about the video, then one line per frame.

The first line has ``format``, ``version``, ``video`` and the keys of
:class:`~sam2fast.datasets.annotations.Metadata`. Each other line has ``frame`` (its number), ``name`` and ``objects``,
a list of ``id`` and ``rle`` (COCO's compressed run lengths). ``<video>/masks.jsonl`` of ``sam2fast track``, without the
first line, can also be read.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sam2fast.datasets.annotations import Masks, Metadata, VideoAnnotations
from sam2fast.datasets.dataset_files import VIDEO_SUFFIXES, DatasetError
from sam2fast.datasets.frame_files import FrameFiles
from sam2fast.datasets.layout import Layout, StagingFolder, Written
from sam2fast.datasets.sav_json import DIGITS
from sam2fast.results.object_numbers import object_numbers
from sam2fast.results.record import complete_lines

FORMAT, VERSION = "sam2fast masks", 1
SUFFIX, TRACKED, FRAMES = ".jsonl", "masks.jsonl", "JPEGImages"


@dataclass(frozen=True)
class JsonLines(Layout):
    """See :class:`~sam2fast.datasets.layout.Layout`."""

    name: ClassVar[str] = "coco-jsonl"
    frames_folder: ClassVar[str] = FRAMES
    first_id: ClassVar[int] = 1
    keeps_videos: ClassVar[bool] = True

    def videos(self) -> list[str]:
        if not self.root.is_dir():
            raise DatasetError(f"{self.root} is not a folder; expected <video>{SUFFIX} in it")
        files = [path for path in self.root.glob(f"*{SUFFIX}") if not path.name.startswith(".")]
        names = {self._own_name() if path.name == TRACKED else path.stem for path in files}
        return sorted({*names, *(path.parent.name for path in self.root.glob(f"*/{TRACKED}"))})

    def frame_files(self, name: str) -> FrameFiles:
        return FrameFiles.find(
            [self.root / FRAMES / name], [self.root / f"{name}{suffix}" for suffix in VIDEO_SUFFIXES]
        )

    def masks_at(self, name: str) -> Path:
        path, tracked = self.root / f"{name}{SUFFIX}", self.root / TRACKED
        if not path.is_file() and name == self._own_name() and tracked.is_file():
            path = tracked
        return path if path.is_file() else self.root / name / TRACKED

    def open(self, name: str) -> VideoAnnotations:
        return open_lines(self.masks_at(name), name)

    def _own_name(self) -> str:
        """Returns the name of the video with results that ``sam2fast track`` wrote to the folder itself."""
        return os.path.basename(os.path.abspath(self.root))

    def write(self, video: VideoAnnotations, stage: StagingFolder) -> Written:
        path = f"{video.name}{SUFFIX}"
        header = {"format": FORMAT, "version": VERSION, "video": video.name, **Metadata.of(video).content()}
        with stage.file(path).open("w", encoding="utf-8") as file:
            file.write(json.dumps(header) + "\n")
            for position, (frame, masks) in enumerate(video):
                entries = [{"id": number, "rle": masks[number]} for number in video.objects if number in masks]
                number = int(frame) if frame.isdecimal() else position
                file.write(json.dumps({"frame": number, "name": frame, "objects": entries}) + "\n")
        return Written([path], {})


def open_lines(path: Path, name: str) -> VideoAnnotations:
    """Opens annotations in JSON lines, read lazily. Raises DatasetError for missing, invalid or truncated files."""
    offsets: dict[str, int] = {}
    order: dict[str, int] = {}
    header: Metadata | None = None
    found = _Found()
    for offset, where, content in _lines(path):
        if offset == 0 and "format" in content:
            if content["format"] != FORMAT or content.get("version") != VERSION:
                raise DatasetError(f'{where}: expected "format": "{FORMAT}" and "version": {VERSION}')
            header = Metadata.parse(content, where)
            continue
        if not isinstance(content.get("frame"), int) or not isinstance(content.get("objects"), list):
            raise DatasetError(f'{where}: expected "frame" and "objects" of a frame')
        frame = str(content.get("name", f"{content['frame']:0{DIGITS}d}"))
        if frame in offsets:
            raise DatasetError(f"{where}: frame {frame} was in an earlier line")
        offsets[frame], order[frame] = offset, content["frame"]
        if header is None:
            found.add(content, where)
    if header is None:
        header = found.metadata(sorted(offsets, key=order.__getitem__), str(path))
    elif list(header.frames) != list(offsets):
        missing = [frame for frame in header.frames if frame not in offsets]
        raise DatasetError(
            f"{path}: the first line lists {len(header.frames)} frames, the others have {len(offsets)}; "
            f"{f'frame {missing[0]} is missing' if missing else 'their names or order differ'}"
        )
    numbers = found.numbers or {number: number for number in header.objects}

    def read(frame: str) -> Masks:
        with path.open("rb") as file:
            file.seek(offsets[frame])
            line = file.readline()
        try:
            entries = json.loads(line)["objects"]
            return {numbers[entry["id"]]: entry["rle"] for entry in entries if entry["rle"] is not None}
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"{path}, frame {frame}: {type(error).__name__}: {error}") from error

    return VideoAnnotations(name, header.size, header.frames, header.objects, header.facts, read)


def _lines(path: Path) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    """Yields offset, name for messages, and content of each line. An incomplete last line is skipped."""
    try:
        for offset, line, where in complete_lines(path):
            try:
                content = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DatasetError(f"{where}, is not JSON: {error}") from error
            if not isinstance(content, dict):
                raise DatasetError(f"{where}, is not a JSON object")
            yield offset, where, content
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error


class _Found:
    """Collects metadata from a file without a first line about the video."""

    def __init__(self) -> None:
        self._ids: dict[Any, None] = {}
        self._size: tuple[int, int] | None = None

    def add(self, content: Mapping[str, Any], where: str) -> None:
        """Adds the line of a frame."""
        try:
            for entry in content["objects"]:
                self._ids[entry["id"]] = None
                height, width = (int(side) for side in entry["rle"]["size"])
                self._size = self._size or (height, width)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DatasetError(
                f'{where}: expected objects with "id" and "rle", {type(error).__name__}: {error}'
            ) from error

    @property
    def numbers(self) -> dict[Any, int]:
        """Returns a number for each id. See :func:`~sam2fast.results.object_numbers.object_numbers`."""
        return object_numbers(self._ids)

    def metadata(self, frames: list[str], where: str) -> Metadata:
        if self._size is None:
            raise DatasetError(f"{where} has no masks")
        renamed = {str(number): name for name, number in self.numbers.items() if number != name}
        facts = {"ids": renamed} if renamed else {}
        return Metadata(self._size, tuple(frames), tuple(sorted(self.numbers.values())), facts)

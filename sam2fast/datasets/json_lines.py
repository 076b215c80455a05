"""One file of JSON lines for each video, ``<video>.jsonl``: a line about the video, then one for each frame.

The first line has ``format``, ``version``, ``video`` and the keys of :class:`~sam2fast.datasets.facts.Facts`; each of
the others has ``frame`` (its number), ``name`` and ``objects``, a list of ``id`` and ``rle`` (COCO's compressed run
lengths). What ``sam2fast track`` writes, ``masks.jsonl``, has no first line and is read, too.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sam2fast.datasets.annotations import Masks, VideoAnnotations
from sam2fast.datasets.errors import DatasetError
from sam2fast.datasets.facts import Facts
from sam2fast.datasets.files import VIDEO_SUFFIXES
from sam2fast.datasets.frame_files import FrameFiles
from sam2fast.datasets.layout import LayoutFolder, Stage, Written
from sam2fast.datasets.sav_json import DIGITS

FORMAT, VERSION = "sam2fast masks", 1
SUFFIX, TRACKED, FRAMES = ".jsonl", "masks.jsonl", "JPEGImages"


@dataclass(frozen=True)
class JsonLines(LayoutFolder):
    """See :class:`~sam2fast.datasets.layout.Layout`. ``<video>/masks.jsonl``, which ``track`` leaves, is read, too."""

    name: ClassVar[str] = "coco-jsonl"
    frames_folder: ClassVar[str] = FRAMES
    first_id: ClassVar[int] = 1
    keeps_films: ClassVar[bool] = True

    def videos(self) -> list[str]:
        if not self.root.is_dir():
            raise DatasetError(f"{self.root} is no folder; expected <video>{SUFFIX} in it")
        files = [path.stem for path in self.root.glob(f"*{SUFFIX}") if not path.name.startswith(".")]
        return sorted({*files, *(path.parent.name for path in self.root.glob(f"*/{TRACKED}"))})

    def frame_files(self, name: str) -> FrameFiles:
        return FrameFiles.find(
            [self.root / FRAMES / name], [self.root / f"{name}{suffix}" for suffix in VIDEO_SUFFIXES]
        )

    def has(self, name: str) -> bool:
        return (self.root / f"{name}{SUFFIX}").is_file()

    def open(self, name: str) -> VideoAnnotations:
        path = self.root / f"{name}{SUFFIX}"
        return open_lines(path if path.is_file() else self.root / name / TRACKED, name)

    def write(self, video: VideoAnnotations, stage: Stage) -> Written:
        place = f"{video.name}{SUFFIX}"
        header = {"format": FORMAT, "version": VERSION, "video": video.name, **Facts.of(video).content()}
        with stage.file(place).open("w", encoding="utf-8") as file:
            file.write(json.dumps(header) + "\n")
            for position, (frame, masks) in enumerate(video):
                entries = [{"id": number, "rle": masks[number]} for number in video.objects if number in masks]
                number = int(frame) if frame.isdecimal() else position
                file.write(json.dumps({"frame": number, "name": frame, "objects": entries}) + "\n")
        return Written([place], {})


def open_lines(path: Path, name: str) -> VideoAnnotations:
    """The annotations in such a file. The masks stay on disk.

    Raises:
        DatasetError: the file is missing, is something else, or was cut short.
    """
    places: dict[str, int] = {}
    header: Facts | None = None
    found = _Found()
    for place, where, content in _lines(path):
        if place == 0 and "format" in content:
            if content["format"] != FORMAT or content.get("version") != VERSION:
                raise DatasetError(f'{where}: expected "format": "{FORMAT}" and "version": {VERSION}')
            header = Facts.parse(content, where)
            continue
        frame = _name_of(content, where)
        if frame in places:
            raise DatasetError(f"{where}: frame {frame} was in an earlier line")
        places[frame] = place
        if header is None:
            found.add(content, where)
    if header is None:
        header = found.facts(sorted(places, key=int), str(path))
    elif list(header.frames) != list(places):
        raise DatasetError(
            f"{path}: the first line tells of {len(header.frames)} frames, the others have {len(places)}"
            f"{_difference(header.frames, places)}"
        )
    numbers = found.numbers or {number: number for number in header.objects}

    def read(frame: str) -> Masks:
        with path.open("rb") as file:
            file.seek(places[frame])
            line = file.readline()
        try:
            entries = json.loads(line)["objects"]
            return {numbers[entry["id"]]: entry["rle"] for entry in entries if entry["rle"] is not None}
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"{path}, frame {frame}: {type(error).__name__}: {error}") from error

    return VideoAnnotations(name, header.size, header.frames, header.objects, header.facts, read)


def _lines(path: Path) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    """Where each whole line begins, a name for it, and its content. What an interrupted run left behind is left out."""
    try:
        with path.open("rb") as file:
            place = 0
            for count, line in enumerate(file, 1):
                where = f"{path}, line {count}"
                if line.endswith(b"\n"):
                    try:
                        content = json.loads(line)
                    except (ValueError, RecursionError) as error:
                        raise DatasetError(f"{where}, is no JSON: {error}") from error
                    if not isinstance(content, dict):
                        raise DatasetError(f"{where}, is no object of JSON")
                    yield place, where, content
                place += len(line)
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error


def _name_of(content: Mapping[str, Any], where: str) -> str:
    if not isinstance(content.get("frame"), int) or not isinstance(content.get("objects"), list):
        raise DatasetError(f'{where}: expected "frame" and "objects" of a frame')
    return str(content.get("name", f"{content['frame']:0{DIGITS}d}"))


def _difference(told: tuple[str, ...], there: Mapping[str, int]) -> str:
    missing = [frame for frame in told if frame not in there]
    return f"; frame {missing[0]} is missing" if missing else "; they are not the same"


class _Found:
    """What the lines of a file say that has no line about its video."""

    def __init__(self) -> None:
        self._ids: dict[Any, None] = {}
        self._size: tuple[int, int] | None = None

    def add(self, content: Mapping[str, Any], where: str) -> None:
        """A frame's line."""
        try:
            for entry in content["objects"]:
                self._ids[entry["id"]] = None
                height, width = (int(side) for side in entry["rle"]["size"])
                self._size = self._size or (height, width)
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(
                f'{where}: expected objects with "id" and "rle", {type(error).__name__}: {error}'
            ) from error

    @property
    def numbers(self) -> dict[Any, int]:
        """Numbers from 1 for the ids; their own, if they can be."""
        if all(isinstance(name, int) and name >= 1 for name in self._ids):
            return {name: name for name in self._ids}
        return {name: number for number, name in enumerate(self._ids, 1)}

    def facts(self, frames: list[str], where: str) -> Facts:
        if self._size is None:
            raise DatasetError(f"{where} has no masks")
        renamed = {str(number): name for name, number in self.numbers.items() if number != name}
        facts = {"ids": renamed} if renamed else {}
        return Facts(self._size, tuple(frames), tuple(sorted(self.numbers.values())), facts)

"""Layouts of DAVIS, MOSE and YouTube-VOS: one palette PNG per frame.

Files are ``JPEGImages/<video>/<frame>.jpg`` and ``Annotations/<video>/<frame>.png``. YouTube-VOS annotates every fifth
frame and adds ``meta.json`` with the categories of the objects.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam2fast.datasets.annotations import Masks, Metadata, VideoAnnotations, metadata_file, read_metadata
from sam2fast.datasets.dataset_files import (
    DatasetError,
    FrameKey,
    labels_in,
    list_files,
    list_folders,
    read_json,
    read_labels,
    read_object_ids,
)
from sam2fast.datasets.frame_files import QUALITY, FrameFiles
from sam2fast.datasets.layout import Layout, StagingFolder, Written, refuse_unknown
from sam2fast.datasets.palette_masks import masks_in, paint
from sam2fast.io.atomic import atomic_path, remove_leftovers
from sam2fast.io.label_maps import MOST_LABELS, extended, label_png, palette, palette_of, stack_masks
from sam2fast.io.made_from import are_whole, files_below, is_whole
from sam2fast.results.formats import MOST_OBJECTS
from sam2fast.results.object_numbers import id_of_text, object_numbers

MASKS, FRAMES, LISTS = "Annotations", "JPEGImages", "ImageSets"
VIDEO = "other masks of the video"  # for messages
LEVELS = ("480p", "Full-Resolution", "1080p")  # folders with the videos in DAVIS's downloads
META = "meta.json"
CATEGORY = "object"  # default category of objects


@dataclass(frozen=True)
class Davis(Layout):
    """See :class:`~sam2fast.datasets.layout.Layout`."""

    name: ClassVar[str] = "davis"
    frames_folder: ClassVar[str] = FRAMES
    first_id: ClassVar[int] = 1
    keeps_videos: ClassVar[bool] = False

    def videos(self) -> list[str]:
        return [path.name for path in list_folders(self._below(MASKS), f"{MASKS}/<video>/<frame>.png")]

    def frame_files(self, name: str) -> FrameFiles:
        return FrameFiles.find([self._below(FRAMES) / name])

    def masks_at(self, name: str) -> Path:
        return self._below(MASKS) / name

    def open(self, name: str) -> VideoAnnotations:
        folder = self.masks_at(name)
        files = list_files(folder)
        metadata = read_metadata(self.root, name)
        if metadata is not None:
            refuse_unknown(_stems(files), metadata.frames, f"{folder}, frame", metadata_file(self.root, name))
            return self._video(name, folder, files, metadata)
        if not files:
            raise DatasetError(f"{folder} has no masks: expected <frame>.png in it")
        labels = read_labels(next(iter(files.values())))
        height, width = labels.shape
        objects = self._objects(name, files, (height, width))
        return self._video(
            name, folder, files, Metadata((height, width), _stems(files), objects, self._facts(name, files))
        )

    def write(self, video: VideoAnnotations, stage: StagingFolder) -> Written:
        indices = object_numbers(video.objects, MOST_LABELS)
        colours = extended(bytes.fromhex(video.facts.get("palette", "")))
        masks_path, metadata_path = f"{MASKS}/{video.name}", metadata_file(Path(), video.name).as_posix()
        folder = stage.folder(masks_path)
        unannotated: dict[str, tuple[int, ...]] = {}
        lost: dict[str, list[int]] = {}
        seen: dict[int, list[str]] = {index: [] for index in indices.values()}
        for frame, masks in video:
            missing = tuple(number for number in video.objects if number not in masks)
            if missing:
                unannotated[frame] = missing
            if missing and not masks:
                continue
            labels, losers = paint(masks, video.size, indices, self.settings.overlaps, f"{video.name}, frame {frame}")
            if losers:
                lost[frame] = losers
            (folder / f"{frame}.png").write_bytes(label_png(labels, colours))
            for index in labels_in(labels):
                seen[index].append(frame)
        numbers = {number: index for number, index in indices.items() if number != index}
        metadata = Metadata.of(video, unannotated=unannotated, numbers=numbers, meta=self._meta(video, seen))
        metadata.write(stage.file(metadata_path))
        return Written([metadata_path, masks_path], lost, numbers)

    def _objects(self, name: str, files: Mapping[FrameKey, Path], size: tuple[int, int]) -> tuple[int, ...]:
        """Returns the object ids of a video without a metadata file: all nonzero values in the video's masks."""
        ids: set[int] = set()
        for path in files.values():
            ids.update(labels_in(read_object_ids(path, size, VIDEO)))
        return tuple(sorted(ids))

    def _facts(self, name: str, files: Mapping[FrameKey, Path]) -> dict[str, Any]:
        """Returns the ``facts`` of a video without a metadata file: a palette that differs from DAVIS's palette."""
        colours = palette_of(next(iter(files.values())))
        is_standard = colours is None or palette().tobytes().startswith(colours)
        return {} if is_standard or colours is None else {"palette": colours.hex()}

    def _meta(self, video: VideoAnnotations, seen: Mapping[int, list[str]]) -> Any:
        return None

    def _below(self, folder: str) -> Path:
        levels = [self.root / folder / level for level in LEVELS]
        return next((path for path in levels if path.is_dir()), self.root / folder)

    def _video(self, name: str, folder: Path, files: Mapping[FrameKey, Path], metadata: Metadata) -> VideoAnnotations:
        by_name = {path.stem: path for path in files.values()}
        indices = {number: metadata.numbers.get(number, number) for number in metadata.objects}

        def read(frame: str) -> Masks:
            missing = metadata.unannotated.get(frame, ())
            annotated = {number: index for number, index in indices.items() if number not in missing}
            if missing and not annotated:
                return {}
            if frame not in by_name:
                raise DatasetError(f"{folder / frame}.png is missing")
            labels = read_labels(by_name[frame], metadata.size, VIDEO)
            strange = sorted(set(labels_in(labels)) - set(annotated.values()))
            if strange:
                raise DatasetError(f"{by_name[frame]} has the index {strange[0]}, which is not an object of the video")
            return masks_in(labels, annotated)

        return VideoAnnotations(name, metadata.size, metadata.frames, metadata.objects, metadata.facts, read)


def _stems(files: Mapping[FrameKey, Path]) -> tuple[str, ...]:
    return tuple(path.stem for path in files.values())


class DavisWriter:
    """Writes clips in DAVIS's layout. A clip is complete when its folder of frames exists."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def has(self, name: str, count: int) -> bool:
        """Returns True if this clip exists with ``count`` frames and complete files."""
        return all(are_whole(files_below(self.root / folder / name), count) for folder in (FRAMES, MASKS))

    def write(self, name: str, frames: NDArray[np.uint8], masks: NDArray[np.bool_]) -> None:
        """Writes a clip and replaces leftovers of an interrupted write.

        Args:
            frames: frames ``(T, H, W, 3)`` uint8 RGB.
            masks: masks ``(T, O, H, W)`` bool. Ids are positions from 1. Where masks overlap, the larger id is written.

        Raises:
            FileExistsError: If the clip exists.
            ValueError: If there are more objects than colours in a palette.
            OSError: If a file cannot be written.
        """
        if self.has(name, len(frames)):
            raise FileExistsError(f"the clip {name} already exists in {self.root}")
        count = masks.shape[1]
        if count > MOST_OBJECTS:
            raise ValueError(f"a palette has room for {MOST_OBJECTS} objects, the clip has {count}")
        paths = f"{MASKS}/{name}", f"{FRAMES}/{name}"  # the frames come last and mark the clip as complete
        with StagingFolder(self.root, name) as stage:
            for t, (frame, objects) in enumerate(zip(frames, masks, strict=True)):
                image = stage.file(f"{paths[1]}/{t:05d}.jpg")
                Image.fromarray(frame).save(image, "JPEG", quality=QUALITY, subsampling=0)
                stage.file(f"{paths[0]}/{t:05d}.png").write_bytes(
                    label_png(stack_masks(enumerate(objects, 1), objects.shape[1:]))
                )
            stage.move(paths)

    def list_clips(self, names: list[str]) -> None:
        """Writes ``ImageSets/all.txt``."""
        file = self.root / LISTS / "all.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


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
        entries = dict(self._entries()) if is_whole(self.root / META) else {}
        for folder in list_folders(self.root / MASKS, "the masks that were written"):
            metadata = read_metadata(self.root, folder.name)
            if metadata is not None:
                entries[folder.name] = metadata.meta
        text = json.dumps({"videos": dict(sorted(entries.items()))}, indent=1) + "\n"
        remove_leftovers([self.root / META])
        with atomic_path(self.root / META) as partial:
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
        entry = self._entry(name)
        objects = entry.get("objects") if isinstance(entry, dict) else None
        numbers = map(id_of_text, objects) if isinstance(objects, dict) else ()
        ids = tuple(number for number in numbers if isinstance(number, int) and number > 0)
        if not isinstance(objects, dict) or len(ids) < len(objects):
            raise DatasetError(f'{self.root / META}, video {name}: expected "objects" by their ids, such as "1"')
        return ids

    def _facts(self, name: str, files: Mapping[FrameKey, Path]) -> dict[str, Any]:
        return {**super()._facts(name, files), "ytvos": self._entry(name)}

    def _meta(self, video: VideoAnnotations, seen: Mapping[int, list[str]]) -> Any:
        """Returns the source's entry of the video, or a new entry with the frames that show each object."""
        if "ytvos" in video.facts:
            return video.facts["ytvos"]
        return {"objects": {str(i): {"category": CATEGORY, "frames": frames} for i, frames in seen.items()}}


@lru_cache(maxsize=2)  # every video needs the content of meta.json, and the file may be large
def _videos_in(path: Path, changed: int, size: int) -> dict[str, Any]:
    content = read_json(path)
    videos = content.get("videos") if isinstance(content, dict) else None
    if not isinstance(videos, dict):
        raise DatasetError(f'{path}: expected {{"videos": {{<video>: {{"objects": ...}}}}}}')
    return videos

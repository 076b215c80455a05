"""Layout of SA-V's validation and test sets: a folder of PNGs for each object, and frames as JPEG.

Files are ``Annotations_6fps/<video>/<object>/<frame>.png`` and ``JPEGImages_24fps/<video>/<frame>.jpg``. Masks may
overlap. An object without a file for a frame was not annotated on this frame.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from sam2fast.datasets.annotations import Masks, Metadata, VideoAnnotations, metadata_file, read_metadata
from sam2fast.datasets.dataset_files import (
    DatasetError,
    FrameKey,
    frame_order,
    list_files,
    list_folders,
    object_folders,
    read_labels,
)
from sam2fast.datasets.frame_files import FrameFiles
from sam2fast.datasets.layout import Layout, StagingFolder, Written, refuse_unknown
from sam2fast.io.label_maps import label_png
from sam2fast.io.rle import decode_rle, encode_rle

VIDEO = "other masks of the video"  # for messages
MASKS, FRAMES = "Annotations_6fps", "JPEGImages_24fps"


@dataclass(frozen=True)
class ObjectFolders(Layout):
    """See :class:`~sam2fast.datasets.layout.Layout`. An object's folder is its id minus 1, in three digits."""

    name: ClassVar[str] = "sav-png"
    frames_folder: ClassVar[str] = FRAMES
    first_id: ClassVar[int] = 0
    keeps_videos: ClassVar[bool] = False

    def videos(self) -> list[str]:
        return [path.name for path in list_folders(self.root / MASKS, f"{MASKS}/<video>/<object>/<frame>.png")]

    def frame_files(self, name: str) -> FrameFiles:
        return FrameFiles.find([self.root / FRAMES / name])

    def masks_at(self, name: str) -> Path:
        return self.root / MASKS / name

    def open(self, name: str) -> VideoAnnotations:
        folder = self.masks_at(name)
        files = {number + 1: list_files(path) for number, path in object_folders(folder).items()}
        metadata = read_metadata(self.root, name)
        if metadata is None:
            metadata = self._metadata_of(folder, files)
        else:
            where = metadata_file(self.root, name)
            refuse_unknown(
                [_folder(i) for i in files], [_folder(i) for i in metadata.objects], f"{folder}, object", where
            )
            for number, masks in files.items():
                names = [path.stem for path in masks.values()]
                refuse_unknown(names, metadata.frames, f"{folder / _folder(number)}, frame", where)
        by_name = {number: {path.stem: path for path in masks.values()} for number, masks in files.items()}
        size, known = metadata.size, metadata

        def read(frame: str) -> Masks:
            paths = {number: masks[frame] for number, masks in by_name.items() if frame in masks}
            missing = sorted(set(known.objects) - paths.keys() - set(known.unannotated.get(frame, ())))
            if missing:
                raise DatasetError(f"{folder / _folder(missing[0]) / frame}.png is missing")
            return {number: encode_rle(read_labels(path, size, VIDEO)) for number, path in paths.items()}

        return VideoAnnotations(name, size, metadata.frames, metadata.objects, metadata.facts, read)

    def _metadata_of(self, folder: Path, files: Mapping[int, Mapping[FrameKey, Path]]) -> Metadata:
        """Returns the metadata of a video without a metadata file, from its masks."""
        frames: dict[FrameKey, str] = {}
        for masks in files.values():
            for key, path in masks.items():
                if frames.setdefault(key, path.stem) != path.stem:
                    raise DatasetError(f"{path}: another object has the same frame as {frames[key]}.png")
        if not frames:
            raise DatasetError(f"{folder} has no masks: expected <object>/<frame>.png in it")
        height, width = read_labels(next(path for masks in files.values() for path in masks.values())).shape
        names = tuple(frames[key] for key in sorted(frames, key=frame_order))
        objects = tuple(sorted(files))
        unannotated = {
            name: tuple(number for number in objects if key not in files[number]) for key, name in frames.items()
        }
        return Metadata((height, width), names, objects, {}, unannotated)

    def write(self, video: VideoAnnotations, stage: StagingFolder) -> Written:
        masks_path, metadata_path = f"{MASKS}/{video.name}", metadata_file(Path(), video.name).as_posix()
        stage.folder(masks_path)
        folders = {number: stage.folder(f"{masks_path}/{_folder(number)}") for number in video.objects}
        unannotated: dict[str, tuple[int, ...]] = {}
        for frame, masks in video:
            missing = tuple(number for number in video.objects if number not in masks)
            if missing:
                unannotated[frame] = missing
            for number, rle in masks.items():
                (folders[number] / f"{frame}.png").write_bytes(label_png(decode_rle(rle).view(np.uint8)))
        Metadata.of(video, unannotated=unannotated).write(stage.file(metadata_path))
        return Written([metadata_path, masks_path], {})


def _folder(number: int) -> str:
    return f"{number - 1:03d}"

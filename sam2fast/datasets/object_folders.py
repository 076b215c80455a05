"""The layout of SA-V's validation and test sets: a folder of PNGs for each object, and frames as JPEG.

``Annotations_6fps/<video>/<object>/<frame>.png`` and ``JPEGImages_24fps/<video>/<frame>.jpg``. Masks may overlap. A
frame without an object's file is one in which it was not annotated.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from sam2fast.datasets.annotations import Masks, VideoAnnotations
from sam2fast.datasets.errors import DatasetError
from sam2fast.datasets.facts import Facts, facts_file, read_facts
from sam2fast.datasets.files import FrameKey, in_order, list_files, list_folders, object_folders, read_labels
from sam2fast.datasets.frame_files import FrameFiles
from sam2fast.datasets.layout import LayoutFolder, Stage, Written, refuse_unknown
from sam2fast.datasets.palette_masks import label_png
from sam2fast.io.rle import decode_rle, encode_rle

VIDEO = "other masks of the video"  # for messages
MASKS, FRAMES = "Annotations_6fps", "JPEGImages_24fps"


@dataclass(frozen=True)
class ObjectFolders(LayoutFolder):
    """See :class:`~sam2fast.datasets.layout.Layout`. An object's folder is one less than its id, in three digits."""

    name: ClassVar[str] = "sav-png"
    frames_folder: ClassVar[str] = FRAMES
    first_id: ClassVar[int] = 0
    keeps_films: ClassVar[bool] = False

    def videos(self) -> list[str]:
        return [path.name for path in list_folders(self.root / MASKS, f"{MASKS}/<video>/<object>/<frame>.png")]

    def frame_files(self, name: str) -> FrameFiles:
        return FrameFiles.find([self.root / FRAMES / name])

    def has(self, name: str) -> bool:
        return (self.root / MASKS / name).is_dir()

    def open(self, name: str) -> VideoAnnotations:
        folder = self.root / MASKS / name
        files = {number + 1: list_files(path) for number, path in object_folders(folder).items()}
        facts = read_facts(self.root, name)
        if facts is None:
            facts = self._look(folder, files)
        else:
            where = facts_file(self.root, name)
            refuse_unknown([_folder(i) for i in files], [_folder(i) for i in facts.objects], f"{folder}, object", where)
            for number, pictures in files.items():
                found = [path.stem for path in pictures.values()]
                refuse_unknown(found, facts.frames, f"{folder / _folder(number)}, frame", where)
        by_name = {number: {path.stem: path for path in pictures.values()} for number, pictures in files.items()}
        size, known = facts.size, facts

        def read(frame: str) -> Masks:
            paths = {number: pictures[frame] for number, pictures in by_name.items() if frame in pictures}
            missing = sorted(set(known.objects) - paths.keys() - set(known.unannotated.get(frame, ())))
            if missing:
                raise DatasetError(f"{folder / _folder(missing[0]) / frame}.png is missing")
            return {number: encode_rle(read_labels(path, size, VIDEO)) for number, path in paths.items()}

        return VideoAnnotations(name, size, facts.frames, facts.objects, facts.facts, read)

    def _look(self, folder: Path, files: Mapping[int, Mapping[FrameKey, Path]]) -> Facts:
        """What the files of a video say that has no facts."""
        frames: dict[FrameKey, str] = {}
        for pictures in files.values():
            for key, path in pictures.items():
                if frames.setdefault(key, path.stem) != path.stem:
                    raise DatasetError(f"{path}: another object has the same frame as {frames[key]}.png")
        if not frames:
            raise DatasetError(f"{folder} has no masks: expected <object>/<frame>.png in it")
        height, width = read_labels(next(path for pictures in files.values() for path in pictures.values())).shape
        names = tuple(frames[key] for key in sorted(frames, key=in_order))
        objects = tuple(sorted(files))
        unannotated = {
            name: tuple(number for number in objects if key not in files[number]) for key, name in frames.items()
        }
        return Facts((height, width), names, objects, {}, unannotated)

    def write(self, video: VideoAnnotations, stage: Stage) -> Written:
        masks_place, facts_place = f"{MASKS}/{video.name}", facts_file(Path(), video.name).as_posix()
        stage.folder(masks_place)
        folders = {number: stage.folder(f"{masks_place}/{_folder(number)}") for number in video.objects}
        unannotated: dict[str, tuple[int, ...]] = {}
        for frame, masks in video:
            missing = tuple(number for number in video.objects if number not in masks)
            if missing:
                unannotated[frame] = missing
            for number, rle in masks.items():
                (folders[number] / f"{frame}.png").write_bytes(label_png(decode_rle(rle).view(np.uint8)))
        Facts.of(video, unannotated=unannotated).write(stage.file(facts_place))
        return Written([facts_place, masks_place], {})


def _folder(number: int) -> str:
    return f"{number - 1:03d}"

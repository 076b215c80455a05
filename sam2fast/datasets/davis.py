"""The layout of DAVIS and MOSE: ``JPEGImages/<video>/<frame>.jpg``, ``Annotations/<video>/<frame>.png``."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam2fast.datasets.annotations import Masks, VideoAnnotations
from sam2fast.datasets.errors import DatasetError
from sam2fast.datasets.facts import Facts, facts_file, read_facts
from sam2fast.datasets.files import FrameKey, labels_in, list_files, list_folders, read_labels
from sam2fast.datasets.frame_files import QUALITY, FrameFiles
from sam2fast.datasets.layout import LayoutFolder, Stage, Written, refuse_unknown
from sam2fast.datasets.palette_masks import (
    MOST_OBJECTS,
    extended,
    indices_of,
    label_png,
    masks_in,
    paint,
    palette,
    palette_of,
)

MASKS, FRAMES, LISTS = "Annotations", "JPEGImages", "ImageSets"
VIDEO = "other masks of the video"  # for messages
LEVELS = ("480p", "Full-Resolution", "1080p")  # between these folders and the videos, in DAVIS's own downloads


@dataclass(frozen=True)
class Davis(LayoutFolder):
    """See :class:`~sam2fast.datasets.layout.Layout`."""

    name: ClassVar[str] = "davis"
    frames_folder: ClassVar[str] = FRAMES
    first_id: ClassVar[int] = 1
    keeps_films: ClassVar[bool] = False

    def videos(self) -> list[str]:
        return [path.name for path in list_folders(self._below(MASKS), f"{MASKS}/<video>/<frame>.png")]

    def frame_files(self, name: str) -> FrameFiles:
        return FrameFiles.find([self._below(FRAMES) / name])

    def has(self, name: str) -> bool:
        return (self.root / MASKS / name).is_dir()

    def open(self, name: str) -> VideoAnnotations:
        folder = self._below(MASKS) / name
        files = list_files(folder)
        facts = read_facts(self.root, name)
        if facts is not None:
            return self._with_facts(name, folder, files, facts)
        if not files:
            raise DatasetError(f"{folder} has no masks: expected <frame>.png in it")
        labels = read_labels(next(iter(files.values())))
        height, width = labels.shape
        objects = self._objects(name, files, (height, width))
        return self._video(
            name, folder, files, Facts((height, width), _stems(files), objects, self._facts(name, files))
        )

    def write(self, video: VideoAnnotations, stage: Stage) -> Written:
        indices = indices_of(video.objects, video.name)
        colours = extended(bytes.fromhex(video.facts.get("palette", "")))
        masks_place, facts_place = f"{MASKS}/{video.name}", facts_file(Path(), video.name).as_posix()
        folder = stage.folder(masks_place)
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
        facts = Facts.of(video, unannotated=unannotated, numbers=numbers, meta=self._meta(video, seen))
        facts.write(stage.file(facts_place))
        return Written([facts_place, masks_place], lost)

    def _objects(self, name: str, files: Mapping[FrameKey, Path], size: tuple[int, int]) -> tuple[int, ...]:
        """The ids in a video without facts: those in any of its pictures."""
        found: set[int] = set()
        for path in files.values():
            found.update(labels_in(read_labels(path, size, VIDEO)))
        return tuple(sorted(found))

    def _facts(self, name: str, files: Mapping[FrameKey, Path]) -> dict[str, Any]:
        """What else a video without facts says: its colours, if they are not DAVIS's."""
        colours = palette_of(next(iter(files.values())))
        is_usual = colours is None or palette().tobytes().startswith(colours)
        return {} if is_usual or colours is None else {"palette": colours.hex()}

    def _meta(self, video: VideoAnnotations, seen: Mapping[int, list[str]]) -> Any:
        return None

    def _below(self, folder: str) -> Path:
        levels = [self.root / folder / level for level in LEVELS]
        return next((path for path in levels if path.is_dir()), self.root / folder)

    def _with_facts(self, name: str, folder: Path, files: Mapping[FrameKey, Path], facts: Facts) -> VideoAnnotations:
        refuse_unknown(_stems(files), facts.frames, f"{folder}, frame", facts_file(self.root, name))
        return self._video(name, folder, files, facts)

    def _video(self, name: str, folder: Path, files: Mapping[FrameKey, Path], facts: Facts) -> VideoAnnotations:
        by_name = {path.stem: path for path in files.values()}
        indices = {number: facts.numbers.get(number, number) for number in facts.objects}

        def read(frame: str) -> Masks:
            missing = facts.unannotated.get(frame, ())
            annotated = {number: index for number, index in indices.items() if number not in missing}
            if missing and not annotated:
                return {}
            if frame not in by_name:
                raise DatasetError(f"{folder / frame}.png is missing")
            labels = read_labels(by_name[frame], facts.size, VIDEO)
            strange = sorted(set(labels_in(labels)) - set(annotated.values()))
            if strange:
                raise DatasetError(f"{by_name[frame]} has the index {strange[0]}, which is no object of the video")
            return masks_in(labels, annotated)

        return VideoAnnotations(name, facts.size, facts.frames, facts.objects, facts.facts, read)


def _stems(files: Mapping[FrameKey, Path]) -> tuple[str, ...]:
    return tuple(path.stem for path in files.values())


class DavisFolder:
    """Clips below one folder. A clip's two folders are complete once the one of its frames is there.

    Args:
        root: made when the first clip is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def has(self, name: str) -> bool:
        """Whether this clip is there."""
        return (self.root / FRAMES / name).is_dir()

    def write(self, name: str, frames: NDArray[np.uint8], masks: NDArray[np.bool_]) -> None:
        """Writes a clip, over what an interrupted write of it may have left.

        Args:
            frames: ``(T, H, W, 3)`` uint8 RGB.
            masks: ``(T, O, H, W)``; an object's id is its position from 1, and the larger id covers the smaller one.

        Raises:
            FileExistsError: the clip is there.
            ValueError: more objects than a palette has colours.
            OSError: a file cannot be written.
        """
        if self.has(name):
            raise FileExistsError(f"the clip {name} is in {self.root} already")
        count = masks.shape[1]
        if count > MOST_OBJECTS:
            raise ValueError(f"a palette has room for {MOST_OBJECTS} objects, the clip has {count}")
        ids = np.arange(1, count + 1, dtype=np.uint8)[:, None, None]
        places = f"{MASKS}/{name}", f"{FRAMES}/{name}"  # the frames last: they show that the clip is complete
        with Stage(self.root, name) as stage:
            for t, (frame, each) in enumerate(zip(frames, masks, strict=True)):
                image = stage.file(f"{places[1]}/{t:05d}.jpg")
                Image.fromarray(frame).save(image, "JPEG", quality=QUALITY, subsampling=0)
                stage.file(f"{places[0]}/{t:05d}.png").write_bytes(label_png((each * ids).max(axis=0)))
            stage.move(places)

    def list_clips(self, names: list[str]) -> None:
        """Writes ``ImageSets/all.txt``."""
        file = self.root / LISTS / "all.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")

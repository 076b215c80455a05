"""The layout of SA-V's training set: ``<video>.mp4`` and ``<video>_manual.json`` or ``<video>_auto.json``."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sam2fast.datasets.annotations import Masks, VideoAnnotations
from sam2fast.datasets.errors import DatasetError
from sam2fast.datasets.files import VIDEO_SUFFIXES
from sam2fast.datasets.frame_files import FrameFiles
from sam2fast.datasets.layout import LayoutFolder, Stage, Written
from sam2fast.datasets.object_folders import FRAMES
from sam2fast.datasets.sav_json import DIGITS, IDS, MASKLETS, OURS, Masklets, read_masklets
from sam2fast.datasets.segmentations import area_of
from sam2fast.io.rle import RLE

USUAL_RATE = 4
SPARSEST = 100  # entries of a file for each annotated frame; beyond, frames that are not annotated have none
# A masklet's mean area in pixels, below which it belongs to a bucket.
BUCKETS = (("small", 32**2), ("medium", 96**2))
LARGEST = "large"


@dataclass(frozen=True)
class SavJson(LayoutFolder):
    """See :class:`~sam2fast.datasets.layout.Layout`. Videos may also lie one folder further down, as they are shipped.

    Ids in the file are one less than elsewhere. What SA-V has no key for is under the key ``sam2fast``.
    """

    name: ClassVar[str] = "sav"
    frames_folder: ClassVar[str] = FRAMES
    first_id: ClassVar[int] = 0
    keeps_films: ClassVar[bool] = True

    @property
    def _suffix(self) -> str:
        return f"_{self.settings.masklets}.json"

    def videos(self) -> list[str]:
        if not self.root.is_dir():
            raise DatasetError(f"{self.root} is no folder; expected <video>{self._suffix} in it")
        files = [path for pattern in ("*", "*/*") for path in self.root.glob(f"{pattern}{self._suffix}")]
        return sorted({path.name.removesuffix(self._suffix) for path in files if not path.name.startswith(".")})

    def file(self, name: str) -> Path:
        """Where the masklets of a video are, or would be."""
        below = self.root.glob(f"*/{name}{self._suffix}")
        here = self.root / f"{name}{self._suffix}"
        return here if here.is_file() else next(below, here)

    def frame_files(self, name: str) -> FrameFiles:
        folders = self.file(name).parent, self.root
        films = [folder / f"{name}{suffix}" for folder in folders for suffix in VIDEO_SUFFIXES]
        return FrameFiles.find([self.root / FRAMES / name], films)

    def has(self, name: str) -> bool:
        return (self.root / f"{name}{self._suffix}").is_file()

    def open(self, name: str) -> VideoAnnotations:
        masklets = read_masklets(self.file(name), self.settings.rate)
        positions = _positions(masklets)
        objects = tuple(number + 1 for number in masklets.ids)

        def read(frame: str) -> Masks:
            rles = masklets.rles(positions[frame])
            return {number: rle for number, rle in zip(objects, rles, strict=True) if rle is not None}

        facts = dict(masklets.ours.get("facts", {}))
        if not masklets.ours.get("computed"):
            facts["sav"] = dict(masklets.facts)
        return VideoAnnotations(name, masklets.size, tuple(positions), objects, facts, read)

    def write(self, video: VideoAnnotations, stage: Stage) -> Written:
        place = f"{video.name}{self._suffix}"
        rate, positions = _grid(video.frames, self.settings.rate)
        ours: dict[str, Any] = {}
        if rate != USUAL_RATE or list(positions) != [f"{i * rate:0{DIGITS}d}" for i in range(len(positions))]:
            ours = {"rate": rate, "frames": list(positions), "positions": list(positions.values())}
        others = {key: value for key, value in video.facts.items() if key != "sav"}
        if others:
            ours["facts"] = others
        facts = dict(video.facts.get("sav", {}))
        is_computed = "sav" not in video.facts
        if is_computed:
            ours["computed"] = True
            height, width = (float(side) for side in video.size)
            facts = {"video_id": video.name, "video_height": height, "video_width": width}
            facts["video_resolution"] = height * width
        before = {key: value for key, value in facts.items() if not key.startswith(MASKLETS)}
        after = {key: value for key, value in facts.items() if key.startswith(MASKLETS)}
        statistics = MaskletStatistics(len(video.objects), video.size)
        frames = {position: frame for frame, position in positions.items()}
        with stage.file(place).open("w", encoding="utf-8") as file:
            file.write(f'{json.dumps(before)[:-1]}{", " if before else ""}"{MASKLETS}": [')
            for position in range(max(frames, default=-1) + 1):
                masks = video.masks(frames[position]) if position in frames else {}
                rles = [masks.get(number) for number in video.objects]
                if is_computed:
                    statistics.add(rles)
                file.write(f"{', ' if position else ''}{json.dumps(rles)}")
            rest: dict[str, Any] = {IDS: [number - 1 for number in video.objects], **after}
            if is_computed:
                rest |= statistics.facts(self.settings.masklets)
            if ours:
                rest[OURS] = ours
            file.write(f"], {json.dumps(rest)[1:]}\n")
        return Written([place], {})


def _positions(masklets: Masklets) -> dict[str, int]:
    """The annotated frames by name, with their positions in the file."""
    ours = masklets.ours
    if "frames" not in ours:
        return {f"{index:0{DIGITS}d}": position for position, index in enumerate(masklets.frame_indices)}
    names, positions = ours["frames"], ours.get("positions")
    if (
        not isinstance(names, list)
        or not isinstance(positions, list)
        or len(names) != len(positions)
        or not all(isinstance(position, int) and 0 <= position < len(masklets) for position in positions)
    ):
        raise DatasetError(f"{masklets.path}: {OURS}.frames and {OURS}.positions must be equally long lists of frames")
    return {str(name): position for name, position in zip(names, positions, strict=True)}


def _grid(frames: tuple[str, ...], rate: int) -> tuple[int, Mapping[str, int]]:
    """Rate and positions of frames in a file that has an entry for every ``rate``-th frame of the film."""
    numbers = [int(name) for name in frames if name.isdecimal()]
    if len(numbers) < len(frames) or len(set(numbers)) < len(frames):
        return 1, {name: position for position, name in enumerate(frames)}
    if any(number % rate for number in numbers):
        rate = math.gcd(*numbers)
    if max(numbers, default=0) // rate > SPARSEST * len(frames):
        return 1, {name: position for position, name in enumerate(frames)}
    return rate, {name: number // rate for name, number in zip(frames, numbers, strict=True)}


class MaskletStatistics:
    """Gathers one frame after the other.

    Follows SA-V: the size is the mean area over the frames that show the object; its visibility changes whenever it
    goes or comes back.
    """

    def __init__(self, count: int, size: tuple[int, int]) -> None:
        self._pixels = size[0] * size[1]
        self._area, self._shown, self._changes = [0] * count, [0] * count, [0] * count
        self._first: list[int | None] = [None] * count
        self._visible = [False] * count
        self._frames = 0

    def add(self, rles: Sequence[RLE | None]) -> None:
        """A frame's masks, all objects'."""
        for number, rle in enumerate(rles):
            area = 0 if rle is None else area_of(rle)
            if area and self._first[number] is None:
                self._first[number] = self._frames
            elif bool(area) != self._visible[number]:
                self._changes[number] += 1
            self._visible[number] = bool(area)
            self._area[number] += area
            self._shown[number] += bool(area)
        self._frames += 1

    def facts(self, kind: str) -> dict[str, Any]:
        """The keys of SA-V's files that masks tell; null where an object is never seen.

        Args:
            kind: ``manual`` or ``auto``.
        """
        count = len(self._area)
        sizes = [area / shown if shown else 0.0 for area, shown in zip(self._area, self._shown, strict=True)]
        return {
            "masklet_size_rel": [round(size / self._pixels, 10) for size in sizes],
            "masklet_size_abs": [round(size, 10) for size in sizes],
            "masklet_size_bucket": [next((name for name, end in BUCKETS if size < end), LARGEST) for size in sizes],
            "masklet_visibility_changes": list(self._changes),
            "masklet_first_appeared_frame": [None if first is None else float(first) for first in self._first],
            "masklet_frame_count": [self._frames] * count,
            "masklet_type": [kind] * count,
            "masklet_num": count,
        }

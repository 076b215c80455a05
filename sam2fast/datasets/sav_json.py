"""Layout of SA-V's training set: ``<video>.mp4`` and ``<video>_manual.json`` or ``<video>_auto.json``."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sam2fast.datasets.annotations import Masks, VideoAnnotations
from sam2fast.datasets.dataset_files import VIDEO_SUFFIXES, DatasetError, read_json
from sam2fast.datasets.frame_files import FrameFiles
from sam2fast.datasets.layout import Layout, StagingFolder, Written
from sam2fast.datasets.object_folders import FRAMES
from sam2fast.datasets.segmentations import decode_segmentation
from sam2fast.io.rle import RLE

MASKLETS, IDS, OURS = "masklet", "masklet_id", "sam2fast"
KEYS = (MASKLETS, "masks")  # keys of the list of frames
FPS = 24  # frame rate of SA-V's videos
DIGITS = 5  # digits of a frame's name
USUAL_RATE = 4
SPARSEST = 100  # maximum number of entries per annotated frame; if exceeded, only annotated frames get entries


@dataclass(frozen=True)
class Masklets:
    """Masks of a video's objects on every ``rate``-th frame, decoded lazily.

    Attributes:
        path: path of the file.
        size: (H, W) of the masks.
        rate: number of video frames per annotated frame.
        ids: ids of the N objects, from 0, as stored.
        facts: all other keys of the file.
        ours: keys added by a conversion with sam2fast; empty in SA-V's original files.
    """

    path: Path
    size: tuple[int, int]
    rate: int
    ids: tuple[int, ...]
    facts: Mapping[str, Any]
    ours: Mapping[str, Any]
    _frames: Sequence[Sequence[RLE | None]]

    def __len__(self) -> int:
        """Returns the number of annotated frames."""
        return len(self._frames)

    @property
    def video_id(self) -> str:
        """Returns the video id in the file's content, or else in the file's name."""
        return str(self.facts.get("video_id", self.path.stem.rsplit("_", 1)[0]))

    @property
    def frame_indices(self) -> tuple[int, ...]:
        """Returns the indices of the annotated frames in the video."""
        return tuple(range(0, len(self) * self.rate, self.rate))

    def rles(self, position: int) -> Sequence[RLE | None]:
        """Returns run lengths of the N objects in annotated frame ``position``; None for unannotated objects."""
        return self._frames[position]

    def masks(self, position: int) -> NDArray[np.bool_]:
        """Decodes bool masks ``(N, H, W)`` of annotated frame ``position``.

        Raises :class:`DatasetError`, which names the object, if run lengths are damaged.
        """
        masks = np.zeros((len(self.ids), *self.size), dtype=np.bool_)
        for number, (mask, rle) in enumerate(zip(masks, self.rles(position), strict=True)):
            if rle is not None:
                mask[:] = decode_segmentation(rle, self.size, f"{self.path}: {MASKLETS}[{position}][{number}]")
        return masks


def read_masklets(path: str | Path, rate: int = 4) -> Masklets:
    """Reads and checks an annotation file of SA-V.

    Args:
        rate: interval of annotated frames, used if the file does not state the interval. Files of sam2fast state
            intervals other than 4. The key ``fps`` states the number of annotated frames per second of a video with 24
            frames per second, and must divide 24.

    Raises:
        DatasetError: If the file is missing, is not JSON, or has another structure. The message names file and key.
    """
    path = Path(path)
    facts, frames, rate = read_mask_lists(path, rate)
    ids = facts.pop(IDS, list(range(len(frames[0]) if frames else 0)))
    if not isinstance(ids, list) or not all(isinstance(i, int) and i >= 0 for i in ids) or len(set(ids)) != len(ids):
        raise DatasetError(f"{path}: {IDS} must be a list of different integers from 0, got {str(ids)[:60]}")
    ours = facts.pop(OURS, {})
    if not isinstance(ours, dict):
        raise DatasetError(f"{path}: {OURS} must be an object, got {str(ours)[:60]}")
    rate = ours.get("rate", rate)
    if not isinstance(rate, int) or rate < 1:
        raise DatasetError(f"{path}: the rate of its annotations must be 1 or more frames, got {rate}")
    return Masklets(path, _checked_size(path, facts, frames, len(ids)), rate, tuple(ids), facts, ours, frames)


def read_mask_lists(path: Path, rate: int, video_fps: int = FPS) -> tuple[dict[str, Any], list[list[Any]], int]:
    """Reads the keys of a JSON file, its list of frames, and the number of video frames per annotated frame.

    Each frame is a list of the masks of every object, which are not checked. The file is such a list, or has it under
    the key ``masklet`` or ``masks``. If it has ``fps``, ``video_fps / fps`` replaces ``rate``. Raises DatasetError if
    the file is unreadable or has another structure.
    """
    content = read_json(path)
    facts = dict(content) if isinstance(content, dict) else {MASKLETS: content}
    frames = next((facts.pop(key) for key in KEYS if key in facts), None)
    if not isinstance(frames, list) or not all(isinstance(frame, list) for frame in frames):
        raise DatasetError(
            f'{path}: expected the key "{MASKLETS}" with a list of frames, each a list of masks, as in SA-V'
        )
    return facts, frames, _rate_of(path, facts["fps"], video_fps) if "fps" in facts else rate


def _rate_of(path: Path, fps: Any, video_fps: int) -> int:
    try:
        annotated = int(fps[0] if isinstance(fps, list) else fps)
        if annotated > 0 and video_fps % annotated == 0:
            return video_fps // annotated
    except (IndexError, TypeError, ValueError, OverflowError):
        pass
    raise DatasetError(f"{path}: fps must divide frames_fps, which is {video_fps}, got {str(fps)[:60]}")


def _checked_size(path: Path, facts: Mapping[str, Any], frames: list[list[Any]], count: int) -> tuple[int, int]:
    """Returns the common size (H, W) of all masks."""
    size: list[int] | None = None
    for position, frame in enumerate(frames):
        where = f"{path}: {MASKLETS}[{position}]"
        if len(frame) != count:
            raise DatasetError(f"{where} must have a mask for each of {count} objects, got {len(frame)}")
        for number, rle in enumerate(frame):
            if rle is None:
                continue
            sides = rle.get("size") if isinstance(rle, dict) and isinstance(rle.get("counts"), str) else None
            if not isinstance(sides, list) or len(sides) != 2 or not all(isinstance(x, int) and x > 0 for x in sides):
                expected = '"size" [height, width] and "counts"'
                raise DatasetError(f"{where}[{number}] must have {expected}, got {str(rle)[:60]}")
            size = size or rle["size"]
            if rle["size"] != size:
                raise DatasetError(f"{where}[{number}].size is {rle['size']}, other masks have {size}")
    if size is None:
        try:
            size = [int(facts["video_height"]), int(facts["video_width"])]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DatasetError(f"{path} has neither a mask nor video_height and video_width") from error
    return size[0], size[1]


@dataclass(frozen=True)
class SavJson(Layout):
    """See :class:`~sam2fast.datasets.layout.Layout`. Videos may also be in subfolders, as in SA-V's archives.

    Ids in the file are the ids in :class:`VideoAnnotations` minus 1. Metadata without a key in SA-V is stored under the
    key ``sam2fast``.
    """

    name: ClassVar[str] = "sav"
    frames_folder: ClassVar[str] = FRAMES
    first_id: ClassVar[int] = 0
    keeps_videos: ClassVar[bool] = True

    @property
    def _suffix(self) -> str:
        return f"_{self.settings.masklets}.json"

    def videos(self) -> list[str]:
        if not self.root.is_dir():
            raise DatasetError(f"{self.root} is not a folder; expected <video>{self._suffix} in it")
        files = [path for pattern in ("*", "*/*") for path in self.root.glob(f"{pattern}{self._suffix}")]
        return sorted({path.name.removesuffix(self._suffix) for path in files if not path.name.startswith(".")})

    def masks_at(self, name: str) -> Path:
        below = self.root.glob(f"*/{name}{self._suffix}")
        here = self.root / f"{name}{self._suffix}"
        return here if here.is_file() else next(below, here)

    def frame_files(self, name: str) -> FrameFiles:
        folders = self.masks_at(name).parent, self.root
        videos = [folder / f"{name}{suffix}" for folder in folders for suffix in VIDEO_SUFFIXES]
        return FrameFiles.find([self.root / FRAMES / name], videos)

    def open(self, name: str) -> VideoAnnotations:
        masklets = read_masklets(self.masks_at(name), self.settings.rate)
        positions = _positions(masklets)
        objects = tuple(number + 1 for number in masklets.ids)

        def read(frame: str) -> Masks:
            rles = masklets.rles(positions[frame])
            return {number: rle for number, rle in zip(objects, rles, strict=True) if rle is not None}

        facts = dict(masklets.ours.get("facts", {}))
        if not masklets.ours.get("computed"):
            facts["sav"] = dict(masklets.facts)
        return VideoAnnotations(name, masklets.size, tuple(positions), objects, facts, read)

    def write(self, video: VideoAnnotations, stage: StagingFolder) -> Written:
        path = f"{video.name}{self._suffix}"
        rate, positions = _grid(video.frames, self.settings.rate)
        ours: dict[str, Any] = {}
        if rate != USUAL_RATE or list(positions) != [f"{i * rate:0{DIGITS}d}" for i in range(len(positions))]:
            ours = {"rate": rate, "frames": list(positions), "positions": list(positions.values())}
        others = {key: value for key, value in video.facts.items() if key != "sav"}
        if others:
            ours["facts"] = others
        facts = dict(video.facts.get("sav", {}))
        if "sav" not in video.facts:
            ours["computed"] = True
            height, width = (float(side) for side in video.size)
            facts = {"video_id": video.name, "video_height": height, "video_width": width}
            facts["video_resolution"] = height * width
        before = {key: value for key, value in facts.items() if not key.startswith(MASKLETS)}
        after = {key: value for key, value in facts.items() if key.startswith(MASKLETS)}
        frames = {position: frame for frame, position in positions.items()}
        with stage.file(path).open("w", encoding="utf-8") as file:
            file.write(f'{json.dumps(before)[:-1]}{", " if before else ""}"{MASKLETS}": [')
            for position in range(max(frames, default=-1) + 1):
                masks = video.masks(frames[position]) if position in frames else {}
                rles = [masks.get(number) for number in video.objects]
                file.write(f"{', ' if position else ''}{json.dumps(rles)}")
            rest: dict[str, Any] = {IDS: [number - 1 for number in video.objects], **after}
            if ours:
                rest[OURS] = ours
            file.write(f"], {json.dumps(rest)[1:]}\n")
        return Written([path], {})


def _positions(masklets: Masklets) -> dict[str, int]:
    """Returns the positions of the annotated frames in the file, by name."""
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
    """Returns rate and positions of frames for a file with an entry for every ``rate``-th frame of the video."""
    numbers = [int(name) for name in frames if name.isdecimal()]
    if len(numbers) < len(frames) or len(set(numbers)) < len(frames):
        return 1, {name: position for position, name in enumerate(frames)}
    if any(number % rate for number in numbers):
        rate = math.gcd(*numbers)
    if max(numbers, default=0) // rate > SPARSEST * len(frames):
        return 1, {name: position for position, name in enumerate(frames)}
    return rate, {name: number // rate for name, number in zip(frames, numbers, strict=True)}

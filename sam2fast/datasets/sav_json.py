"""The annotation files of SA-V: ``<video>_manual.json`` and ``<video>_auto.json``."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam2fast.datasets.errors import DatasetError
from sam2fast.datasets.files import FrameKey, read_json
from sam2fast.datasets.segmentations import area_of, decode_segmentation
from sam2fast.io.rle import RLE

MASKLETS, IDS, OURS = "masklet", "masklet_id", "sam2fast"
KEYS = (MASKLETS, "masks")  # where training looks for the list of frames
DIGITS = 5  # of a frame's name


@dataclass(frozen=True)
class Masklets:
    """The masks of a video's objects, on every ``rate``-th frame of its film; decoded when they are asked for.

    Attributes:
        path: of the file.
        size: (H, W) of the masks.
        rate: of the annotations, in frames of the film.
        ids: of the N objects, as the file has them, from 0.
        facts: all other keys of the file.
        ours: what a conversion by this package added; empty in SA-V's own files.
    """

    path: Path
    size: tuple[int, int]
    rate: int
    ids: tuple[int, ...]
    facts: Mapping[str, Any]
    ours: Mapping[str, Any]
    _frames: Sequence[Sequence[RLE | None]]

    def __len__(self) -> int:
        """Number of annotated frames."""
        return len(self._frames)

    @property
    def video_id(self) -> str:
        """As the file says; else as it is named."""
        return str(self.facts.get("video_id", self.path.stem.rsplit("_", 1)[0]))

    @property
    def frame_indices(self) -> tuple[int, ...]:
        """Where the annotated frames are in the film."""
        return tuple(range(0, len(self) * self.rate, self.rate))

    def rles(self, position: int) -> Sequence[RLE | None]:
        """Run lengths of the N objects in the ``position``-th annotated frame; None where one was not annotated."""
        return self._frames[position]

    def masks(self, position: int) -> NDArray[np.bool_]:
        """Masks ``(N, H, W)`` in the ``position``-th annotated frame.

        Raises:
            DatasetError: the run lengths are damaged; names the object.
        """
        masks = np.zeros((len(self.ids), *self.size), dtype=np.bool_)
        for number, (mask, rle) in enumerate(zip(masks, self.rles(position), strict=True)):
            if rle is not None:
                mask[:] = decode_segmentation(rle, self.size, f"{self.path}: {MASKLETS}[{position}][{number}]")
        return masks


def read_masklets(path: str | Path, rate: int = 4) -> Masklets:
    """Reads and checks an annotation file of SA-V.

    Args:
        rate: every how many frames of the film are annotated; a file of this package, or one with the key ``fps`` of a
            film of 24 frames per second, says so itself.

    Raises:
        DatasetError: the file is missing, is no JSON, or has another structure; names the file and the key.
    """
    path = Path(path)
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get(MASKLETS), list):
        raise DatasetError(f'{path}: expected the key "{MASKLETS}" with a list of frames, as SA-V\'s files have it')
    frames = content[MASKLETS]
    ids = content.get(IDS, list(range(len(frames[0]) if frames and isinstance(frames[0], list) else 0)))
    if not isinstance(ids, list) or not all(isinstance(i, int) and i >= 0 for i in ids) or len(set(ids)) != len(ids):
        raise DatasetError(f"{path}: {IDS} must be a list of different whole numbers from 0, got {str(ids)[:60]}")
    ours = content.get(OURS, {})
    if not isinstance(ours, dict):
        raise DatasetError(f"{path}: {OURS} must be an object, got {str(ours)[:60]}")
    facts = {key: value for key, value in content.items() if key not in (MASKLETS, IDS, OURS)}
    size = _checked_size(path, facts, frames, len(ids))
    return Masklets(path, size, _rate(path, facts, ours, rate), tuple(ids), facts, ours, frames)


def _checked_size(path: Path, facts: Mapping[str, Any], frames: list[Any], count: int) -> tuple[int, int]:
    """The one size of all masks."""
    size: list[int] | None = None
    for where, rle in _entries(path, frames, count):
        if rle is None:
            continue
        if not isinstance(rle, dict) or not isinstance(rle.get("counts"), str) or not _is_size(rle.get("size")):
            raise DatasetError(f'{path}: {where} must have "size" [height, width] and "counts", got {str(rle)[:60]}')
        size = size or rle["size"]
        if rle["size"] != size:
            raise DatasetError(f"{path}: {where}.size is {rle['size']}, other masks have {size}")
    if size is None:
        try:
            size = [int(facts["video_height"]), int(facts["video_width"])]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DatasetError(f"{path} has neither a mask nor video_height and video_width") from error
    return size[0], size[1]


def _entries(path: Path, frames: list[Any], count: int) -> Iterator[tuple[str, Any]]:
    """All masks, with the keys under which they are."""
    for position, frame in enumerate(frames):
        if not isinstance(frame, list) or len(frame) != count:
            got = f"{len(frame)}" if isinstance(frame, list) else str(frame)[:60]
            raise DatasetError(
                f"{path}: {MASKLETS}[{position}] must have a mask for each of {count} objects, got {got}"
            )
        for number, rle in enumerate(frame):
            yield f"{MASKLETS}[{position}][{number}]", rle


def _is_size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(side, int) and side > 0 for side in value)


def _rate(path: Path, facts: Mapping[str, Any], ours: Mapping[str, Any], rate: int) -> int:
    if "rate" in ours:
        value = ours["rate"]
    elif "fps" in facts:
        fps = facts["fps"]
        value = round(24 / fps) if isinstance(fps, int | float) and fps > 0 else None
    else:
        value = rate
    if not isinstance(value, int) or value < 1:
        raise DatasetError(f"{path}: the rate of its annotations must be 1 or more frames, got {value}")
    return value


class MaskletAnnotations:
    """Run lengths of every object in every ``ann_every``-th frame, decoded when they are asked for.

    Objects' ids are their places in the file, from 0. Follows the official
    ``training.dataset.vos_segment_loader.JSONSegmentLoader``.

    Args:
        path: of a JSON file with a list of frames, each a list with the run lengths of every object, or null; or with
            such a list under the key ``masklet`` or ``masks``.
        ann_every: how many frames of the video one annotated frame is for.
        frames_fps: of the video; where the file has ``fps``, its own, the two say ``ann_every``.

    Raises:
        DatasetError: the file cannot be read, or has another structure.
    """

    def __init__(self, path: Path, ann_every: int, frames_fps: int) -> None:
        content = read_json(path)
        frames, self.ann_every = content, ann_every
        if isinstance(content, dict):
            frames = next((content[key] for key in KEYS if key in content), None)
            if "fps" in content:
                self.ann_every = _frames_per_annotation(path, content["fps"], frames_fps)
        if not isinstance(frames, list) or not all(isinstance(frame, list) for frame in frames):
            raise DatasetError(
                f'{path}: expected the key "{MASKLETS}" with a list of frames, each a list of masks, as in SA-V'
            )
        self._path, self._frames = path, frames

    def is_annotated(self, frame: int) -> bool:
        """Whether the file has a mask, be it empty, for every object in a frame."""
        position, rest = divmod(frame, self.ann_every)
        return rest == 0 and 0 <= position < len(self._frames) and None not in self._frames[position]

    def visible_objects(self, frame: FrameKey) -> tuple[int, ...]:
        """See :class:`~sam2fast.datasets.frame_masks.Annotations`."""
        position, masks = self._at(frame)
        where = f"{self._path}: {MASKLETS}[{position}]"
        return tuple(i for i, rle in enumerate(masks) if rle is not None and area_of(rle, where=where) > 0)

    def read_masks(self, frame: FrameKey, object_ids: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
        """See :class:`~sam2fast.datasets.frame_masks.Annotations`; an object that a frame does not have is an error."""
        position, masks = self._at(frame)
        decoded = []
        for i in object_ids:
            where = f"{self._path}: {MASKLETS}[{position}][{i}]"
            if i >= len(masks) or masks[i] is None:
                raise DatasetError(f"{where}: the object is not annotated in frame {frame}: leave rm_unannotated on")
            decoded.append(decode_segmentation(masks[i], size, where))
        return np.stack(decoded)

    def _at(self, frame: FrameKey) -> tuple[int, list[Any]]:
        """The place of a frame in the file, and what is there."""
        if isinstance(frame, int):
            position, rest = divmod(frame, self.ann_every)
            if rest == 0 and position < len(self._frames):
                return position, self._frames[position]
        raise DatasetError(
            f"{self._path} has {len(self._frames)} frames, one for every {self.ann_every} of the video, and none for "
            f"frame {frame}: leave rm_unannotated on"
        )


def _frames_per_annotation(path: Path, fps: Any, frames_fps: int) -> int:
    try:
        annotated = int(fps[0] if isinstance(fps, list) else fps)
        if annotated > 0 and frames_fps % annotated == 0:
            return frames_fps // annotated
    except (IndexError, TypeError, ValueError):
        pass
    raise DatasetError(f"{path}: fps must divide frames_fps, which is {frames_fps}, got {str(fps)[:60]}")

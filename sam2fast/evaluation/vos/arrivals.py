"""From which masks objects are tracked, and from which frame on."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from sam2fast.datasets.errors import DatasetError
from sam2fast.evaluation.vos.masks import InputMasks, Mask

LATE = "for videos in which objects appear later give --late-objects"


class Arrival(NamedTuple):
    """Objects that are tracked from one frame on."""

    start: int
    prompts: Callable[[], Iterator[tuple[int, dict[int, Mask]]]]  # frames and masks by object, read on the way


class Arrivals(NamedTuple):
    """All of a video's objects.

    Attributes:
        groups: by their first frame, rising.
        ids: of the objects, rising; empty where they are known only when the masks have been read.
        palette_frame: the frame whose input picture lends its palette to the output.
    """

    groups: list[Arrival]
    ids: list[int]
    palette_frame: int


def from_one_frame(masks: InputMasks, all_masks: bool) -> Arrivals:
    """All objects from the first frame on.

    Args:
        all_masks: from all masks there are, beginning with the first one; otherwise from those of frame 0.

    Raises:
        DatasetError: there is no mask. When they are read: one is missing, there is no object, or one that the first of
            these frames does not have.
    """
    frames = masks.frames() if all_masks else [0]
    if not frames:
        raise DatasetError("there are no input masks; expected a PNG with the name of a frame")
    return Arrivals([Arrival(frames[0], lambda: _of_the_first(masks, frames))], [], frames[-1])


def _of_the_first(masks: InputMasks, frames: list[int]) -> Iterator[tuple[int, dict[int, Mask]]]:
    known: set[int] | None = None
    for frame in frames:
        found = masks.read(frame)
        known = set(found) if known is None else known
        new = sorted(set(found) - known)
        if new:
            raise DatasetError(
                f"object {new[0]} of frame {frame} is not on the first one with masks, {frames[0]}; {LATE}"
            )
        if not known:
            raise DatasetError(f"the mask of frame {frame} shows no object; {LATE}")
        yield frame, found


def as_they_appear(masks: InputMasks, all_masks: bool) -> Arrivals:
    """Each object from the first frame on that shows it; masks without a pixel do not count.

    Args:
        all_masks: from all of an object's masks; otherwise from its first one.

    Raises:
        DatasetError: there is no object at all, or a file cannot be used.
    """
    frames: dict[int, list[int]] = {}
    for frame in masks.frames():
        for obj_id in masks.visible(frame, known=() if all_masks else frames.keys()):
            frames.setdefault(obj_id, []).append(frame)
    if not frames:
        raise DatasetError("no input mask shows an object")
    starts: dict[int, list[int]] = {}
    for obj_id in sorted(frames):
        starts.setdefault(frames[obj_id][0], []).append(obj_id)
    groups = [
        Arrival(start, lambda ids=ids: _of_these(masks, {i: frames[i] for i in ids}))  # type: ignore[misc]
        for start, ids in sorted(starts.items())
    ]
    return Arrivals(groups, sorted(frames), masks.frames()[-1])


def _of_these(masks: InputMasks, frames: dict[int, list[int]]) -> Iterator[tuple[int, dict[int, Mask]]]:
    for frame in sorted({frame for each in frames.values() for frame in each}):
        yield frame, masks.read(frame, only=[i for i, each in frames.items() if frame in each])

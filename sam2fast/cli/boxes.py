"""Reads boxes of detectors, as prompts for images or as detections by video frame."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from sam2fast.cli.box_files import BoxFile, FoundBox, read_box_file
from sam2fast.cli.left_out import LeftOut
from sam2fast.cli.prompts import Prompts, note_fractions
from sam2fast.cli.user_errors import UserError, print_note
from sam2fast.io.image_names import GivenImage, ImageName, ImageNames, as_number, path_parts
from sam2fast.io.images import MAX_NAMED, SUFFIXES

COUNTED = re.compile(r"(.*)_(\d{1,18})")  # Ultralytics' name of a frame: name of the video, frame number from 1
LAST_NUMBER = re.compile(r".*?(\d{1,18})(\.\w+)?")  # a frame name that ends with a number
UNSCORED = -1  # MOT Challenge's score of boxes without a score
NO_FRAME = "the video has no such frame"


def read_boxes(path: Path, left_out: LeftOut | None = None) -> list[Prompts]:
    """Returns the boxes of a file or folder as prompts. The class of a box becomes the prompt's ``object``.

    :class:`ImagePrompts` numbers the boxes of an image. An image without boxes gets an empty prompt with its name.

    Args:
        path: COCO's ``.json`` file of a data set or of detections, a folder with YOLO's ``STEM.txt`` for each image,
            or one YOLO file for all images.
        left_out: Record that counts unusable items.

    Raises:
        NoBoxError: If no box in the file can be used.
        UserError: If the file has another format.
    """
    file = read_box_file(path)
    if left_out is not None:
        left_out.add_all(file.left_out)
    file.check()
    if not file.boxes:
        print_note(f"no boxes in {path}")
    if any(name.is_id for name in file.names):
        print_note(
            f"{path} numbers its images: image_id 7 stands for 7.jpg, 007.jpg and similar names; to name another "
            "image, set the key file_name of a detection"
        )
    prompts = []
    for item in file.boxes:
        box, image, size, where = item.box, item.image, item.size, item.where
        one = Prompts(box=box, object=item.label, image=image, is_relative=item.is_relative, size=size, where=where)
        prompts.append(one)
    note_fractions(prompts, f"the boxes in {path}")
    used = {item.image for item in file.boxes}
    return [*prompts, *(Prompts(image=name) for name in file.names if name not in used)]


def read_detections(
    path: Path, frame_names: Sequence[str], left_out: LeftOut | None = None, video: str = ""
) -> dict[int, list[FoundBox]]:
    """Returns the boxes of a file or folder, by frame.

    Args:
        path: COCO's ``.json`` file of videos, images or detections, a ``.txt`` file of MOT Challenge, or a folder with
            YOLO's ``STEM.txt`` for each frame.
        frame_names: Paths without suffixes of the images in a folder of frames. Empty for other videos.
        left_out: Record that counts unusable boxes.
        video: Name of the video without suffix. If a file has frames of several videos, the name selects the boxes.

    Raises:
        UserError: If the file has another format, no box in it can be used, or all boxes belong to other videos.
    """
    file = read_box_file(path, of_video=True)
    read, file.boxes = file.boxes, []
    for item in read:
        if item.score in (None, UNSCORED):
            file.boxes.append(item._replace(score=None))
        elif 0 <= item.score <= 1:
            file.boxes.append(item)
        else:
            file.left_out.add("box", "its score is neither from 0 to 1 nor -1", item.where)
    file.check()
    note_fractions((Prompts(box=one.box, is_relative=one.is_relative) for one in file.boxes), f"the boxes in {path}")
    if file.counts_frames:
        frames = _frames_by_count(file, frame_names)
    elif frame_names:
        frames = _frames_by_name(file, frame_names)
    else:
        frames = _frames_by_number(file, video)
    by_frame = defaultdict(list)
    for item, places in zip(file.boxes, frames, strict=True):
        for frame in places:
            by_frame[frame].append(item._replace(image=None, frame=None))
    if file.boxes and not by_frame:
        raise UserError(f"{path} has no boxes for this video; left out: {file.left_out}")
    if not by_frame:
        print_note(f"no boxes in {path}")
    if left_out is not None:
        left_out.add_all(file.left_out)
    return dict(by_frame)


class BoxArguments(NamedTuple):
    """Arguments of ``VideoStream.add_detections``."""

    boxes: list[tuple[float, ...]]
    labels: list[str] | None
    scores: list[float]


@dataclass(frozen=True)
class DetectionFile:
    """All boxes of a video, by frame. For ``max_unseen`` and ``start_score`` see ``VideoStream.add_detections``."""

    boxes: Mapping[int, Sequence[FoundBox]]
    every: int = 1  # distance between frames with used boxes, counted from the first tracked frame
    max_unseen: int = 30
    start_score: float = 0.5
    left_out: LeftOut = field(default_factory=LeftOut, compare=False)  # unusable boxes in the file

    def on(self, frame: int, height: int, width: int) -> BoxArguments:
        """Returns the boxes on a frame of a video of this size."""
        items = self.boxes.get(frame, ())
        boxes = []
        for one in items:
            rows, columns = (1, 1) if one.is_relative else one.size or (height, width)
            boxes.append(tuple(one.box.scaled(width / columns, height / rows)))
        labels = [one.label for one in items] if all(one.label for one in items) else None
        return BoxArguments(boxes, labels, [1.0 if one.score is None else one.score for one in items])

    def count_unused(self, frame: int, ids: Sequence[Any], left_out: LeftOut) -> None:
        """Counts boxes without an id: ``add_detections`` matched no object to the box, and started no new object."""
        for item, obj_id in zip(self.boxes.get(frame, ()), ids, strict=True):
            if obj_id is None:
                is_low = item.score is not None and item.score < self.start_score
                why = "its score is below --start-score, and it matches no tracked object"
                left_out.add("box", why if is_low else "it lies outside the frame", item.where)

    def count_beyond(self, frames: int, left_out: LeftOut) -> None:
        """Counts the boxes beyond the end of a video with ``frames`` frames."""
        for _, boxes in sorted((frame, boxes) for frame, boxes in self.boxes.items() if frame >= frames):
            left_out.add("box", NO_FRAME, boxes[0].where, len(boxes))

    def as_json(self) -> dict[str, Any]:
        """Returns, as JSON, the content and settings that determine the results."""
        boxes = {frame: [one._replace(where="") for one in items] for frame, items in self.boxes.items()}
        content = repr(sorted(boxes.items()))
        settings = {"every": self.every, "max_unseen": self.max_unseen, "start_score": self.start_score}
        return {"sha256": hashlib.sha256(content.encode()).hexdigest(), **settings}


def _frames_by_count(file: BoxFile, frame_names: Sequence[str]) -> list[Sequence[int]]:
    """Returns the frame of each box, for formats with frame numbers."""
    places: Mapping[int, int] | None = None
    if frame_names:
        places = {frame: frame for frame in range(len(frame_names))}
        if file.path.suffix.lower() != ".json":
            places = _places_by_names(file, frame_names) or places
    frames: list[Sequence[int]] = []
    for item in file.boxes:
        assert item.frame is not None
        place = item.frame if places is None else places.get(item.frame)
        if place is None:
            file.left_out.add("box", NO_FRAME, item.where)
        frames.append(() if place is None else (place,))
    return frames


def _places_by_names(file: BoxFile, frame_names: Sequence[str]) -> dict[int, int] | None:
    """Maps the numbers in image names to frame indices. Returns None if MOT's frame numbers are not these numbers.

    All names must end with different numbers from 1. The numbers must match at least as many boxes as frame indices do.
    """
    matches = [LAST_NUMBER.fullmatch(PurePosixPath(name).name) for name in frame_names]
    places = {int(match[1]) - 1: frame for frame, match in enumerate(matches) if match}
    if len(places) < len(frame_names) or min(places) < 0:
        return None
    by_name = sum(item.frame in places for item in file.boxes)
    by_count = sum(item.frame in range(len(frame_names)) for item in file.boxes)
    if not by_name or by_name < by_count:
        return None
    moved = next(((number, frame) for number, frame in places.items() if number != frame), None)
    if moved is not None:
        name = PurePosixPath(frame_names[moved[1]]).name
        print_note(f"frame numbers of {file.path} are the numbers in names of images: {moved[0] + 1} is {name}")
    return places


def _frames_by_name(file: BoxFile, frame_names: Sequence[str]) -> list[Sequence[int]]:
    """Returns the frames of each box: all frames that match the box's image name."""
    names, frames = ImageNames(file.names), defaultdict[ImageName | None, list[int]](list)
    for frame, path in enumerate(frame_names):
        for name in names.of(GivenImage.of_frame(path)):
            frames[name].append(frame)
    names.log_guesses()
    for item in file.boxes:
        if item.image is not None and item.image not in frames:
            file.left_out.add("box", NO_FRAME, f"{item.image.text} in {file.path}")
    return [frames.get(item.image, ()) for item in file.boxes]


def _frames_by_number(file: BoxFile, video: str) -> list[Sequence[int]]:
    """Returns the frame of each box: the number in the box's image name."""
    numbers = {name: _number_of(name) for name in file.names}
    series = {item[0] for item in numbers.values() if item is not None}
    if len(series) > 1:  # the file has frames of several videos
        matching = {one for one in series if video.casefold() in (part.casefold() for part in one)}
        if not matching:
            texts = ", ".join(sorted("/".join(one) or "numbers" for one in series)[:MAX_NAMED])
            raise UserError(f"{file.path} has boxes of several videos ({texts}), and none has the name {video!r}")
        series = matching
    frames: list[Sequence[int]] = []
    for item in file.boxes:
        number = numbers.get(item.image) if item.image else None
        is_own = number is not None and number[0] in series
        if not is_own:
            why = "the name of its image has no frame number" if number is None else "it belongs to another video"
            file.left_out.add("box", why, item.where)
        frames.append((number[1],) if number is not None and is_own else ())
    return frames


def _number_of(name: ImageName) -> tuple[tuple[str, ...], int] | None:
    """Splits the name of a frame into its folders and video, and the frame index from 0.

    ``00012.jpg`` and the image id 12 are frame 12. Ultralytics counts from 1: ``clip_12`` is frame 11 of ``clip``.
    """
    *folders, last = path_parts(name.text) or ("",)
    path = PurePosixPath(last)
    stem = path.stem if path.suffix.lower() in SUFFIXES else last  # YOLO's names have no suffix
    if (number := as_number(stem)) is not None:
        return tuple(folders), number
    counted = COUNTED.fullmatch(stem)
    return ((*folders, counted[1]), int(counted[2]) - 1) if counted and int(counted[2]) else None

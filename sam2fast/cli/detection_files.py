"""Boxes of detectors on the frames of a video, for ``sam2fast track``: files of COCO, MOT and YOLO."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sam2fast.cli.box_files import FoundBox, coco_box, coco_boxes, missing_or_wrong, read_score, yolo_boxes
from sam2fast.cli.prompt_files import read_box, read_json
from sam2fast.cli.prompt_options import read_numbers
from sam2fast.cli.user_errors import UserError, as_user_error, print_note
from sam2fast.io.images import SUFFIXES

COUNTED = re.compile(r".*_(\d+)")  # a frame that Ultralytics names after its video, counting from 1


class BoxArguments(NamedTuple):
    """Arguments of ``VideoStream.add_detections``."""

    boxes: list[tuple[float, ...]]
    labels: list[str] | None
    scores: list[float]


@dataclass(frozen=True)
class DetectionFile:
    """All boxes of a video, by frame.

    Args:
        boxes: those of a format without classes have an empty label.
        every: they are used on the first tracked frame and each ``every``-th after it.
        max_unseen, start_score: see ``VideoStream.add_detections``.
    """

    boxes: Mapping[int, Sequence[FoundBox]]
    every: int = 1
    max_unseen: int = 30
    start_score: float = 0.5

    def on(self, frame: int, height: int, width: int) -> BoxArguments:
        """The boxes on a frame of a video of this size."""
        found = self.boxes.get(frame, ())
        boxes = []
        for one in found:
            rows, columns = (1, 1) if one.is_relative else one.size or (height, width)
            boxes.append(tuple(one.box.scaled(width / columns, height / rows)))
        labels = [one.label for one in found] if all(one.label for one in found) else None
        return BoxArguments(boxes, labels, [1.0 if one.score is None else one.score for one in found])

    def as_json(self) -> dict[str, Any]:
        """Everything that results depend on."""
        content = repr(sorted((frame, list(found)) for frame, found in self.boxes.items()))
        settings = {"every": self.every, "max_unseen": self.max_unseen, "start_score": self.start_score}
        return {"sha256": hashlib.sha256(content.encode()).hexdigest(), **settings}


def read_detections(path: Path, frame_names: Sequence[str]) -> dict[int, list[FoundBox]]:
    """The boxes of a file or folder, by frame.

    Args:
        path: a ``.json`` file in COCO's format for videos, or for images, or COCO's list of detections; a ``.txt`` file
            of MOT Challenge; or a folder of YOLO's ``STEM.txt`` for each frame.
        frame_names: of the images of a folder, empty for other videos, whose frames are named by their numbers.
    """
    if path.suffix.lower() == ".json":
        content = read_json(path)
        is_video = isinstance(content, dict) and "videos" in content
        by_frame = (
            _by_number(_coco_video(path, content))
            if is_video
            else _by_name(path, coco_boxes(path, content), frame_names)
        )
    elif path.is_dir():
        by_frame = _by_name(path, yolo_boxes(path), frame_names)
    else:
        by_frame = _by_number(_mot(path))
    if not any(by_frame.values()):
        print_note(f"no boxes in {path}")
    return by_frame


def _by_number(boxes: Iterable[tuple[int, FoundBox]]) -> dict[int, list[FoundBox]]:
    by_frame: dict[int, list[FoundBox]] = {}
    for frame, found in boxes:
        by_frame.setdefault(frame, []).append(found)
    return by_frame


def _by_name(path: Path, boxes: Iterable[FoundBox], frame_names: Sequence[str]) -> dict[int, list[FoundBox]]:
    """The boxes by the frames that their images are."""
    frames = {_key(name): frame for frame, name in enumerate(frame_names)}
    by_frame: dict[int, list[FoundBox]] = {}
    unused: dict[str | int, None] = {}
    for found in boxes:
        assert found.image is not None
        key = _key(found.image)
        frame = frames.get(key) if frame_names else _number(key)
        if frame is None:
            unused[found.image] = None
        else:
            by_frame.setdefault(frame, []).append(found)
    if unused:
        first = next(iter(unused))
        reason = f"the video has no frame {first!r}" if frame_names else f"{first!r} is no number of a frame"
        if not by_frame:
            raise UserError(f"{path} has no boxes for this video: {reason}")
        print_note(f"the boxes of {len(unused)} images in {path} are not used: {reason}")
    return by_frame


def _key(name: str | int) -> str | int:
    """The name of an image without folder and suffix; a number, if it is one."""
    if isinstance(name, int):
        return name
    path = Path(name)
    stem = path.stem if path.suffix.lower() in SUFFIXES else path.name  # YOLO's names have no suffix
    return int(stem) if stem.isdecimal() else stem


def _number(key: str | int) -> int | None:
    if isinstance(key, str):
        counted = COUNTED.fullmatch(key)
        return int(counted[1]) - 1 if counted and int(counted[1]) else None
    return key if key >= 0 else None


def _coco_video(path: Path, content: Mapping[str, Any]) -> Iterator[tuple[int, FoundBox]]:
    """The boxes of tracks: annotations with ``bboxes``, null on frames without the object."""
    try:
        (video,) = content["videos"]
        names = {category["id"]: str(category["name"]) for category in content.get("categories", ())}
        size = int(video["height"]), int(video["width"])
        for annotation in content["annotations"]:
            label, score = annotation["category_id"], read_score(annotation.get("score"))
            name = names.get(label, f"class{label}")
            for frame, bbox in enumerate(annotation["bboxes"]):
                if bbox is not None:
                    yield frame, FoundBox(None, name, coco_box(bbox), score, False, size)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is not COCO's format of one video, with annotations that have bboxes: {missing_or_wrong(error)}"
        ) from error


def _mot(path: Path) -> Iterator[tuple[int, FoundBox]]:
    """Lines ``frame,id,x,y,width,height,score,...`` of MOT Challenge, whose frames and pixels count from 1."""
    with as_user_error(OSError, UnicodeDecodeError):
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        values = line.replace(",", " ").split()
        try:
            frame, _, x, y, width, height = read_numbers(values[:6], (6,))
            if frame != int(frame) or frame < 1:
                raise ValueError("the frame is no number from 1")
            box, score = read_box((x - 1, y - 1, x - 1 + width, y - 1 + height)), read_score((*values[6:7], None)[0])
        except ValueError as error:
            raise UserError(
                f"{path}, line {number}: {line!r} is no line of MOT Challenge, such as '1,-1,100,50,20,40,0.9,-1,-1,-1'"
            ) from error
        yield int(frame) - 1, FoundBox(None, "", box, score, False, None)

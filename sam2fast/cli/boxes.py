"""Boxes of detectors: files of COCO, MOT and YOLO, as prompts for images, or by the frames of a video."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sam2fast.cli.prompt_texts import Reason, read_box, read_json, read_numbers
from sam2fast.cli.prompts import Box, Prompts
from sam2fast.cli.user_errors import UserError, as_user_error, print_note
from sam2fast.io.images import SUFFIXES

CLASSES = "classes.txt"  # of YOLO: a name in each line
OUTSIDE = 0.01  # how far YOLO's coordinates may lie outside the image, as shares of its sides
COUNTED = re.compile(r".*_(\d+)")  # a frame that Ultralytics names after its video, counting from 1


class FoundBox(NamedTuple):
    """A box of a detector."""

    image: str | int | None  # its name or number; None for every image
    label: str  # the name of the class; empty in a format without classes
    box: Box
    score: float | None
    is_relative: bool  # the box is in shares of the image's width and height
    size: tuple[int, int] | None  # (height, width) of the image that the box is for, if it is stated


def read_boxes(path: Path) -> list[Prompts]:
    """The boxes of a file or folder, named after their class: ``person_1``, ``person_2``, ``dog_1``, in each image.

    Args:
        path: a ``.json`` file in COCO's format, of a data set or of detections; a folder of YOLO's ``STEM.txt`` for
            each image, with the names of the classes in ``classes.txt``, there or in the folder above; or one such
            file, for all images.
    """
    boxes = list(_coco(path, read_json(path)) if path.suffix.lower() == ".json" else _yolo(path))
    if any(isinstance(found.image, int) for found in boxes):
        print_note(
            f"{path} numbers its images: image_id 7 is taken for 7.jpg, 007.jpg and the like; the key file_name of "
            "a detection names another image"
        )
    if not boxes:
        print_note(f"no boxes in {path}")
    counts: Counter[tuple[str | int | None, str]] = Counter()
    prompts = []
    for image, label, box, _, is_relative, size in boxes:
        counts[image, label] += 1
        name = f"{label}_{counts[image, label]}"
        prompts.append(Prompts(box=box, object=name, image=image, is_relative=is_relative, size=size))
    return prompts


def read_detections(path: Path, frame_names: Sequence[str]) -> dict[int, list[FoundBox]]:
    """The boxes of a file or folder, by frame.

    Args:
        path: a ``.json`` file in COCO's format for videos, or for images, or COCO's list of detections; a ``.txt`` file
            of MOT Challenge; or a folder of YOLO's ``STEM.txt`` for each frame.
        frame_names: of the images of a folder, empty for other videos, whose frames are named by their numbers.
    """
    if path.suffix.lower() != ".json":
        by_frame = _by_name(path, _yolo(path), frame_names) if path.is_dir() else _by_number(_mot(path))
    else:
        content = read_json(path)
        is_video = isinstance(content, dict) and "videos" in content
        boxes = _coco(path, content)
        by_frame = _by_number(boxes) if is_video else _by_name(path, boxes, frame_names)
    if not by_frame:
        print_note(f"no boxes in {path}")
    return by_frame


class BoxArguments(NamedTuple):
    """Arguments of ``VideoStream.add_detections``."""

    boxes: list[tuple[float, ...]]
    labels: list[str] | None
    scores: list[float]


@dataclass(frozen=True)
class DetectionFile:
    """All boxes of a video, by frame.

    Args:
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


def _by_number(boxes: Iterable[FoundBox]) -> dict[int, list[FoundBox]]:
    by_frame = defaultdict(list)
    for found in boxes:
        by_frame[int(found.image or 0)].append(found._replace(image=None))
    return dict(by_frame)


def _by_name(path: Path, boxes: Iterable[FoundBox], frame_names: Sequence[str]) -> dict[int, list[FoundBox]]:
    """The boxes by the frames that their images are."""
    frames = {_key(name): frame for frame, name in enumerate(frame_names)}
    by_frame, unused = defaultdict(list), dict[str | int, None]()
    for found in boxes:
        assert found.image is not None
        key = _key(found.image)
        frame = frames.get(key) if frame_names else _number(key)
        if frame is None:
            unused[found.image] = None
        else:
            by_frame[frame].append(found)
    if unused:
        first = next(iter(unused))
        reason = f"the video has no frame {first!r}" if frame_names else f"{first!r} is no number of a frame"
        if not by_frame:
            raise UserError(f"{path} has no boxes for this video: {reason}")
        print_note(f"the boxes of {len(unused)} images in {path} are not used: {reason}")
    return dict(by_frame)


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


def _coco(path: Path, content: Any) -> Iterator[FoundBox]:
    """The boxes of a data set of images or of one video, whose frames are numbers, or of a list of detections."""
    expected = "format, with images and annotations that have a bbox, or with detections that have image_id, "
    expected += "category_id and bbox"
    try:
        if isinstance(content, list):
            yield from map(_detection, content)
            return
        names = {category["id"]: str(category["name"]) for category in content.get("categories", ())}
        if "videos" in content:
            expected = "format of one video, with annotations that have bboxes"
            (video,) = content["videos"]
            images, size = {}, (int(video["height"]), int(video["width"]))
        else:
            images, size = {image["id"]: image for image in content["images"]}, None
        for annotation in content["annotations"]:
            label, score = annotation["category_id"], _score(annotation.get("score"))
            name = names.get(label, f"class{label}")
            if size is not None:
                places = [(t, bbox) for t, bbox in enumerate(annotation["bboxes"]) if bbox is not None]
                yield from (FoundBox(t, name, _coco_box(bbox), score, False, size) for t, bbox in places)
            else:
                image = images[annotation["image_id"]]
                box, stated = _coco_box(annotation["bbox"]), _stated_size(image)
                yield FoundBox(str(image["file_name"]), name, box, score, False, stated)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(f"{path} is not COCO's {expected}: {why}") from error


def _detection(detection: Mapping[str, Any]) -> FoundBox:
    """Of ``{"image_id", "category_id", "bbox", "score"}``, optionally with ``file_name``."""
    image = detection["file_name" if "file_name" in detection else "image_id"]
    if isinstance(image, bool) or not isinstance(image, str | int):
        raise Reason(f"image_id is {image!r}; expected a number or a name")
    box, score = _coco_box(detection["bbox"]), _score(detection.get("score"))
    return FoundBox(image, f"class{detection['category_id']}", box, score, False, None)


def _coco_box(bbox: Any) -> Box:
    x, y, width, height = read_numbers(bbox, (4,), "bbox")
    return read_box((x, y, x + width, y + height))


def _score(value: Any) -> float | None:
    return None if value is None else read_numbers([value], (1,), "score")[0]


def _stated_size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """The (height, width) that a data set states for an image, or None."""
    stated = image.get("height"), image.get("width")
    if None in stated or 0 in stated:
        return None
    height, width = read_numbers(stated, (2,), "the image's size")
    return int(height), int(width)


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    with as_user_error(OSError, UnicodeDecodeError):
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def _yolo(path: Path) -> Iterator[FoundBox]:
    """The boxes of a folder with ``STEM.txt`` for each image, or of one such file, for all images.

    Lines are ``class x y width height [confidence [track]]`` or ``class x y x y x y ... [confidence]``, and coordinates
    shares of the image's sides. Keypoints, or a track's number after a polygon, would be taken for corners.
    """
    files = [path]
    with as_user_error(OSError):
        if path.is_dir():
            files = sorted(file for file in path.glob("*.txt") if file.name != CLASSES)
            if not files:
                raise UserError(f"no files of boxes in {path}; expected COCO's .json, or .txt files of YOLO")
    for file in files:
        classes = next((f for f in (file.parent / CLASSES, file.parent.parent / CLASSES) if f.is_file()), None)
        with as_user_error(OSError, UnicodeDecodeError):
            names = classes.read_text(encoding="utf-8-sig").splitlines() if classes else []
        for number, line in _lines(file):
            try:
                label, *values = line.split()
                index, (box, score) = int(label), _yolo_box([float(value) for value in values])
            except ValueError as error:
                why = f": {error}" if isinstance(error, Reason) else ""
                raise UserError(
                    f"{file}, line {number}: {line!r} is no line of YOLO, such as '0 0.5 0.5 0.2 0.3'{why}"
                ) from error
            name = names[index] if 0 <= index < len(names) else f"class{index}"
            yield FoundBox(file.stem if path.is_dir() else None, name, box, score, True, None)


def _yolo_box(values: list[float]) -> tuple[Box, float | None]:
    """The box and the confidence; raises ValueError for anything else."""
    values = values[:5] if _is_tracked(values) else values
    score = _score(values.pop()) if len(values) % 2 else None
    if not _are_shares(*values) or (score is not None and score > 1):
        raise Reason("coordinates and confidence are from 0 to 1")
    if len(values) == 4:
        x, y, width, height = values
        return read_box((x - width / 2, y - height / 2, x + width / 2, y + height / 2)), score
    if len(values) < 6:
        raise Reason("neither a box nor a polygon")
    columns, rows = values[::2], values[1::2]
    return read_box((min(columns), min(rows), max(columns), max(rows))), score


def _is_tracked(values: list[float]) -> bool:
    """Whether these are a box in the image, its confidence and the number of its track; else a triangle has six."""
    if len(values) != 6 or values[5] < 1 or not values[5].is_integer():
        return False
    x, y, width, height = values[:4]
    is_box = width > 0 and height > 0
    return is_box and _are_shares(x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _are_shares(*values: float) -> bool:
    return all(-OUTSIDE <= value <= 1 + OUTSIDE for value in values)


def _mot(path: Path) -> Iterator[FoundBox]:
    """Lines ``frame,id,x,y,width,height,score,...`` of MOT Challenge, whose frames and pixels count from 1."""
    for number, line in _lines(path):
        values = line.replace(",", " ").split()
        try:
            frame, _, x, y, width, height = read_numbers(values[:6], (6,))
            if frame != int(frame) or frame < 1:
                raise ValueError("the frame is no number from 1")
            box, score = read_box((x - 1, y - 1, x - 1 + width, y - 1 + height)), _score((*values[6:7], None)[0])
        except ValueError as error:
            raise UserError(
                f"{path}, line {number}: {line!r} is no line of MOT Challenge, such as '1,-1,100,50,20,40,0.9,-1,-1,-1'"
            ) from error
        yield FoundBox(int(frame) - 1, "", box, score, False, None)

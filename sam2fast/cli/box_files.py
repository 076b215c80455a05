"""Reads files of boxes: COCO, YOLO and MOT Challenge. Unusable items are left out and counted."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sam2fast.cli.left_out import LeftOut
from sam2fast.cli.prompt_texts import NO_AREA, NoArea, Reason, read_box, read_json, read_numbers
from sam2fast.cli.prompts import Box
from sam2fast.cli.user_errors import USER_ERRORS, UserError, format_error, print_note
from sam2fast.io.image_names import ImageName, coco_name

CLASSES, DATA = "classes.txt", "data.yaml"  # YOLO's files with class names
FOLDERS_ABOVE = 2  # number of folders above the input that are searched for files with class names
OUTSIDE = 0.01  # maximum distance of YOLO's coordinates from the image, as a fraction of the image's sides
OF_IMAGES = (
    ", with images and annotations that have a bbox, or with detections that have image_id, category_id and bbox"
)
OF_VIDEO = " of one video, with annotations that have bboxes"
YOLO_LINE = "it is not a line of YOLO, such as '0 0.5 0.5 0.2 0.3'"
MOT_LINE = "it is not a line of MOT Challenge, such as '1,-1,100,50,20,40,0.9,-1,-1,-1'"


class FoundBox(NamedTuple):
    """A box of a detector."""

    image: ImageName | None  # None if the box is for all images, or if frames are numbered
    frame: int | None  # frame index from 0, in formats with frame numbers
    label: str  # name of the class; empty in formats without classes
    box: Box
    score: float | None  # confidence of the box
    is_relative: bool  # True if the box is in fractions of the image's width and height
    size: tuple[int, int] | None  # (height, width) that the file states for the image
    where: str  # file and line or entry of the box, for messages


class NoBoxError(UserError):
    """Raised if all boxes of a file are left out."""


@dataclass
class BoxFile:
    """The content of a file or folder of boxes."""

    path: Path
    boxes: list[FoundBox] = field(default_factory=list)  # usable boxes
    names: dict[ImageName, None] = field(default_factory=dict)  # names of all images, including images without boxes
    counts_frames: bool = False  # True if the boxes have frame numbers
    left_out: LeftOut = field(default_factory=LeftOut)  # counts of unusable items

    @contextmanager
    def item(self, where: str, otherwise: str = "it is malformed") -> Iterator[None]:
        """Counts the item as left out if the block raises an error. ``otherwise`` is the default reason."""
        try:
            yield
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            if isinstance(error, KeyError):
                why = f"{error} is missing"
            elif isinstance(error, NoArea):
                why = NO_AREA
            else:
                why = str(error) if isinstance(error, Reason) else otherwise
            self.left_out.add("box", why, where)

    def check(self) -> None:
        """Raises NoBoxError if all boxes of the file are left out."""
        if self.left_out and not self.boxes:
            raise NoBoxError(f"{self.path} has no usable box; left out: {self.left_out}")


def read_box_file(path: Path, of_video: bool = False) -> BoxFile:
    """Reads all boxes of a COCO ``.json``, a YOLO folder, or a text file: MOT Challenge for videos, else YOLO."""
    file = BoxFile(path)
    if path.suffix.lower() == ".json":
        _read_coco(file, read_json(path))
    elif of_video and not path.is_dir():
        _read_mot(file)
    else:
        _read_yolo(file)
    return file


def _read_coco(file: BoxFile, content: Any) -> None:
    """Reads a data set of images or of one video, or a list of detections."""
    if isinstance(content, list):
        for number, detection in enumerate(content, 1):
            with file.item(where := f"{file.path}, detection {number}"):
                image = detection["file_name" if detection.get("file_name") else "image_id"]
                if isinstance(image, float) and image.is_integer():
                    image = int(image)
                if isinstance(image, bool) or not isinstance(image, str | int) or not str(image).strip():
                    raise Reason("its image_id is not a number or a name")
                box, score = _box_of(detection), _score(detection.get("score"))
                label, key = f"class{_identifier(detection['category_id'])}", ImageName.of(image, file.path)
                file.names[key] = None
                file.boxes.append(FoundBox(key, None, label, box, score, False, None, where))
        return
    expected = OF_IMAGES
    try:
        if not isinstance(content, Mapping):
            raise TypeError(f"it is {str(content)[:40]!r}")
        categories = [c for c in content.get("categories") or () if isinstance(c, Mapping) and "name" in c]
        labels = {_identifier(category.get("id")): str(category["name"]) for category in categories}
        if "videos" in content:
            expected, file.counts_frames = OF_VIDEO, True
            (video,) = content["videos"]
            height, width = read_numbers([video["height"], video["width"]], (2,), "the video's size")
            size = int(height), int(width)
        else:
            listed = [image for image in _list_of(content, "images") if isinstance(image, Mapping)]
            images = {_identifier(image.get("id")): image for image in listed}
        annotations = _list_of(content, "annotations")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(f"{file.path} is not COCO's format{expected}: {why}") from error
    if not file.counts_frames:
        by_id = {key: ImageName.of(coco_name(image), file.path) for key, image in images.items() if coco_name(image)}
        file.names = dict.fromkeys(by_id.values())
    for number, annotation in enumerate(annotations, 1):
        has_id = isinstance(annotation, Mapping) and isinstance(annotation.get("id"), str | int)
        where = f"{file.path}, annotation {annotation['id'] if has_id else f'number {number}'}"
        with file.item(where):
            if _identifier(annotation.get("iscrowd") or 0) not in ("0", "False", "false"):
                raise Reason("it is a crowd: iscrowd is 1")
            label, score = _identifier(annotation["category_id"]), _score(annotation.get("score"))
            name = labels.get(label, f"class{label}")
            if file.counts_frames:
                for frame, bbox in enumerate(annotation["bboxes"]):
                    with file.item(place := f"{where}, frame {frame}"):
                        if bbox is not None:
                            box = _coco_box(bbox)
                            file.boxes.append(FoundBox(None, frame, name, box, score, False, size, place))
            else:
                image = _identifier(annotation["image_id"])
                if image not in by_id:
                    why = "its image has no file_name" if image in images else "its image_id is not among the images"
                    raise Reason(why)
                box, stated = _box_of(annotation), _stated_size(images[image])
                file.boxes.append(FoundBox(by_id[image], None, name, box, score, False, stated, where))


def _list_of(content: Mapping[str, Any], key: str) -> list[Any]:
    items = content[key]
    if not isinstance(items, list):
        raise TypeError(f"{key} is not a list")
    return items


def _identifier(value: Any) -> str:
    """Returns an id or a class as text. The ids 1, 1.0 and "1" have the same text."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _box_of(annotation: Mapping[str, Any]) -> Box:
    """Returns the box of an annotation. Without a box, returns the bounds of the polygons."""
    polygons = annotation.get("segmentation")
    if annotation.get("bbox") or not polygons or not isinstance(polygons, list):
        return _coco_box(annotation["bbox"])
    values = [read_numbers(polygon, (len(polygon) // 2 * 2,), "its polygon") for polygon in polygons]
    columns = [x for polygon in values for x in polygon[::2]]
    rows = [y for polygon in values for y in polygon[1::2]]
    return read_box((min(columns), min(rows), max(columns), max(rows)))


def _coco_box(bbox: Any) -> Box:
    x, y, width, height = read_numbers(bbox, (4,), "bbox")
    return read_box((x, y, x + width, y + height))


def _score(value: Any) -> float | None:
    return None if value is None else read_numbers([value], (1,), "score")[0]


def _stated_size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """Returns the (height, width) that a data set states for an image, or None."""
    stated = image.get("height"), image.get("width")
    if None in stated:
        return None
    height, width = read_numbers(stated, (2,), "the image's size")
    return (int(height), int(width)) if int(height) > 0 and int(width) > 0 else None


def _read_text(file: Path) -> str:
    """Reads a text file. Raises UserError for a file not in UTF-8."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: it is not text in UTF-8 ({error})") from error


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yields the numbers and texts of the lines that are not blank."""
    return ((number, line) for number, line in enumerate(_read_text(file).splitlines(), 1) if line.strip())


def _read_yolo(file: BoxFile) -> None:
    """Reads a folder with YOLO's ``STEM.txt`` for each image (subfolders included), or one YOLO file for all images.

    Lines are ``class x y width height [confidence [track]]`` or ``class x y x y x y ... [confidence]``. Coordinates are
    fractions of the image's sides. Keypoints, and a track id after a polygon, are read as corners.
    """
    path, names = file.path, dict[Path, Mapping[str, str]]()
    if not path.is_dir():
        _read_yolo_lines(file, path, None, _class_names(path, 1))
        return
    files = sorted(path.rglob("*.txt"))
    labels = [one for one in files if one.name != CLASSES and not one.name.startswith(".") and one.is_file()]
    if not labels:
        raise UserError(f"no files of boxes in {path}; expected COCO's .json, or .txt files of YOLO")
    for label in labels:
        image = ImageName.of_label(label, path)
        file.names[image] = None
        if label.parent not in names:
            names[label.parent] = _class_names(label, len(label.relative_to(path).parts))
        try:
            _read_yolo_lines(file, label, image, names[label.parent])
        except USER_ERRORS as error:
            file.left_out.add("file of boxes", "it cannot be read", format_error(error))


def _read_yolo_lines(file: BoxFile, label: Path, image: ImageName | None, names: Mapping[str, str]) -> None:
    for number, line in _lines(label):
        with file.item(where := f"{label}, line {number}", YOLO_LINE):
            index, *values = map(float, line.split())
            if not index.is_integer():
                raise Reason("the class is not an integer")
            box, score = _yolo_box(values)
            name = names.get(str(int(index)), f"class{int(index)}")
            file.boxes.append(FoundBox(image, None, name, box, score, True, None, where))


def _class_names(label: Path, depth: int) -> Mapping[str, str]:
    """Returns YOLO's class names by number, from the nearest file with class names in the folders above."""
    for folder in label.absolute().parents[: depth + FOLDERS_ABOVE]:
        for name, read in ((CLASSES, str.splitlines), (DATA, _names_of_data)):
            source = folder / name
            names = read(_read_text(source)) if source.is_file() else None
            if names:
                items = names.items() if isinstance(names, Mapping) else enumerate(names)
                return {str(index): str(name).strip() for index, name in items}
    return {}


def _names_of_data(text: str) -> Mapping[str, Any] | Sequence[Any] | None:
    """Returns ``names`` of YOLO's ``data.yaml``: a list, a dict, or None."""
    try:
        content = yaml.BaseLoader(text).get_single_data()  # reads all values as strings, even "no" and "on"
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        print_note(f"{DATA} is not valid YAML, so its class names are not used: {format_error(error)}")
        return None
    names = content.get("names") if isinstance(content, Mapping) else None
    return names if isinstance(names, Mapping | list) else None


def _yolo_box(values: list[float]) -> tuple[Box, float | None]:
    """Returns a line's box (in fractions) and confidence. Raises Reason for unusable values."""
    values = values[:5] if _is_tracked(values) else values
    score = _score(values.pop()) if len(values) % 2 else None
    if not _are_fractions(*values) or (score is not None and score > 1):
        raise Reason("coordinates and confidence must be from 0 to 1")
    if len(values) == 4:
        x, y, width, height = values
        return read_box((x - width / 2, y - height / 2, x + width / 2, y + height / 2)), score
    if len(values) < 6:
        raise Reason("it is neither a box nor a polygon")
    columns, rows = values[::2], values[1::2]
    return read_box((min(columns), min(rows), max(columns), max(rows))), score


def _is_tracked(values: list[float]) -> bool:
    """Returns True if the values are a box, confidence and track id, and False if six values are a triangle."""
    if len(values) != 6 or values[5] < 1 or not values[5].is_integer():
        return False
    x, y, width, height = values[:4]
    is_box = width > 0 and height > 0
    return is_box and _are_fractions(x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _are_fractions(*values: float) -> bool:
    return all(-OUTSIDE <= value <= 1 + OUTSIDE for value in values)


def _read_mot(file: BoxFile) -> None:
    """Reads lines ``frame,id,x,y,width,height,score,...`` of MOT Challenge. Frames and pixels are counted from 1."""
    file.counts_frames = True
    for number, line in _lines(file.path):
        values = line.replace(",", " ").split()
        with file.item(where := f"{file.path}, line {number}", MOT_LINE):
            frame, x, y, width, height = map(float, (values[0], *values[2:6]))  # raises if the line has fewer values
            if not frame.is_integer() or frame < 1:
                raise ValueError("the frame is not a number from 1")
            box = read_box((x - 1, y - 1, x - 1 + width, y - 1 + height))
            score = _score((*values[6:7], None)[0])
            file.boxes.append(FoundBox(None, int(frame) - 1, "", box, score, False, None, where))

"""Boxes of detectors: files of YOLO and of COCO, and prompts of ``sam2fast segment`` from them."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from sam2fast.cli.object_prompts import ObjectPrompt
from sam2fast.cli.prompt_files import read_box, read_json
from sam2fast.cli.prompt_options import Box, Prompts, Reason, read_numbers
from sam2fast.cli.user_errors import UserError, as_user_error, print_note

CLASSES = "classes.txt"  # of YOLO: a name in each line
OUTSIDE = 0.01  # how far YOLO's coordinates may lie outside the image, as shares of its sides
# The name or number of the image, its (height, width) if stated, the name of the class, COCO's box and the score.
_Found: TypeAlias = tuple[str | int, tuple[int, int] | None, str, Any, Any]


class FoundBox(NamedTuple):
    """A box of a detector."""

    image: str | int | None  # its name or number; None for every image
    label: str  # the name of the class
    box: Box
    score: float | None
    is_relative: bool  # the box is in shares of the image's width and height
    size: tuple[int, int] | None  # (height, width) of the image that the box is for, if it is stated


def read_boxes(path: Path) -> list[ObjectPrompt]:
    """The boxes of a file or folder, named after their class: ``person_1``, ``person_2``, ``dog_1``, in each image.

    Args:
        path: a ``.json`` file in COCO's format, of a data set or of detections; a folder of YOLO's ``STEM.txt`` for
            each image, with the names of the classes in ``classes.txt``, there or in the folder above; or one such
            file, for all images.
    """
    if path.suffix.lower() == ".json":
        boxes = list(coco_boxes(path, read_json(path)))
        if any(isinstance(found.image, int) for found in boxes):
            print_note(
                f"{path} numbers its images: image_id 7 is taken for 7.jpg, 007.jpg and the like; the key file_name of "
                "a detection names another image"
            )
    else:
        boxes = list(yolo_boxes(path))
    if not boxes:
        print_note(f"no boxes in {path}")
    counts: dict[str | int | None, Counter[str]] = defaultdict(Counter)
    return [
        ObjectPrompt(_numbered(counts[image], label), Prompts(box=box), image, is_relative, size)
        for image, label, box, _, is_relative, size in boxes
    ]


def coco_boxes(path: Path, content: Any) -> Iterator[FoundBox]:
    """The boxes of a data set, or of a list of detections, which is the content of the file ``path``."""
    try:
        found = _detections(content) if isinstance(content, list) else _annotations(content)
        for image, size, label, bbox, score in found:
            yield FoundBox(image, label, coco_box(bbox), read_score(score), False, size)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is not COCO's format, with images and annotations that have a bbox, or with detections that have "
            f"image_id, category_id and bbox: {missing_or_wrong(error)}"
        ) from error


def coco_box(bbox: Any) -> Box:
    """The box of [x, y, width, height]; raises ValueError for anything else."""
    x, y, width, height = read_numbers(bbox, (4,), "bbox")
    return read_box((x, y, x + width, y + height))


def read_score(value: Any) -> float | None:
    """A finite number, or None if there is none; raises ValueError for anything else."""
    return None if value is None else read_numbers([value], (1,), "score")[0]


def _annotations(content: Mapping[str, Any]) -> Iterator[_Found]:
    """The annotations of a data set."""
    images = {image["id"]: image for image in content["images"]}
    names = {category["id"]: str(category["name"]) for category in content.get("categories", ())}
    for annotation in content["annotations"]:
        image, label = images[annotation["image_id"]], annotation["category_id"]
        name, score = names.get(label, f"class{label}"), annotation.get("score")
        yield str(image["file_name"]), _stated_size(image), name, annotation["bbox"], score


def _detections(content: Sequence[Mapping[str, Any]]) -> Iterator[_Found]:
    """A list of detections ``{"image_id", "category_id", "bbox", "score"}``, optionally with ``file_name``."""
    for detection in content:
        image = detection["file_name" if "file_name" in detection else "image_id"]
        if isinstance(image, bool) or not isinstance(image, str | int):
            raise Reason(f"image_id is {image!r}; expected a number or a name")
        yield image, None, f"class{detection['category_id']}", detection["bbox"], detection.get("score")


def _stated_size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """The (height, width) that a data set states for an image, or None."""
    stated = image.get("height"), image.get("width")
    if None in stated or 0 in stated:
        return None
    height, width = read_numbers(stated, (2,), "the image's size")
    return int(height), int(width)


def yolo_boxes(path: Path) -> Iterator[FoundBox]:
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
        with as_user_error(OSError, UnicodeDecodeError):
            lines = file.read_text(encoding="utf-8-sig").splitlines()
            names = _class_names(file.parent)
        for number, line in enumerate(lines, 1):
            values = line.split()
            if not values:
                continue
            try:
                label, (box, score) = int(values[0]), _yolo_box([float(value) for value in values[1:]])
            except ValueError as error:
                why = f": {error}" if isinstance(error, Reason) else ""
                raise UserError(
                    f"{file}, line {number}: {line!r} is no line of YOLO, such as '0 0.5 0.5 0.2 0.3'{why}"
                ) from error
            name = names.get(label, f"class{label}")
            yield FoundBox(file.stem if path.is_dir() else None, name, box, score, True, None)


def _yolo_box(values: list[float]) -> tuple[Box, float | None]:
    """The box and the confidence; raises ValueError for anything else."""
    values = values[:5] if _is_tracked(values) else values
    score = read_score(values.pop()) if len(values) % 2 else None
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


def _class_names(folder: Path) -> Mapping[int, str]:
    for file in (folder / CLASSES, folder.parent / CLASSES):
        if file.is_file():
            return dict(enumerate(file.read_text(encoding="utf-8-sig").splitlines()))
    return {}


def _numbered(counts: Counter[str], label: str) -> str:
    counts[label] += 1
    return f"{label}_{counts[label]}"


def missing_or_wrong(error: Exception) -> Any:
    """What a JSON file lacks, or what is wrong there."""
    return f"{error} is missing" if isinstance(error, KeyError) else error

"""Boxes of detectors as prompts of ``sam2fast segment``: files of YOLO and of COCO."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from sam2fast.cli.object_prompts import ObjectPrompt
from sam2fast.cli.prompt_files import read_box, read_json
from sam2fast.cli.prompt_options import Box, Prompts, Reason, read_numbers
from sam2fast.cli.user_errors import UserError, as_user_error, print_note

CLASSES = "classes.txt"  # of YOLO: a name in each line
# The name or number of the image, its (height, width) if stated, the name of the class, and COCO's box.
_Found: TypeAlias = tuple[str | int, tuple[int, int] | None, str, Any]


def read_boxes(path: Path) -> list[ObjectPrompt]:
    """The boxes of a file or folder, named after their class: ``person_1``, ``person_2``, ``dog_1``, in each image.

    Args:
        path: a ``.json`` file in COCO's format, of a data set or of detections; a folder of YOLO's ``STEM.txt`` for
            each image, with the names of the classes in ``classes.txt``, there or in the folder above; or one such
            file, for all images.
    """
    if path.suffix.lower() == ".json":
        found = list(_from_coco(path))
    elif path.is_dir():
        with as_user_error(OSError):
            files = sorted(file for file in path.glob("*.txt") if file.name != CLASSES)
        if not files:
            raise UserError(f"no files of boxes in {path}; expected COCO's .json, or .txt files of YOLO")
        found = [prompt for file in files for prompt in _from_yolo(file, file.stem)]
    else:
        found = list(_from_yolo(path, None))
    if not found:
        print_note(f"no boxes in {path}")
    return found


def _from_coco(path: Path) -> Iterator[ObjectPrompt]:
    content = read_json(path)
    counts: dict[str | int, Counter[str]] = defaultdict(Counter)
    try:
        found = _detections(content) if isinstance(content, list) else _annotations(content)
        for image, size, label, bbox in found:
            x, y, width, height = read_numbers(bbox, (4,), "bbox")
            prompts = Prompts(box=read_box((x, y, x + width, y + height)))
            yield ObjectPrompt(_numbered(counts[image], label), prompts, image, size=size)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is not COCO's format, with images and annotations that have a bbox, or with detections that have "
            f"image_id, category_id and bbox: {_reason(error)}"
        ) from error
    if any(isinstance(image, int) for image in counts):
        print_note(
            f"{path} numbers its images: image_id 7 is taken for 7.jpg, 007.jpg and the like; the key file_name of a "
            "detection names another image"
        )


def _annotations(content: Mapping[str, Any]) -> Iterator[_Found]:
    """The annotations of a data set."""
    images = {image["id"]: image for image in content["images"]}
    names = {category["id"]: str(category["name"]) for category in content.get("categories", ())}
    for annotation in content["annotations"]:
        image, label = images[annotation["image_id"]], annotation["category_id"]
        yield str(image["file_name"]), _stated_size(image), names.get(label, f"class{label}"), annotation["bbox"]


def _detections(content: Sequence[Mapping[str, Any]]) -> Iterator[_Found]:
    """A list of detections ``{"image_id", "category_id", "bbox", "score"}``, optionally with ``file_name``."""
    for detection in content:
        image = detection["file_name" if "file_name" in detection else "image_id"]
        if isinstance(image, bool) or not isinstance(image, str | int):
            raise Reason(f"image_id is {image!r}; expected a number or a name")
        yield image, None, f"class{detection['category_id']}", detection["bbox"]


def _stated_size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """The (height, width) that a data set states for an image, or None."""
    stated = image.get("height"), image.get("width")
    if None in stated or 0 in stated:
        return None
    height, width = read_numbers(stated, (2,), "the image's size")
    return int(height), int(width)


def _from_yolo(path: Path, image: str | None) -> Iterator[ObjectPrompt]:
    """The boxes of lines ``class x y width height [confidence]`` or ``class x y x y x y ... [confidence]``.

    Coordinates are shares of the image's sides. The confidence is not used.
    """
    with as_user_error(OSError, UnicodeDecodeError):
        lines = path.read_text(encoding="utf-8").splitlines()
        names = _class_names(path.parent)
    counts: Counter[str] = Counter()
    for number, line in enumerate(lines, 1):
        values = line.split()
        if not values:
            continue
        try:
            label, box = int(values[0]), _yolo_box([float(value) for value in values[1:]])
        except ValueError as error:
            raise UserError(
                f"{path}, line {number}: {line!r} is no line of YOLO, such as '0 0.5 0.5 0.2 0.3'"
            ) from error
        name = _numbered(counts, names.get(label, f"class{label}"))
        yield ObjectPrompt(name, Prompts(box=box), image, is_relative=True)


def _yolo_box(values: list[float]) -> Box:
    if len(values) in (4, 5):
        x, y, width, height = values[:4]
        return read_box((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    if len(values) < 6:
        raise Reason("neither a box nor a polygon")
    columns, rows = values[: len(values) // 2 * 2 : 2], values[1::2]
    return read_box((min(columns), min(rows), max(columns), max(rows)))


def _class_names(folder: Path) -> Mapping[int, str]:
    for file in (folder / CLASSES, folder.parent / CLASSES):
        if file.is_file():
            return dict(enumerate(file.read_text(encoding="utf-8").splitlines()))
    return {}


def _numbered(counts: Counter[str], label: str) -> str:
    counts[label] += 1
    return f"{label}_{counts[label]}"


def _reason(error: Exception) -> Any:
    return f"{error} is missing" if isinstance(error, KeyError) else error

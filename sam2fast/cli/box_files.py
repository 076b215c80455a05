"""Boxes of detectors as prompts of ``sam2fast segment``: files of YOLO and of COCO."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sam2fast.cli.object_prompts import ObjectPrompt
from sam2fast.cli.prompt_files import read_box, read_json
from sam2fast.cli.prompt_options import Box, Prompts, Reason, read_numbers
from sam2fast.cli.user_errors import UserError, as_user_error

CLASSES = "classes.txt"  # of YOLO: a name in each line


def read_boxes(path: Path) -> list[ObjectPrompt]:
    """The boxes of a file or folder, named after their class: ``person_1``, ``person_2``, ``dog_1``, in each image.

    Args:
        path: a ``.json`` file in COCO's format; a folder of YOLO's ``STEM.txt`` for each image, with the names of the
            classes in ``classes.txt``, there or in the folder above; or one such file, for all images.

    Raises:
        UserError: it cannot be read, or has no boxes.
    """
    if path.suffix.lower() == ".json":
        found = list(_from_coco(path))
    elif path.is_dir():
        with as_user_error(OSError):
            files = sorted(file for file in path.glob("*.txt") if file.name != CLASSES)
        found = [prompt for file in files for prompt in _from_yolo(file, file.stem)]
    else:
        found = list(_from_yolo(path, None))
    if not found:
        raise UserError(f"no boxes in {path}; expected COCO's .json, or .txt files of YOLO")
    return found


def _from_coco(path: Path) -> Iterator[ObjectPrompt]:
    content = read_json(path)
    try:
        images = {image["id"]: str(image["file_name"]) for image in content["images"]}
        names = {category["id"]: str(category["name"]) for category in content.get("categories", ())}
        counts: dict[str, Counter[str]] = {image: Counter() for image in images.values()}
        for annotation in content["annotations"]:
            x, y, width, height = read_numbers(annotation["bbox"], (4,), "bbox")
            image, label = images[annotation["image_id"]], annotation["category_id"]
            name = _numbered(counts[image], names.get(label, f"class{label}"))
            yield ObjectPrompt(name, Prompts(box=read_box((x, y, x + width, y + height))), image)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is not COCO's format, with images and annotations that have a bbox: {_reason(error)}"
        ) from error


def _from_yolo(path: Path, image: str | None) -> Iterator[ObjectPrompt]:
    """Lines ``class x y width height [confidence]``, or ``class`` and a polygon; all in shares of the image."""
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
    if len(values) < 6 or len(values) % 2:
        raise Reason("neither a box nor a polygon")
    columns, rows = values[::2], values[1::2]
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

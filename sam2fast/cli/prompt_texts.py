"""Reads prompts from options, JSON files and label images."""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from sam2fast.cli.left_out import LeftOut
from sam2fast.cli.prompts import BACKGROUND, FOREGROUND, Box, Click, ObjectId, Prompts, mask_file, note_fractions
from sam2fast.cli.user_errors import UserError
from sam2fast.io.image_names import ImageName, similar_path
from sam2fast.results.object_numbers import id_of_text

NAME = re.compile(r"\s*([^\W\d_][^,]*?)\s*,")  # an object's name begins with a letter, unlike a coordinate
NO_AREA = "its box has no area"  # reason in notes on left-out items
KEYS = ("points", "labels", "box", "mask")  # keys of a prompt in a file


class Reason(ValueError):
    """Raised if a text is not a valid prompt."""


class NoArea(Reason):
    """Raised if a box has no width or no height."""


class PromptType(click.ParamType):
    """The type of options of the form ``name``. ``read`` parses a text, and raises ValueError if it is invalid."""

    def __init__(self, name: str, example: str, read: Callable[[str], Any]) -> None:
        self.name, self.example, self.read = name, example, read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self.read(value)
        except ValueError as error:
            reason = f" ({error})" if isinstance(error, Reason) else ""
            hint, parts = "", value.split(",")
            if re.fullmatch(r"-?[\d.]+", value):
                hint = "; give numbers joined by commas, without spaces"
            elif self.name.startswith("FRAME,OBJ,X,") and len(parts) == 2 and all(parts):
                hint = f"; frame and object are missing: 0,1,{value}"
            self.fail(f"{value!r} is not {self.name}, such as {self.example}{reason}{hint}", param, ctx)


def _point(text: str) -> Prompts:
    x, y, *label = read_numbers(text.split(","), (2, 3))
    return Prompts((Click(x, y, read_label(label[0] if label else FOREGROUND)),))


def _box(text: str) -> Prompts:
    return Prompts(box=read_box(text.split(",")))


def _mask(text: str) -> Prompts:
    if not text:
        raise Reason("there is no file")
    return Prompts(mask=Path(text))


def _named(read: Callable[[str], Prompts]) -> Callable[[str], Prompts]:
    """Returns a function that reads ``[NAME,]`` and a prompt. The path of a mask file may contain a comma."""

    def read_named(text: str) -> Prompts:
        match = None if read is _mask and mask_file(Path(text))[0].is_file() else NAME.match(text)
        return replace(read(text[match.end() :] if match else text), object=match and match[1])

    return read_named


def _on_frame(read: Callable[[str], Prompts]) -> Callable[[str], Prompts]:
    """Returns a function that reads ``FRAME,OBJ,`` and a prompt."""

    def read_on_frame(text: str) -> Prompts:
        number, obj, rest = text.split(",", 2)
        return replace(read(rest), frame=frame(number), object=object_id(obj))

    return read_on_frame


def _labels_on_frame(text: str) -> list[Prompts]:
    number, file = text.split(",", 1)
    return read_label_image(_mask(file).mask or Path(), frame(number))


def _window(text: str) -> tuple[float, float]:
    low, high = read_numbers(text.split(","), (2,))
    if low >= high:
        raise Reason("expected LOW below HIGH")
    return low, high


POINT = PromptType("X,Y[,LABEL]", "500,375 or 500,375,0", _point)
BOX = PromptType("X0,Y0,X1,Y1", "425,600,700,875", _box)
IMAGE_POINT = PromptType("[NAME,]X,Y[,LABEL]", "500,375 or cup,500,375,0", _named(_point))
IMAGE_BOX = PromptType("[NAME,]X0,Y0,X1,Y1", "425,600,700,875 or cup,425,600,700,875", _named(_box))
IMAGE_MASK = PromptType("[NAME,]FILE[:LABEL]", "mask.png or cup,labels.png:2", _named(_mask))
VIDEO_POINT = PromptType("FRAME,OBJ,X,Y[,LABEL]", "0,1,500,375 or 0,dog,500,375,0", _on_frame(_point))
VIDEO_BOX = PromptType("FRAME,OBJ,X0,Y0,X1,Y1", "0,1,425,600,700,875", _on_frame(_box))
VIDEO_MASK = PromptType("FRAME,OBJ,FILE[:LABEL]", "0,1,mask.png or 0,dog,labels.png:2", _on_frame(_mask))
VIDEO_MASKS = PromptType("FRAME,FILE", "0,labels.png", _labels_on_frame)
WINDOW = PromptType("LOW,HIGH", "-160,240", _window)  # LOW becomes black, HIGH white


def read_label_image(path: Path, frame: int | None = None) -> list[Prompts]:
    """Returns a prompt for each label of an image, with the label as object. Raises UserError without labels."""
    from sam2fast.cli.mask_files import masks_of_labels

    labels = masks_of_labels(path).items()
    return [Prompts(mask=mask, object=str(i) if frame is None else i, frame=frame) for i, mask in labels]


def read_prompt_file(path: Path, place: str, left_out: LeftOut | None = None) -> list[Prompts]:
    """Reads the prompts of a file ``{"prompts": [{...}, ...]}``. Paths of masks are relative to the file's folder.

    Args:
        place: Key that names a prompt's frame or image: ``frame`` (required) or ``image`` (optional).
        left_out: Record that counts prompts with a box without area. If None, such prompts are errors.

    Raises:
        UserError: If the file or a prompt in the file is invalid.
    """
    content = read_json(path)
    entries = content.get("prompts") if isinstance(content, dict) else None
    if not isinstance(entries, list) or set(content) != {"prompts"}:
        raise UserError(f'{path} is not {{"prompts": [...]}}')
    required = ("frame", "object") if place == "frame" else ("object",)
    known, prompts = (*dict.fromkeys((*required, place)), *KEYS), []
    for number, entry in enumerate(entries, 1):
        try:
            if not isinstance(entry, Mapping):
                raise Reason(f"expected an object with {', '.join(known)}, got {entry!r}")
            unknown = sorted(set(entry) - set(known))
            if unknown:
                raise Reason(f"there is no key {unknown[0]!r}; the keys are {', '.join(known)}")
            if not set(required) <= set(entry):
                raise Reason(f"{' or '.join(required)} is missing")
            obj, image = object_id(entry["object"]), entry.get("image")
            if not (image is None or isinstance(image, str)):
                raise Reason(f"the image is {image!r}; expected the name of a file")
            where: dict[str, Any] = {"image": ImageName.of(image, path) if image else None}
            where = {"frame": frame(entry["frame"])} if place == "frame" else where
            prompts.append(replace(_entry(entry, path.parent), object=obj if place == "frame" else str(obj), **where))
        except ValueError as error:
            if left_out is None or not isinstance(error, NoArea):
                raise UserError(f"{path}, prompt {number}: {error}") from error
            left_out.add("prompt", NO_AREA, f"{path}, prompt {number}")
    if left_out and not prompts:
        raise UserError(f"{path} has no usable prompt; left out: {left_out}")
    note_fractions(prompts, f"the points and boxes in {path}")
    return prompts


def _entry(entry: Mapping[str, Any], folder: Path) -> Prompts:
    points, labels = entry.get("points") or [], entry.get("labels")
    if not isinstance(points, list) or not (labels is None or isinstance(labels, list)):
        raise Reason("points and labels must be lists")
    labels = [FOREGROUND] * len(points) if labels is None else labels
    if len(labels) != len(points):
        raise Reason(f"{len(labels)} labels for {len(points)} points")
    places = [read_numbers(point, (2,), "a point") for point in points]
    clicks = tuple(Click(x, y, read_label(label)) for (x, y), label in zip(places, labels, strict=True))
    box, mask = entry.get("box"), entry.get("mask")
    if mask is not None and not isinstance(mask, str):
        raise Reason(f"the mask is {mask!r}; expected the path of an image")
    return Prompts(clicks, None if box is None else read_box(box), None if mask is None else _mask_path(folder, mask))


def _mask_path(folder: Path, mask: str) -> Path:
    """Returns the path of ``FILE`` or ``FILE:LABEL`` in a folder; see :func:`~sam2fast.io.image_names.similar_path`."""
    file, label = mask_file(folder / mask)
    ending = "" if label is None else mask[mask.rindex(":") :]
    return file if not ending and file.is_file() else Path(f"{similar_path(folder, mask.removesuffix(ending))}{ending}")


def read_json(path: Path) -> Any:
    """Reads a JSON file. Raises UserError for invalid JSON."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error


# The functions below raise Reason for invalid values.


def object_id(value: Any) -> ObjectId:
    """Reads the id of an object: an integer, an integer as Python prints it, or a name such as ``dog`` or ``007``."""
    if isinstance(value, str) and (text := value.strip()):
        return id_of_text(text)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise Reason(f"the object is {value!r}; expected an integer or a name")


def frame(value: Any) -> int:
    """Reads the number of a frame from an integer or a string."""
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise Reason(f"the frame is {value!r}; expected a number from 0")


def read_box(values: Any) -> Box:
    """Reads a box of four numbers. Raises NoArea if the box has no area."""
    box = Box(*read_numbers(values, (4,), "the box"))
    if box.x1 == box.x0 or box.y1 == box.y0:
        raise NoArea("the box has no area; expected X0 < X1 and Y0 < Y1")
    if box.x1 < box.x0 or box.y1 < box.y0:
        raise NoArea(
            "the box has its corners the wrong way round; expected left, top, right, bottom, with X0 < X1 and Y0 < Y1"
        )
    return box


def read_label(value: Any) -> int:
    """Reads the label of a point."""
    if isinstance(value, bool) or value not in (FOREGROUND, BACKGROUND):
        raise Reason(f"the label is {value!r}; expected 1 (the object) or 0 (not the object)")
    return int(value)


def read_numbers(values: Any, counts: tuple[int, ...], what: str = "it") -> list[float]:
    """Reads a list of finite numbers or numeric strings. The length of the list must be one of ``counts``."""
    try:
        listed = values if isinstance(values, list | tuple) else ()
        numbers = [float(value) for value in listed if not isinstance(value, bool)]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    if len(numbers) not in counts or len(numbers) != len(values) or not all(map(math.isfinite, numbers)):
        raise Reason(f"{what} has not {' or '.join(map(str, counts))} finite numbers")
    return numbers

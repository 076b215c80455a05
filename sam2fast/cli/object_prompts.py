"""The objects of ``sam2fast segment``: prompts with and without names, for all images or for one."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from sam2fast.cli.prompt_files import object_id, read_entries
from sam2fast.cli.prompt_options import Box, BoxType, ClickType, Prompts, PromptType, Reason, mask_file
from sam2fast.cli.sources import InputSource
from sam2fast.cli.user_errors import UserError, as_user_error

NAME = re.compile(r"\s*([^\W\d_][^,]*?)\s*,")  # begins with a letter, unlike a coordinate


@dataclass(frozen=True)
class ObjectPrompt:
    """The prompts for one object.

    Attributes:
        name: of the object; None of the only one.
        image: the only image that they are for: its name, with or without suffix, or the number that is its name.
        is_relative: the box is in shares of the image's width and height.
        size: (height, width) of the image that the box is for, if it is stated.
    """

    name: str | None
    prompts: Prompts
    image: str | int | None = None
    is_relative: bool = False
    size: tuple[int, int] | None = None

    def __str__(self) -> str:
        return "the prompt" if self.name is None else f"the prompt for object {self.name!r}"

    def scaled(self, image: InputSource, width: int, height: int) -> Prompts:
        """The prompts in pixels of an image that is displayed with this size."""
        box = self.prompts.box
        if box is None:
            return self.prompts
        if self.is_relative:
            box = box.scaled(width, height)
        elif self.size not in (None, (height, width)):
            from sam2fast.datasets.displayed import DatasetError, displayed_box

            with image.file() as file, as_user_error(DatasetError):
                box = Box(*displayed_box(box, self.size, (height, width), file))
        return replace(self.prompts, box=box)


class _ObjectType(PromptType):
    """``[NAME,]`` and one prompt as text. Subclasses parse the prompt."""

    def read(self, text: str) -> ObjectPrompt:
        found = NAME.match(text)
        return ObjectPrompt(found and found[1], self._prompts(text[found.end() :] if found else text))

    def _prompts(self, text: str) -> Prompts:
        raise NotImplementedError


class ObjectPointType(_ObjectType):
    """``X,Y``, ``X,Y,LABEL`` and the same after a name."""

    name, example = "[NAME,]X,Y[,LABEL]", "500,375 or cup,500,375,0"

    def _prompts(self, text: str) -> Prompts:
        return Prompts((ClickType().read(text),))


class ObjectBoxType(_ObjectType):
    """``X0,Y0,X1,Y1`` and the same after a name."""

    name, example = "[NAME,]X0,Y0,X1,Y1", "425,600,700,875 or cup,425,600,700,875"

    def _prompts(self, text: str) -> Prompts:
        return Prompts(box=BoxType().read(text))


class ObjectMaskType(_ObjectType):
    """``FILE``, ``FILE:LABEL`` and the same after a name."""

    name, example = "[NAME,]FILE[:LABEL]", "mask.png or cup,labels.png:2"

    def read(self, text: str) -> ObjectPrompt:
        """An existing file with a comma in its name comes first."""
        is_file = mask_file(Path(text))[0].is_file()
        return ObjectPrompt(None, self._prompts(text)) if is_file else super().read(text)

    def _prompts(self, text: str) -> Prompts:
        if not text:
            raise Reason("there is no file")
        return Prompts(mask=Path(text))


def read_label_image(path: Path) -> list[ObjectPrompt]:
    """A prompt for each label of an image, with the label as the object's name. Raises UserError if it has none."""
    from sam2fast.cli.mask_files import masks_of_labels

    return [ObjectPrompt(str(label), Prompts(mask=mask)) for label, mask in masks_of_labels(path).items()]


def read_object_file(path: Path) -> list[ObjectPrompt]:
    """The prompts of a JSON file, in the form that docs/commands.md describes."""
    return read_entries(
        path,
        ("object",),
        ("image",),
        lambda entry, prompts: ObjectPrompt(str(object_id(entry["object"])), prompts, _image(entry.get("image"))),
    )


def _image(value: object) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value or None
    raise Reason(f"the image is {value!r}; expected the name of a file")


class ObjectPrompts:
    """All prompts of a command, as one for each object.

    Raises:
        click.UsageError: there is none, one is empty or given twice, or some have names and some have none.
    """

    def __init__(self, parts: Iterable[ObjectPrompt]) -> None:
        of_image: dict[str | int | None, list[ObjectPrompt]] = {}
        for part in parts:
            image = Path(part.image).name if isinstance(part.image, str) else part.image
            of_image.setdefault(image, []).append(part)
        self._of_image = {image: _merged(found) for image, found in of_image.items()}
        found = [one for objects in self._of_image.values() for one in objects]
        if not found:
            raise click.UsageError(
                "say what to segment, with --point, --box, --mask, --masks, --prompts or --boxes-from"
            )
        for one in found:
            if not one.prompts:
                raise click.UsageError(f"{one} is empty; expected points, a box or a mask")
        if None in {one.name for one in found} and len({one.name for one in found}) > 1:
            raise click.UsageError("some prompts have a name and some have none; name the objects of all, as NAME,X,Y")
        self.masks = {one.prompts.mask for one in found if one.prompts.mask is not None}
        self.mask_files = sorted({mask_file(mask)[0] for mask in self.masks})

    def of(self, image: InputSource) -> Sequence[ObjectPrompt]:
        """The objects of one image; may be none."""
        return _merged(one for key in (None, *_names_of(image)) for one in self._of_image.get(key, ()))

    def unused(self, images: Iterable[InputSource]) -> list[str]:
        """The images of prompts that are not among the given ones."""
        given = {name for image in images for name in _names_of(image)}
        return sorted(str(image) for image in self._of_image if image is not None and image not in given)

    def check_masks(self) -> None:
        """Checks that the files of masks exist."""
        for file in self.mask_files:
            if not file.is_file():
                raise UserError(f"no file {str(file)!r}")


def _names_of(image: InputSource) -> set[str | int]:
    """The names of an image in prompts."""
    number = {int(image.stem)} if image.stem.isdecimal() else set()
    return {image.file_name, image.stem, *number}


def _merged(parts: Iterable[ObjectPrompt]) -> list[ObjectPrompt]:
    """One prompt for each object."""
    merged: dict[str | None, ObjectPrompt] = {}
    for part in parts:
        merged[part.name] = _joined(merged[part.name], part) if part.name in merged else part
    return list(merged.values())


def _joined(one: ObjectPrompt, other: ObjectPrompt) -> ObjectPrompt:
    first, second = one.prompts, other.prompts
    for name in ("box", "mask"):
        if getattr(first, name) is not None and getattr(second, name) is not None:
            advice = "give one" if one.name else "give one, or name the objects: --box NAME,X0,Y0,X1,Y1"
            raise click.UsageError(f"{one} has two {name}{'es' if name == 'box' else 's'}; {advice}")
    clicks, box, mask = first.clicks + second.clicks, first.box or second.box, first.mask or second.mask
    boxed = one if first.box is not None else other
    return replace(one, prompts=Prompts(clicks, box, mask), is_relative=boxed.is_relative, size=boxed.size)

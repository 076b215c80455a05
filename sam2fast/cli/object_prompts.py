"""The objects of ``sam2fast segment``: prompts with and without names, for all images or for one."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from sam2fast.cli.prompt_files import object_id, read_entries
from sam2fast.cli.prompt_options import BoxType, ClickType, Prompts, PromptType, Reason
from sam2fast.cli.sources import InputSource
from sam2fast.cli.user_errors import UserError

NAME = re.compile(r"\s*([^\W\d_][^,]*?)\s*,")  # begins with a letter, so that it is no coordinate


@dataclass(frozen=True)
class ObjectPrompt:
    """The prompts for one object.

    Attributes:
        name: of the object; None of the only one.
        image: the name of the only image that they are for, with or without its suffix.
        is_relative: the box is in shares of the image's width and height.
    """

    name: str | None
    prompts: Prompts
    image: str | None = None
    is_relative: bool = False

    def __str__(self) -> str:
        return "the prompt" if self.name is None else f"the prompt for object {self.name!r}"

    def scaled(self, width: int, height: int) -> Prompts:
        """The prompts in pixels of an image of this size."""
        box = self.prompts.box
        if box is None or not self.is_relative:
            return self.prompts
        return replace(self.prompts, box=box.scaled(width, height))


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
    """``FILE`` and the same after a name."""

    name, example = "[NAME,]FILE", "mask.png or cup,mask.png"

    def read(self, text: str) -> ObjectPrompt:
        """See :class:`PromptType`; a file whose own name has a comma comes first."""
        return ObjectPrompt(None, self._prompts(text)) if os.path.isfile(text) else super().read(text)

    def _prompts(self, text: str) -> Prompts:
        if not text:
            raise Reason("there is no file")
        return Prompts(mask=Path(text))


def read_object_file(path: Path) -> list[ObjectPrompt]:
    """The prompts of a JSON file, in the form that docs/commands.md describes.

    Raises:
        UserError: the file cannot be read, or an entry is invalid.
    """
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
        of_image: dict[str | None, list[ObjectPrompt]] = {}
        for part in parts:
            of_image.setdefault(None if part.image is None else Path(part.image).name, []).append(part)
        self._of_image = {image: _merged(found) for image, found in of_image.items()}
        found = [one for objects in self._of_image.values() for one in objects]
        if not found:
            raise click.UsageError("say what to segment, with --point, --box, --mask, --prompts or --boxes-from")
        for one in found:
            if not one.prompts:
                raise click.UsageError(f"{one} is empty; expected points, a box or a mask")
        if None in {one.name for one in found} and len({one.name for one in found}) > 1:
            raise click.UsageError("some prompts have a name and some have none; name the objects of all, as NAME,X,Y")
        self.masks = {one.prompts.mask for one in found if one.prompts.mask is not None}

    def of(self, image: InputSource) -> Sequence[ObjectPrompt]:
        """The objects of one image, maybe none.

        Raises:
            click.UsageError: an object has two boxes or masks, for all images and for this one.
        """
        keys = (None, image.file_name, image.stem)
        return _merged(one for key in dict.fromkeys(keys) for one in self._of_image.get(key, ()))

    def unused(self, images: Iterable[InputSource]) -> list[str]:
        """The images that prompts are for, without those that are given."""
        given = {key for image in images for key in (image.file_name, image.stem)}
        return sorted(image for image in self._of_image if image is not None and image not in given)

    def check_masks(self) -> None:
        """Checks that the files of masks exist.

        Raises:
            UserError: one does not.
        """
        for mask in sorted(self.masks):
            if not mask.is_file():
                raise UserError(f"no file {str(mask)!r}")


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
    return replace(one, prompts=Prompts(clicks, box, mask), is_relative=one.is_relative or other.is_relative)

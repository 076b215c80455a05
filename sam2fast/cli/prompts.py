"""Prompts for objects in images and on frames of videos, joined to one for each object, and their checks."""

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import click

from sam2fast.cli.sources import InputSource
from sam2fast.cli.user_errors import UserError, as_user_error

ObjectId: TypeAlias = int | str
FOREGROUND, BACKGROUND = 1, 0
LABEL = re.compile(r"(.+):(\d+)")


class Click(NamedTuple):
    """A point in pixels of the image as displayed."""

    x: float
    y: float
    label: int


class Box(NamedTuple):
    """Corners in pixels of the image as displayed."""

    x0: float
    y0: float
    x1: float
    y1: float

    def scaled(self, width: float, height: float) -> "Box":
        """The box with its columns times ``width`` and its rows times ``height``."""
        return Box(self.x0 * width, self.y0 * height, self.x1 * width, self.y1 * height)


@dataclass(frozen=True)
class Prompts:
    """The prompts for one object; the mask is ``FILE`` or ``FILE:LABEL``.

    Attributes:
        object: its name (str) in an image, or None of the only one; its :data:`ObjectId` in a video.
        frame: the frame (int) of a video; None in an image.
        image: the only image that they are for: its name, with or without suffix, or the number that is its name.
        is_relative: the box is in shares of the image's width and height.
        size: (height, width) of the image that the box is for, if it is stated.
    """

    clicks: tuple[Click, ...] = ()
    box: Box | None = None
    mask: Path | None = None
    object: Any = None
    frame: Any = None
    image: str | int | None = None
    is_relative: bool = False
    size: tuple[int, int] | None = None

    def __bool__(self) -> bool:
        return bool(self.clicks) or self.box is not None or self.mask is not None

    def __str__(self) -> str:
        whose = "" if self.object is None else f" for object {self.object!r}"
        return f"the prompt{whose}" + ("" if self.frame is None else f" on frame {self.frame}")

    @property
    def is_ambiguous(self) -> bool:
        """Whether the prompt is a single click, for which the model predicts several masks."""
        return len(self.clicks) == 1 and self.box is None and self.mask is None

    @property
    def shows_object(self) -> bool:
        """Whether it has a box, a mask or a foreground click."""
        return self.box is not None or self.mask is not None or any(c.label == FOREGROUND for c in self.clicks)

    def outside(self, width: int, height: int) -> list[str]:
        """Clicks and boxes that lie outside an image of this size, as text. A box may reach beyond the edge."""
        found = [f"point {c.x:g},{c.y:g}" for c in self.clicks if not (0 <= c.x <= width and 0 <= c.y <= height)]
        if self.box is not None:
            x0, y0, x1, y1 = self.box
            if x1 < 0 or y1 < 0 or x0 > width or y0 > height:
                found.append(f"box {x0:g},{y0:g},{x1:g},{y1:g}")
        return found

    def scaled(self, image: InputSource, width: int, height: int) -> "Prompts":
        """The prompts in pixels of an image that is displayed with this size."""
        box = self.box
        if box is not None and self.is_relative:
            box = box.scaled(width, height)
        elif box is not None and self.size not in (None, (height, width)):
            from sam2fast.datasets.displayed import DatasetError, displayed_box

            with image.file() as file, as_user_error(DatasetError):
                box = Box(*displayed_box(box, self.size, (height, width), file))
        return Prompts(self.clicks, box, self.mask, self.object)

    def as_json(self) -> dict[str, Any]:
        """As JSON; ``labels`` are 1 for the object and 0 for what is not part of it."""
        return {
            "points": [[c.x, c.y] for c in self.clicks],
            "labels": [c.label for c in self.clicks],
            "box": None if self.box is None else list(self.box),
            "mask": None if self.mask is None else str(self.mask),
        }

    def as_entry(self) -> dict[str, Any]:
        """As an entry of a prompt file for videos."""
        return {"frame": self.frame, "object": self.object, **self.as_json()}

    def as_arguments(self) -> dict[str, Any]:
        """The arguments of ``add_new_points_or_box``, for a prompt without a mask."""
        entry = self.as_json()
        return {key: entry[key] or None for key in ("points", "labels", "box")}

    def joined(self, other: "Prompts") -> "Prompts":
        """Both as one, of the same object; two boxes or masks are a usage error."""
        for name in ("box", "mask"):
            if getattr(self, name) is not None and getattr(other, name) is not None:
                advice = "give one" if self.object else "give one, or name the objects: --box NAME,X0,Y0,X1,Y1"
                raise click.UsageError(f"{self} has two {name}{'es' if name == 'box' else 's'}; {advice}")
        boxed = self if self.box is not None else other
        clicks, mask = self.clicks + other.clicks, self.mask or other.mask
        return replace(self, clicks=clicks, box=boxed.box, mask=mask, is_relative=boxed.is_relative, size=boxed.size)


def merged(parts: Iterable[Prompts], key: Callable[[Prompts], Hashable]) -> list[Prompts]:
    """One prompt for each key, in the order given."""
    found: dict[Hashable, Prompts] = {}
    for part in parts:
        found[key(part)] = found[key(part)].joined(part) if key(part) in found else part
    return list(found.values())


def merge_prompts(parts: Iterable[Prompts], each_shows_object: bool) -> list[Prompts]:
    """One prompt for each object and frame of a video, by frame, else in the order given.

    Args:
        each_shows_object: every prompt of an object must show it, not only the first.

    Raises:
        click.UsageError: there is no prompt, or one is empty, contradictory, or has only background points.
    """
    prompts = sorted(merged(parts, lambda part: (part.frame, part.object)), key=lambda prompt: prompt.frame or 0)
    if not prompts:
        raise click.UsageError("no prompts; give --point, --box, --mask, --masks or --prompts")
    seen: set[ObjectId | None] = set()
    for prompt in prompts:
        if prompt.mask is not None and (prompt.clicks or prompt.box is not None):
            raise click.UsageError(f"{prompt} has a mask, and points or a box; give one or the other")
        if not prompt:
            raise click.UsageError(f"{prompt} is empty; expected points, a box or a mask")
        if not prompt.shows_object and (each_shows_object or prompt.object not in seen):
            raise click.UsageError(f"{prompt} has only points with the label 0; add one on the object, or a box")
        seen.add(prompt.object)
    return prompts


class ImagePrompts:
    """All prompts for images, as one for each object.

    Raises:
        click.UsageError: there is none, one is empty or given twice, or some have names and some have none.
    """

    def __init__(self, parts: Iterable[Prompts]) -> None:
        self._all = found = merged(parts, lambda part: (part.image, part.object))
        if not found:
            raise click.UsageError(
                "say what to segment, with --point, --box, --mask, --masks, --prompts or --boxes-from"
            )
        for one in found:
            if not one:
                raise click.UsageError(f"{one} is empty; expected points, a box or a mask")
        if None in {one.object for one in found} and len({one.object for one in found}) > 1:
            raise click.UsageError("some prompts have a name and some have none; name the objects of all, as NAME,X,Y")
        self.masks = {one.mask for one in found if one.mask is not None}
        self.mask_files = sorted({mask_file(mask)[0] for mask in self.masks})
        check_masks(found)

    def of(self, image: InputSource) -> Sequence[Prompts]:
        """The objects of one image; may be none.

        Raises:
            UserError: there are boxes of several images with its name, and none is it.
        """
        asked = {one.image for one in self._all if one.image is not None and _key(one.image) in _keys(image)}
        folders = {str(name): Path(name).parent.parts for name in asked if isinstance(name, str) and "/" in name}
        if len(set(folders.values())) > 1:  # of train/1.jpg and val/1.jpg only one is meant
            path = image.path.resolve().parent.parts if image.path else ()
            fitting = [name for name, parts in folders.items() if path[len(path) - len(parts) :] == parts]
            if not fitting:
                raise UserError(f"{image} may be any of {', '.join(sorted(folders))}, which have prompts")
            asked -= folders.keys() - {max(fitting, key=lambda name: len(folders[name]))}
        own = sorted((one for one in self._all if one.image in {None, *asked}), key=lambda one: one.image is not None)
        return merged(own, lambda one: one.object)

    def unused(self, images: Iterable[InputSource]) -> list[str]:
        """The images of prompts that are not among the given ones."""
        given = {key for image in images for key in _keys(image)}
        keys = dict.fromkeys(_key(one.image) for one in self._all if one.image is not None)
        return sorted(str(key) for key in keys if key not in given)


def _key(image: str | int) -> str | int:
    return Path(image).name if isinstance(image, str) else image


def _keys(image: InputSource) -> set[str | int]:
    """What may name an image in prompts."""
    number = {int(image.stem)} if image.stem.isdecimal() else set()
    return {image.file_name, image.stem, *number}


def mask_file(mask: Path) -> tuple[Path, int | None]:
    """The file of a mask, and of ``FILE:LABEL`` the label."""
    found = LABEL.fullmatch(str(mask))
    return (Path(found[1]), int(found[2])) if found and not mask.is_file() else (mask, None)


def check_masks(prompts: Iterable[Prompts]) -> None:
    """Checks that the files of masks exist."""
    for prompt in prompts:
        if prompt.mask is not None and not (file := mask_file(prompt.mask)[0]).is_file():
            raise UserError(f"{prompt}: no file {str(file)!r}")


def check_against_video(
    prompts: Sequence[Prompts],
    masks: Mapping[Prompts, Any],
    height: int,
    width: int,
    frames: int | None,
    start: int,
    end: int | None,
) -> None:
    """Checks that all prompts lie within the video and between the frames ``start`` and ``end``, both inclusive.

    The UserError names the first prompt that does not.

    Args:
        masks: arrays ``(H, W)`` of the prompts that have one.
        frames: the number of frames in the video, if known.
    """
    for prompt in prompts:
        at = prompt.frame or 0
        if frames is not None and at >= frames:
            raise UserError(f"{prompt} is beyond the end of the video, which has {frames} frames")
        if at < start or (end is not None and at > end):
            raise UserError(
                f"{prompt} is outside of the frames to be tracked, {start} to {'...' if end is None else end}"
            )
        if outside := prompt.outside(width, height):
            raise UserError(f"{prompt}: the {outside[0]} lies outside the video ({width}x{height})")
        if prompt in masks and masks[prompt].shape != (height, width):
            rows, columns = masks[prompt].shape
            raise UserError(
                f"{prompt}: the mask {prompt.mask} is {columns}x{rows}, but the video {width}x{height}; they must agree"
            )

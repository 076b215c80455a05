"""Defines prompts for objects in images and videos. Joins and checks the prompts of each object."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import click

from sam2fast.cli.sources import InputSource
from sam2fast.cli.user_errors import UserError, print_note
from sam2fast.io.image_names import ImageName, ImageNameError, ImageNames

ObjectId: TypeAlias = int | str
FOREGROUND, BACKGROUND = 1, 0
LABEL = re.compile(r"(.+):(\d+)")


class Click(NamedTuple):
    """A point in pixels of the image as displayed."""

    x: float
    y: float
    label: int


class Box(NamedTuple):
    """The corners of a box in pixels of the image as displayed."""

    x0: float
    y0: float
    x1: float
    y1: float

    def scaled(self, width: float, height: float) -> "Box":
        """Returns the box with columns multiplied by ``width`` and rows by ``height``."""
        return Box(self.x0 * width, self.y0 * height, self.x1 * width, self.y1 * height)


@dataclass(frozen=True)
class Prompts:
    """The prompts for one object."""

    clicks: tuple[Click, ...] = ()
    box: Box | None = None
    mask: Path | None = None  # ``FILE`` or ``FILE:LABEL``
    object: Any = None  # name in an image, or None without a name; :data:`ObjectId` in a video
    frame: Any = None  # frame number in a video; None in an image
    image: ImageName | None = None  # name of the image with the object; None for all images
    is_relative: bool = False  # True if the box is in fractions of the image's width and height
    size: tuple[int, int] | None = None  # (height, width) that a file states for the image of the box
    where: str = field(default="", compare=False)  # file and line of a detector's box; else empty

    def __bool__(self) -> bool:
        return bool(self.clicks) or self.box is not None or self.mask is not None

    def __str__(self) -> str:
        name = "" if self.object is None else f" for object {self.object!r}"
        return f"the prompt{name}" + ("" if self.frame is None else f" on frame {self.frame}")

    @property
    def is_ambiguous(self) -> bool:
        """True for a single click, for which the model predicts several masks."""
        return len(self.clicks) == 1 and self.box is None and self.mask is None

    @property
    def shows_object(self) -> bool:
        """True if there is a box, a mask or a foreground click."""
        return self.box is not None or self.mask is not None or any(c.label == FOREGROUND for c in self.clicks)

    def outside(self, width: int, height: int) -> list[str]:
        """Names the clicks and the box that lie outside an image of this size. A box may extend beyond the edges."""
        texts = [f"point {c.x:.10g},{c.y:.10g}" for c in self.clicks if not (0 <= c.x <= width and 0 <= c.y <= height)]
        if self.box is not None:
            x0, y0, x1, y1 = self.box
            if x1 < 0 or y1 < 0 or x0 > width or y0 > height:
                texts.append("box " + ",".join(f"{value:.10g}" for value in self.box))
        return texts

    def scaled(self, image: InputSource, width: int, height: int) -> "Prompts":
        """Returns the prompts in pixels of an image with this displayed size."""
        box = self.box
        if box is not None and self.is_relative:
            box = box.scaled(width, height)
        elif box is not None and self.size not in (None, (height, width)):
            from sam2fast.datasets.displayed import displayed_box

            with image.file() as file:
                box = Box(*displayed_box(box, self.size, (height, width), file))
        return Prompts(self.clicks, box, self.mask, self.object, where=self.where)

    def as_json(self) -> dict[str, Any]:
        """Returns JSON. Labels are 1 for points on the object and 0 for other points."""
        return {
            "points": [[c.x, c.y] for c in self.clicks],
            "labels": [c.label for c in self.clicks],
            "box": None if self.box is None else list(self.box),
            "mask": None if self.mask is None else str(self.mask),
        }

    def as_entry(self) -> dict[str, Any]:
        """Returns an entry of a prompt file for videos."""
        return {"frame": self.frame, "object": self.object, **self.as_json()}

    def as_arguments(self) -> dict[str, Any]:
        """Returns the arguments of ``add_new_points_or_box`` for a prompt without a mask."""
        entry = self.as_json()
        return {key: entry[key] or None for key in ("points", "labels", "box")}

    def joined(self, other: "Prompts") -> "Prompts":
        """Joins two prompts for the same object. Raises click.UsageError for two boxes or two masks."""
        for name in ("box", "mask"):
            if getattr(self, name) is not None and getattr(other, name) is not None:
                advice = "give one" if self.object else "give one, or name the objects: --box NAME,X0,Y0,X1,Y1"
                raise click.UsageError(f"{self} has two {name}{'es' if name == 'box' else 's'}; {advice}")
        boxed = self if self.box is not None else other
        of_box = {name: getattr(boxed, name) for name in ("box", "is_relative", "size", "where")}
        return replace(self, clicks=self.clicks + other.clicks, mask=self.mask or other.mask, **of_box)


def merged(parts: Iterable[Prompts], key: Callable[[Prompts], Hashable]) -> list[Prompts]:
    """Joins prompts with equal keys. The results have the order in which the keys first occur."""
    joined: dict[Hashable, Prompts] = {}
    for part in parts:
        joined[key(part)] = joined[key(part)].joined(part) if key(part) in joined else part
    return list(joined.values())


def merge_prompts(parts: Iterable[Prompts], each_shows_object: bool) -> list[Prompts]:
    """Joins the prompts for each object and frame of a video, and sorts the results by frame.

    Args:
        each_shows_object: True if every prompt of an object must have a box, a mask or a foreground click, False if
            only the first prompt must.

    Raises:
        click.UsageError: If there is no prompt, or a prompt is empty, contradictory, or has only background points.
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
    """The prompts for all images, with one joined prompt for each object.

    Args:
        parts: Prompts to join. An empty prompt without an object names an image without prompts.

    Raises:
        click.UsageError: If there is no prompt, a prompt is empty or given twice, or only some prompts have names.
    """

    def __init__(self, parts: Sequence[Prompts]) -> None:
        # Names of all images in files of prompts and boxes.
        self.names = ImageNames(one.image for one in parts if one.image is not None)
        prompts = [one for one in parts if one or one.object is not None or one.image is None]
        joined = merged((one for one in prompts if not one.where), lambda part: (part.image, part.object))
        if not prompts:
            raise click.UsageError("no prompts; give --point, --box, --mask, --masks, --prompts or --boxes-from")
        for one in joined:
            if not one:
                raise click.UsageError(f"{one} is empty; expected points, a box or a mask")
        if len(objects := {one.object for one in prompts}) > 1 and None in objects:
            raise click.UsageError("some prompts have a name and others do not; name the objects of all, as NAME,X,Y")
        # Prompts with positions in ``parts``, to keep the order if an image has several names.
        self._by_name: dict[ImageName | None, list[tuple[int, Prompts]]] = defaultdict(list)
        for position, one in enumerate([*joined, *(one for one in prompts if one.where)]):
            self._by_name[one.image].append((position, one))
        self.masks = {one.mask for one in joined if one.mask is not None}
        self.mask_files = sorted({mask_file(mask)[0] for mask in self.masks})
        check_masks(one for one in joined if one.image is None)  # checks other masks later, with the image

    def of(self, image: InputSource) -> Sequence[Prompts]:
        """Returns the prompts for one image, joined by object.

        The name of a detector's box is the class with a number: ``person_1``, ``person_2``.

        Raises:
            ImageNameError: If a file has prompts for several images, and several of these names fit the image.
            click.UsageError: If an object has two boxes or two masks.
        """
        names = [None, *self.names.of(image.given)]
        counts: Counter[str] = Counter()
        prompts = []
        for _, one in sorted(
            (item for name in names for item in self._by_name.get(name, ())), key=lambda item: item[0]
        ):
            if one.where:
                counts[one.object] += 1
                one = replace(one, object=f"{one.object}_{counts[one.object]}")
            prompts.append(one)
        return merged(prompts, lambda one: one.object)

    def unused(self, images: Iterable[InputSource]) -> dict[str, int]:
        """Returns the names that fit none of the images, with the number of prompts for each name."""
        used: set[ImageName | None] = {None}
        for image in images:
            with suppress(ImageNameError):
                used.update(self.names.of(image.given))
        return {name.text: len(items) for name, items in self._by_name.items() if name is not None and name not in used}


def note_fractions(prompts: Iterable[Prompts], of: str) -> None:
    """Prints a note if the coordinates of all points and boxes look like fractions of the image's size."""
    boxes: list[float] = []
    points: list[float] = []
    for one in prompts:
        boxes += [] if one.box is None or one.is_relative else one.box
        points += [value for point in one.clicks for value in point[:2]]
    are_small = all(-1 <= value <= 1 for value in (*boxes, *points))
    if are_small and (boxes or not all(float(value).is_integer() for value in points)):
        print_note(
            f"all coordinates of {of} are from 0 to 1: are they fractions of the image's size? Pixels are expected"
        )


def mask_file(mask: Path) -> tuple[Path, int | None]:
    """Returns the file of a mask, and the label of ``FILE:LABEL`` or None."""
    match = LABEL.fullmatch(str(mask))
    return (Path(match[1]), int(match[2])) if match and not mask.is_file() else (mask, None)


def check_masks(prompts: Iterable[Prompts]) -> None:
    """Raises UserError if the file of a mask does not exist."""
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
    first: str = "",
) -> None:
    """Checks that all prompts lie within the video, and on frames from ``start`` to ``end`` inclusive.

    Args:
        masks: Arrays ``(H, W)`` of prompts with a mask.
        frames: Number of frames in the video, or None if unknown.
        first: Name of frame 0 for messages, if the name states another number.

    Raises:
        UserError: If a prompt lies outside the video or these frames. The message names the first such prompt.
    """
    from sam2fast.datasets.displayed import has_same_ratio

    for prompt in prompts:
        at = prompt.frame or 0
        if frames is not None and at >= frames:
            named = f"; frame 0 is {first}" if first else ""
            raise UserError(f"{prompt} is beyond the end of the video, whose last frame is {frames - 1}{named}")
        if at < start or (end is not None and at > end):
            raise UserError(
                f"{prompt} is outside of the frames to be tracked, {start} to {'...' if end is None else end}"
            )
        if outside := prompt.outside(width, height):
            raise UserError(f"{prompt}: the {outside[0]} lies outside the video ({width}x{height} pixels)")
        if prompt in masks and not has_same_ratio(masks[prompt].shape, (height, width)):
            rows, columns = masks[prompt].shape
            raise UserError(
                f"{prompt}: the mask {prompt.mask} is {columns}x{rows}, but the video {width}x{height}; expected the "
                "same ratio"
            )

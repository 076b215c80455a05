"""What to track, as it is written on the command line and in prompt files."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import click

from sam2fast.cli.errors import UserError, one_line
from sam2fast.cli.prompts import BACKGROUND, FOREGROUND, Box, Click
from sam2fast.whole_files import read_limited

ObjectId: TypeAlias = int | str

KEYS = ("frame", "object", "points", "labels", "box", "mask")


@dataclass(frozen=True)
class TrackPrompt:
    """What is said about one object on one frame."""

    frame: int
    object: ObjectId
    clicks: tuple[Click, ...] = ()
    box: Box | None = None
    mask: Path | None = None

    def __str__(self) -> str:
        return f"the prompt for object {self.object!r} on frame {self.frame}"

    @property
    def shows_object(self) -> bool:
        """Whether it says where the object is, and not only where it is not."""
        return self.box is not None or self.mask is not None or any(c.label == FOREGROUND for c in self.clicks)

    def as_arguments(self) -> dict[str, Any]:
        """As ``add_new_points_or_box`` takes it, where it is no mask."""
        return {
            "points": [[c.x, c.y] for c in self.clicks] or None,
            "labels": [c.label for c in self.clicks] or None,
            "box": None if self.box is None else list(self.box),
        }

    def as_json(self) -> dict[str, Any]:
        """As an entry of a prompt file."""
        return {
            "frame": self.frame,
            "object": self.object,
            "points": [[c.x, c.y] for c in self.clicks],
            "labels": [c.label for c in self.clicks],
            "box": None if self.box is None else list(self.box),
            "mask": None if self.mask is None else str(self.mask),
        }


class _PromptType(click.ParamType):
    """One prompt as text; subclasses say what follows frame and object."""

    example: str

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> TrackPrompt:
        """Reads one prompt; anything else is a usage error."""
        if isinstance(value, TrackPrompt):
            return value
        try:
            frame, obj, rest = value.split(",", 2)
            return self._read(_frame(frame), object_id(obj), rest)
        except ValueError as error:
            reason = f" ({error})" if isinstance(error, _Reason) else ""
            self.fail(f"{value!r} is not {self.name}, such as {self.example}{reason}", param, ctx)

    def _read(self, frame: int, obj: ObjectId, rest: str) -> TrackPrompt:
        raise NotImplementedError


class _Reason(ValueError):
    """Why a text is no prompt, in words for the user."""


class PointType(_PromptType):
    """``FRAME,OBJ,X,Y`` or ``FRAME,OBJ,X,Y,LABEL``."""

    name, example = "FRAME,OBJ,X,Y[,LABEL]", "0,1,500,375 or 0,dog,500,375,0"

    def _read(self, frame: int, obj: ObjectId, rest: str) -> TrackPrompt:
        x, y, *label = _numbers(rest.split(","), (2, 3))
        return TrackPrompt(frame, obj, (Click(x, y, _label(label[0] if label else FOREGROUND)),))


class TrackBoxType(_PromptType):
    """``FRAME,OBJ,X0,Y0,X1,Y1``."""

    name, example = "FRAME,OBJ,X0,Y0,X1,Y1", "0,1,425,600,700,875"

    def _read(self, frame: int, obj: ObjectId, rest: str) -> TrackPrompt:
        return TrackPrompt(frame, obj, box=_box(_numbers(rest.split(","), (4,))))


class MaskType(_PromptType):
    """``FRAME,OBJ,FILE``."""

    name, example = "FRAME,OBJ,FILE", "0,1,mask.png"

    def _read(self, frame: int, obj: ObjectId, rest: str) -> TrackPrompt:
        if not rest:
            raise _Reason("there is no file")
        return TrackPrompt(frame, obj, mask=Path(rest))


def object_id(value: Any) -> ObjectId:
    """An integer, also one that is written as text; other text is a name.

    Raises:
        ValueError: it is neither, or empty.
    """
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d+\s*", value):
        return int(value)
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise _Reason(f"the object is {value!r}; expected an integer or a name")


def read_prompt_file(path: Path) -> list[TrackPrompt]:
    """The prompts of a JSON file; paths of masks are relative to its folder.

    ::

        {"prompts": [{"frame": 0, "object": 1, "points": [[x, y]], "labels": [1], "box": [x0, y0, x1, y1]},
                     {"frame": 3, "object": "dog", "mask": "dog.png"}]}

    Labels may be left out if all points are on the object.

    Raises:
        UserError: the file cannot be read, or an entry is not as above; the message says which and why.
    """
    with one_line(OSError):
        text = read_limited(path).decode(errors="replace")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON: {error}") from error
    entries = content.get("prompts") if isinstance(content, dict) else None
    if not isinstance(entries, list) or set(content) != {"prompts"}:
        raise UserError(f'{path} is not {{"prompts": [...]}}')
    prompts = []
    for number, entry in enumerate(entries, 1):
        try:
            prompts.append(_entry(entry, path.parent))
        except ValueError as error:
            raise UserError(f"{path}, prompt {number}: {error}") from error
    return prompts


def _entry(entry: Any, folder: Path) -> TrackPrompt:
    if not isinstance(entry, Mapping):
        raise _Reason(f"expected an object with {', '.join(KEYS)}, got {entry!r}")
    unknown = sorted(set(entry) - set(KEYS))
    if unknown or "frame" not in entry or "object" not in entry:
        what = f"there is no key {unknown[0]!r}" if unknown else "frame or object is missing"
        raise _Reason(f"{what}; the keys are {', '.join(KEYS)}, of which frame and object are needed")
    points, labels = entry.get("points") or [], entry.get("labels")
    if not isinstance(points, list) or not (labels is None or isinstance(labels, list)):
        raise _Reason("points and labels must be lists")
    labels = [FOREGROUND] * len(points) if labels is None else labels
    if len(labels) != len(points):
        raise _Reason(f"{len(labels)} labels for {len(points)} points")
    places = [_numbers(point, (2,), "a point") for point in points]
    clicks = tuple(Click(x, y, _label(label)) for (x, y), label in zip(places, labels, strict=True))
    box, mask = entry.get("box"), entry.get("mask")
    if mask is not None and not isinstance(mask, str):
        raise _Reason(f"the mask is {mask!r}; expected the path of a picture")
    return TrackPrompt(
        _frame(entry["frame"]),
        object_id(entry["object"]),
        clicks,
        None if box is None else _box(_numbers(box, (4,), "the box")),
        None if mask is None else folder / mask,
    )


def merge_prompts(parts: Iterable[TrackPrompt], each_shows_object: bool) -> list[TrackPrompt]:
    """One prompt for each object and frame, by frame, else in the order given.

    Args:
        each_shows_object: also prompts after an object's first must say where it is.

    Raises:
        click.UsageError: there is none; two boxes or masks for one object and frame; a mask with something else; one
            that says nothing, or only where the object is not.
    """
    merged: dict[tuple[int, ObjectId], TrackPrompt] = {}
    for part in parts:
        known = merged.get((part.frame, part.object))
        merged[part.frame, part.object] = part if known is None else _joined(known, part)
    if not merged:
        raise click.UsageError("say what to track, with --point, --box, --mask or --prompts")
    prompts = sorted(merged.values(), key=lambda prompt: prompt.frame)
    seen: set[ObjectId] = set()
    for prompt in prompts:
        if prompt.mask is not None and (prompt.clicks or prompt.box is not None):
            raise click.UsageError(f"{prompt} has a mask, and points or a box; give one or the other")
        if not (prompt.clicks or prompt.shows_object):
            raise click.UsageError(f"{prompt} is empty; expected points, a box or a mask")
        if not prompt.shows_object and (each_shows_object or prompt.object not in seen):
            raise click.UsageError(f"{prompt} has only points with the label 0; add one on the object, or a box")
        seen.add(prompt.object)
    return prompts


def _joined(one: TrackPrompt, other: TrackPrompt) -> TrackPrompt:
    for name in ("box", "mask"):
        if getattr(one, name) is not None and getattr(other, name) is not None:
            raise click.UsageError(f"{one} has two {name}{'es' if name == 'box' else 's'}; give one")
    return replace(one, clicks=one.clicks + other.clicks, box=one.box or other.box, mask=one.mask or other.mask)


def objects_of(prompts: Sequence[TrackPrompt]) -> list[ObjectId]:
    """The objects in the order of their first prompts, which is that of their numbers in pictures."""
    return list(dict.fromkeys(prompt.object for prompt in prompts))


def check_against_video(
    prompts: Sequence[TrackPrompt],
    masks: Mapping[TrackPrompt, Any],
    height: int,
    width: int,
    frames: int | None,
    start: int,
    end: int | None,
) -> None:
    """Checks that all prompts are within the video, and within the frames that are to be tracked.

    Args:
        masks: arrays ``(H, W)`` of the prompts that have one.
        frames: of the video, where that is known.
        start, end: the first and the last frame to be tracked.

    Raises:
        UserError: the first prompt that is not.
    """
    for prompt in prompts:
        if frames is not None and prompt.frame >= frames:
            raise UserError(f"{prompt} is beyond the end of the video, which has {frames} frames")
        if prompt.frame < start or (end is not None and prompt.frame > end):
            raise UserError(
                f"{prompt} is outside of the frames to be tracked, {start} to {'...' if end is None else end}"
            )
        for x, y, _ in prompt.clicks:
            if not (0 <= x <= width and 0 <= y <= height):
                raise UserError(f"{prompt}: the point {x:g},{y:g} is outside of the picture, {width}x{height}")
        if prompt.box is not None:
            x0, y0, x1, y1 = prompt.box
            if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
                raise UserError(f"{prompt}: the box {x0:g},{y0:g},{x1:g},{y1:g} leaves the picture, {width}x{height}")
        if prompt in masks and masks[prompt].shape != (height, width):
            rows, columns = masks[prompt].shape
            raise UserError(
                f"{prompt}: the mask {prompt.mask} is {columns}x{rows}, but the video {width}x{height}; they must agree"
            )


def _frame(value: Any) -> int:
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise _Reason(f"the frame is {value!r}; expected a number from 0")


def _label(value: Any) -> int:
    if isinstance(value, bool) or value not in (FOREGROUND, BACKGROUND):
        raise _Reason(f"the label is {value!r}; expected 1 (the object) or 0 (not the object)")
    return int(value)


def _box(numbers: Sequence[float]) -> Box:
    box = Box(*numbers)
    if box.x1 <= box.x0 or box.y1 <= box.y0:
        raise _Reason("the box has no area; expected X0 < X1 and Y0 < Y1")
    return box


def _numbers(values: Any, counts: tuple[int, ...], what: str = "it") -> list[float]:
    """So many finite numbers."""
    try:
        numbers = [float(value) for value in values if not isinstance(value, bool)]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) not in counts or len(numbers) != len(values) or not all(map(math.isfinite, numbers)):
        raise _Reason(f"{what} has not {' or '.join(map(str, counts))} finite numbers")
    return numbers

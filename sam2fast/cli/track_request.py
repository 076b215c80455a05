"""The request of ``sam2fast track``: the video, the prompts, and the frames to track."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import click

from sam2fast.cli.command_files import digest_of_ends
from sam2fast.cli.prompt_options import (
    FOREGROUND,
    Box,
    Click,
    ClickType,
    Prompts,
    PromptType,
    Reason,
    read_label,
    read_numbers,
)
from sam2fast.cli.user_errors import UserError, as_user_error
from sam2fast.tracking.approximations import Approximations

ObjectId: TypeAlias = int | str

KEYS = ("frame", "object", "points", "labels", "box", "mask")
CAMERA = "camera:"
PROBE_SIZE = 32  # resolution of frames for the model when only their original pixels or size are needed


class VideoSource(NamedTuple):
    """The VIDEO argument: a file, a folder of images, a URL or a camera."""

    text: str
    camera: int | None = None

    @classmethod
    def parse(cls, text: str) -> "VideoSource":
        """Reads ``camera:0``, a URL or a path.

        Raises:
            UserError: there is no such file or folder.
            click.UsageError: a camera without a number.
        """
        if text.startswith(CAMERA):
            number = text.removeprefix(CAMERA)
            if not number.isdecimal():
                raise click.UsageError(f"{text!r} names no camera; expected a number, such as {CAMERA}0")
            return cls(text, int(number))
        source = cls(text)
        if not source.is_live and not Path(text).exists():
            raise UserError(f"no video file or folder of frames {text!r}")
        return source

    @property
    def is_live(self) -> bool:
        """Whether it is a camera or a URL, which cannot be read again from the beginning."""
        return self.camera is not None or "://" in self.text

    @property
    def name(self) -> str:
        """The text without the user and password of a URL."""
        return re.sub(r"://[^/@]*@", "://", self.text) if self.is_live else self.text

    @property
    def to_open(self) -> int | str:
        """The argument for :func:`sam2fast.video_io.read_frames`."""
        return self.text if self.camera is None else self.camera

    def check_out(self, out: Path) -> None:
        """Checks that results neither lie among the frames nor overwrite the video.

        Raises:
            click.UsageError: they would be.
        """
        path, folder = Path(os.path.realpath(self.text)), Path(os.path.realpath(out))
        if not self.is_live and path in (folder, folder / "masks"):
            raise click.UsageError(
                f"the results would lie among the frames in {self.text}; choose another --out folder"
            )
        if not self.is_live and path == folder / "overlay.mp4":
            raise click.UsageError(f"the result {out / 'overlay.mp4'} would overwrite the video; choose another --out")

    def fingerprint(self) -> dict[str, Any]:
        """Identifies the video by its content, independent of the path; a camera or URL by its address."""
        if self.is_live:
            return {"source": self.name}
        path = Path(self.text)
        with as_user_error(OSError):
            if path.is_dir():
                files = sorted((p.name, p.stat().st_size) for p in path.iterdir() if p.is_file())
                return {"sha256": hashlib.sha256(repr(files).encode()).hexdigest()}
            return {"bytes": path.stat().st_size, "sha256": digest_of_ends(path)}

    def probe(self) -> tuple[int, int, int | None]:
        """Height, width and, if the container has it, the number of frames; decodes the first frame only.

        Raises:
            UserError: the video cannot be read.
        """
        from sam2fast.video_io import read_frames

        with (
            as_user_error(OSError, ValueError, TypeError, ImportError),
            read_frames(self.to_open, PROBE_SIZE) as reader,
        ):
            return reader.height, reader.width, reader.count


@dataclass(frozen=True)
class TrackPrompt:
    """Clicks, a box or a mask for one object on one frame."""

    frame: int
    object: ObjectId
    clicks: tuple[Click, ...] = ()
    box: Box | None = None
    mask: Path | None = None

    def __str__(self) -> str:
        return f"the prompt for object {self.object!r} on frame {self.frame}"

    @property
    def shows_object(self) -> bool:
        """Whether it has a box, a mask or a foreground click."""
        return self.box is not None or self.mask is not None or any(c.label == FOREGROUND for c in self.clicks)

    def as_arguments(self) -> dict[str, Any]:
        """The arguments of ``add_new_points_or_box``, for a prompt without a mask."""
        entry = self.as_json()
        return {key: entry[key] or None for key in ("points", "labels", "box")}

    def as_json(self) -> dict[str, Any]:
        """As an entry of a prompt file."""
        return {"frame": self.frame, "object": self.object, **Prompts(self.clicks, self.box, self.mask).as_json()}


class _TrackPromptType(PromptType):
    """One prompt as text. Subclasses parse what follows frame and object."""

    def read(self, text: str) -> TrackPrompt:
        frame, obj, rest = text.split(",", 2)
        return self._prompt(_frame(frame), object_id(obj), rest)

    def _prompt(self, frame: int, obj: ObjectId, rest: str) -> TrackPrompt:
        raise NotImplementedError


class PointType(_TrackPromptType):
    """``FRAME,OBJ,X,Y`` or ``FRAME,OBJ,X,Y,LABEL``."""

    name, example = "FRAME,OBJ,X,Y[,LABEL]", "0,1,500,375 or 0,dog,500,375,0"

    def _prompt(self, frame: int, obj: ObjectId, rest: str) -> TrackPrompt:
        return TrackPrompt(frame, obj, (ClickType().read(rest),))


class TrackBoxType(_TrackPromptType):
    """``FRAME,OBJ,X0,Y0,X1,Y1``."""

    name, example = "FRAME,OBJ,X0,Y0,X1,Y1", "0,1,425,600,700,875"

    def _prompt(self, frame: int, obj: ObjectId, rest: str) -> TrackPrompt:
        return TrackPrompt(frame, obj, box=_box(rest.split(",")))


class MaskType(_TrackPromptType):
    """``FRAME,OBJ,FILE``."""

    name, example = "FRAME,OBJ,FILE", "0,1,mask.png"

    def _prompt(self, frame: int, obj: ObjectId, rest: str) -> TrackPrompt:
        if not rest:
            raise Reason("there is no file")
        return TrackPrompt(frame, obj, mask=Path(rest))


def object_id(value: Any) -> ObjectId:
    """An integer, also if it is written as text; other text is a name. Raises ValueError for anything else."""
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d+\s*", value):
        return int(value)
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise Reason(f"the object is {value!r}; expected an integer or a name")


def read_prompt_file(path: Path) -> list[TrackPrompt]:
    """The prompts of a JSON file, in the form that docs/video.md describes. Mask paths are relative to its folder.

    Raises:
        UserError: the file cannot be read, or an entry is invalid; the message names the entry and the reason.
    """
    try:
        with as_user_error(OSError):
            content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
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
        raise Reason(f"expected an object with {', '.join(KEYS)}, got {entry!r}")
    unknown = sorted(set(entry) - set(KEYS))
    if unknown:
        raise Reason(f"there is no key {unknown[0]!r}; the keys are {', '.join(KEYS)}")
    if "frame" not in entry or "object" not in entry:
        raise Reason("frame or object is missing")
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
    return TrackPrompt(
        _frame(entry["frame"]),
        object_id(entry["object"]),
        clicks,
        None if box is None else _box(box),
        None if mask is None else folder / mask,
    )


def merge_prompts(parts: Iterable[TrackPrompt], each_shows_object: bool) -> list[TrackPrompt]:
    """One prompt for each object and frame, by frame, else in the order given.

    Args:
        each_shows_object: every prompt of an object must show it, not only the first.

    Raises:
        click.UsageError: there is no prompt, or one is empty, contradictory, or has only background points.
    """
    merged: dict[tuple[int, ObjectId], TrackPrompt] = {}
    for part in parts:
        known = merged.get((part.frame, part.object))
        merged[part.frame, part.object] = part if known is None else _joined(known, part)
    if not merged:
        raise click.UsageError("no prompts; give --point, --box, --mask or --prompts")
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


def check_against_video(
    prompts: Sequence[TrackPrompt],
    masks: Mapping[TrackPrompt, Any],
    height: int,
    width: int,
    frames: int | None,
    start: int,
    end: int | None,
) -> None:
    """Checks that all prompts lie within the video and between the frames ``start`` and ``end``, both inclusive.

    Args:
        masks: arrays ``(H, W)`` of the prompts that have one.
        frames: the number of frames in the video, if known.

    Raises:
        UserError: a prompt does not; the message names the first one.
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
                raise UserError(f"{prompt}: the point {x:g},{y:g} is outside of the image, {width}x{height}")
        if prompt.box is not None:
            x0, y0, x1, y1 = prompt.box
            if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
                raise UserError(f"{prompt}: the box {x0:g},{y0:g},{x1:g},{y1:g} leaves the image, {width}x{height}")
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
    raise Reason(f"the frame is {value!r}; expected a number from 0")


def _box(values: Any) -> Box:
    box = Box(*read_numbers(values, (4,), "the box"))
    if box.x1 <= box.x0 or box.y1 <= box.y0:
        raise Reason("the box has no area; expected X0 < X1 and Y0 < Y1")
    return box


@dataclass(frozen=True)
class TrackRequest:
    """A checked command line."""

    source: VideoSource
    prompts: Sequence[TrackPrompt]  # by frame
    start: int
    end: int | None
    reverse: bool
    stream: bool
    max_frames: int | None
    formats: Sequence[str]
    show_ids: bool
    progress: bool
    approximations: Approximations
    strategy: str = "sam2"
    tolerance: float = 1.0  # of polygons, pixels

    @property
    def last(self) -> int | None:
        """The last frame to track, None for the end of the video."""
        ends = [self.end, None if self.max_frames is None else self.start + self.max_frames - 1]
        return min((end for end in ends if end is not None), default=None)

    @property
    def objects(self) -> list[ObjectId]:
        """The objects in the order of their first prompts, which gives their numbers in label images."""
        return list(dict.fromkeys(prompt.object for prompt in self.prompts))

"""The request of ``sam2fast track``: the video, the prompts, and the frames to track."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import click

from sam2fast.cli.command_files import digest_of
from sam2fast.cli.detection_files import DetectionFile
from sam2fast.cli.prompt_files import ObjectId, object_id, read_box, read_entries
from sam2fast.cli.prompt_options import FOREGROUND, Box, Click, ClickType, Prompts, PromptType, Reason, read_numbers
from sam2fast.cli.sources import CAMERA, InputSource, is_address, without_password
from sam2fast.cli.user_errors import UserError, as_user_error
from sam2fast.tracking.approximations import Approximations

MAX_PALETTE_OBJECTS = 255
PROBE_SIZE = 32  # resolution of frames for the model when only their original pixels or size are needed


class VideoSource(NamedTuple):
    """A video: a file, a folder of images, a URL or a camera.

    ``label`` is the name of a video that is copied to a local file first: an address, or ``-``. ``axis`` and ``window``
    are of a volume.
    """

    text: str
    camera: int | None = None
    label: str | None = None
    axis: str | None = None
    window: tuple[float, float] | None = None

    @classmethod
    def of(cls, source: InputSource, is_streamed: bool) -> "VideoSource":
        """The video of an input. Without a stream, addresses of files are copied first."""
        text = source.text
        if source.content is not None or (text.startswith(("http://", "https://")) and not is_streamed):
            return cls(text, label=str(source))
        if text.startswith(CAMERA):
            number = text.removeprefix(CAMERA)
            if not number.isdecimal():
                raise click.UsageError(f"{text!r} names no camera; expected a number, such as {CAMERA}0")
            return cls(text, int(number))
        return cls(text)

    @property
    def is_live(self) -> bool:
        """Whether it is a camera or a URL, which cannot be read again from the beginning."""
        return self.label is None and is_address(self.text)

    @property
    def name(self) -> str:
        """The text without the user and password of a URL."""
        return self.label or without_password(self.text)

    @property
    def is_volume(self) -> bool:
        """Whether it is a local NIfTI file or DICOM series."""
        from sam2fast.video_io.volumes import is_volume

        return not self.is_live and is_volume(self.text)

    @property
    def is_nifti(self) -> bool:
        """Whether the name of a volume is one of NIfTI."""
        return self.text.lower().endswith((".nii", ".nii.gz"))

    @property
    def to_open(self) -> Any:
        """The argument for :func:`sam2fast.video_io.read_frames` and ``init_state``; a volume is kept open."""
        if self.is_volume:
            return _open_volume(self.text, self.axis or "axial", self.window)
        return self.text if self.camera is None else self.camera

    def check_out(self, out: Path) -> None:
        """Checks that results neither lie among the frames nor overwrite the video."""
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
            found: dict[str, Any] = {"sha256": digest_of(path)}
        return found | ({"axis": self.axis or "axial", "window": self.window} if self.is_volume else {})

    def probe(self) -> tuple[int, int, int | None]:
        """Height, width and, if the container has it, the number of frames; decodes the first frame only."""
        from sam2fast.video_io import read_frames

        with (
            as_user_error(OSError, ValueError, TypeError, ImportError),
            read_frames(self.to_open, PROBE_SIZE) as reader,
        ):
            return reader.height, reader.width, reader.count


@lru_cache(maxsize=1)
def _open_volume(text: str, axis: Any, window: tuple[float, float] | None) -> Any:
    from sam2fast.video_io import open_volume

    return open_volume(text, axis, window)


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

    def hint(self, text: str) -> str:
        parts = text.split(",")
        return f"; frame and object are missing: 0,1,{text}" if len(parts) == 2 and all(parts) else super().hint(text)


class TrackBoxType(_TrackPromptType):
    """``FRAME,OBJ,X0,Y0,X1,Y1``."""

    name, example = "FRAME,OBJ,X0,Y0,X1,Y1", "0,1,425,600,700,875"

    def _prompt(self, frame: int, obj: ObjectId, rest: str) -> TrackPrompt:
        return TrackPrompt(frame, obj, box=read_box(rest.split(",")))


class MaskType(_TrackPromptType):
    """``FRAME,OBJ,FILE`` or ``FRAME,OBJ,FILE:LABEL``."""

    name, example = "FRAME,OBJ,FILE[:LABEL]", "0,1,mask.png or 0,dog,labels.png:2"

    def _prompt(self, frame: int, obj: ObjectId, rest: str) -> TrackPrompt:
        if not rest:
            raise Reason("there is no file")
        return TrackPrompt(frame, obj, mask=Path(rest))


class WindowType(PromptType):
    """``LOW,HIGH``: the values that become black and white."""

    name, example = "LOW,HIGH", "-160,240"

    def read(self, text: str) -> tuple[float, float]:
        low, high = read_numbers(text.split(","), (2,))
        if low >= high:
            raise Reason("expected LOW below HIGH")
        return low, high


class LabelImageType(PromptType):
    """``FRAME,FILE``: a prompt for each label of an image. Raises UserError if it cannot be read."""

    name, example = "FRAME,FILE", "0,labels.png"

    def read(self, text: str) -> list[TrackPrompt]:
        from sam2fast.cli.mask_files import masks_of_labels

        frame, file = text.split(",", 1)
        if not file:
            raise Reason("there is no file")
        number = _frame(frame)
        return [TrackPrompt(number, label, mask=mask) for label, mask in masks_of_labels(Path(file)).items()]


def read_prompt_file(path: Path) -> list[TrackPrompt]:
    """The prompts of a JSON file, in the form that docs/video.md describes. Mask paths are relative to its folder."""
    return read_entries(path, ("frame", "object"), (), _entry)


def _entry(entry: Mapping[str, Any], prompts: Prompts) -> TrackPrompt:
    return TrackPrompt(_frame(entry["frame"]), object_id(entry["object"]), prompts.clicks, prompts.box, prompts.mask)


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
        raise click.UsageError("no prompts; give --point, --box, --mask, --masks or --prompts")
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

    The UserError names the first prompt that does not.

    Args:
        masks: arrays ``(H, W)`` of the prompts that have one.
        frames: the number of frames in the video, if known.
    """
    for prompt in prompts:
        if frames is not None and prompt.frame >= frames:
            raise UserError(f"{prompt} is beyond the end of the video, which has {frames} frames")
        if prompt.frame < start or (end is not None and prompt.frame > end):
            raise UserError(
                f"{prompt} is outside of the frames to be tracked, {start} to {'...' if end is None else end}"
            )
        outside = Prompts(prompt.clicks, prompt.box).outside(width, height)
        if outside:
            raise UserError(f"{prompt}: the {outside[0]} lies outside the video ({width}x{height})")
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
    approximations: Approximations
    strategy: str = "sam2"
    tolerance: float = 1.0  # of polygons, pixels
    detections: DetectionFile | None = None  # in the place of prompts

    @property
    def first(self) -> int:
        """The first frame with results: that of the first prompt, or of the detections."""
        return self.start if self.detections is not None else self.prompts[0].frame

    @property
    def last(self) -> int | None:
        """The last frame to track, None for the end of the video."""
        ends = [self.end, None if self.max_frames is None else self.start + self.max_frames - 1]
        return min((end for end in ends if end is not None), default=None)

    @property
    def objects(self) -> list[ObjectId]:
        """The objects in the order of their first prompts; those of detections are known while they are tracked."""
        return list(dict.fromkeys(prompt.object for prompt in self.prompts))

    @cached_property
    def frame_files(self) -> list[Path]:
        """The image files of a folder, in the order of the frames; none of other videos."""
        from sam2fast.video_io.sources import frame_files

        folder, source = Path(self.source.text), self.source
        return frame_files(folder) if not (source.is_live or source.is_volume) and folder.is_dir() else []

    @cached_property
    def frame_names(self) -> list[str]:
        """The image files' names, with suffixes only where two would be the same; none of other videos."""
        stems = [file.stem for file in self.frame_files]
        return stems if len(set(stems)) == len(stems) else [file.name for file in self.frame_files]

    def frame_name(self, frame: int) -> str:
        """The name of a frame's files: that of its image, else its number in five digits."""
        return self.frame_names[frame] if self.frame_names else f"{frame:05d}"

    def frames(self, tracked: Collection[int]) -> range:
        """The frames that results are written for: the tracked ones, and those before the first prompt, without masks.

        Args:
            tracked: at least one frame. Those that are still to be tracked backwards are left out.
        """
        return range(min(tracked) if self.reverse else self.start, max(tracked) + 1)

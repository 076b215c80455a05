"""Defines the request of ``sam2fast track``: the video, the prompts, and the frames to track."""

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import click

from sam2fast.cli.boxes import DetectionFile
from sam2fast.cli.prompts import ObjectId, Prompts
from sam2fast.cli.sources import CAMERA, InputSource, is_address, without_password
from sam2fast.cli.user_errors import as_user_error
from sam2fast.downloads.digests import digest_of
from sam2fast.io.image_names import distinct_stems
from sam2fast.tracking.approximations import Approximations


class VideoSource(NamedTuple):
    """A video: a file, a folder of images, a URL or a camera.

    ``axis`` and ``window`` are options of a volume, ``tone_map`` is an option of a video file.
    """

    text: str
    camera: int | None = None
    label: str | None = None  # address or ``-`` of a video that is first copied to a local file
    axis: str | None = None
    window: tuple[float, float] | None = None
    tone_map: bool = False

    @classmethod
    def of(cls, source: InputSource, is_streamed: bool) -> "VideoSource":
        """Returns the video of an input. If ``is_streamed`` is False, files at addresses are copied first."""
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
        """True for a camera or a URL: a video that cannot be read twice."""
        return self.label is None and is_address(self.text)

    @property
    def name(self) -> str:
        """The text without the user and password of a URL."""
        return self.label or without_password(self.text)

    @property
    def is_volume(self) -> bool:
        """True for a local NIfTI file or DICOM series."""
        from sam2fast.video_io.volumes import is_volume

        return not self.is_live and is_volume(self.text)

    @property
    def is_nifti(self) -> bool:
        """True if the name of a volume has a suffix of NIfTI."""
        return self.text.lower().endswith((".nii", ".nii.gz"))

    @property
    def to_open(self) -> Any:
        """The argument for :func:`sam2fast.video_io.read_frames` and ``init_state``. For a volume, the open volume."""
        from sam2fast.video_io import ToneMapped

        if self.tone_map:
            return ToneMapped(self.text)
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

    def made_from(self) -> dict[str, str]:
        """Returns the video's resolved path and digest for a result's record, or the address of a camera or stream."""
        if self.is_live:
            return {"source": self.name}
        from sam2fast.video_io.sources import frame_files

        path = Path(self.text)
        frames = frame_files(path) if path.is_dir() and not self.is_volume else None
        return {"video_path": self.label or os.path.realpath(path), "video_content": digest_of(path, frames)}

    def probe(self) -> tuple[int, int, int | None]:
        """Returns height, width and the number of frames or None. Decodes only the first frame."""
        from sam2fast.video_io import read_frames
        from sam2fast.video_io.video_types import PROBE_SIZE

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
class TrackRequest:
    """The checked options of a command line."""

    source: VideoSource
    prompts: Sequence[Prompts]  # prompts sorted by frame
    start: int
    end: int | None
    reverse: bool
    stream: bool
    max_frames: int | None
    formats: Sequence[str]
    show_ids: bool
    approximations: Approximations
    strategy: str = "sam2"
    tolerance: float = 1.0  # maximum distance of polygons from the outline, in pixels
    detections: DetectionFile | None = None  # boxes of a detector, instead of prompts
    step: int = 1  # every ``step``-th frame is tracked

    @property
    def first(self) -> int:
        """The first frame with results: the frame of the first prompt, or ``start`` with detections."""
        return self.start if self.detections is not None else self.prompts[0].frame or 0

    @property
    def last(self) -> int | None:
        """The last frame to track, or None for the end of the video."""
        ends = [self.end, None if self.max_frames is None else self.start + self.max_frames - 1]
        return min((end for end in ends if end is not None), default=None)

    @property
    def offset(self) -> int:
        """The first frame of the video that ``step`` selects."""
        return self.first % self.step

    def is_tracked(self, frame: int) -> bool:
        """Returns True if ``step`` selects the frame."""
        return frame % self.step == self.offset

    @property
    def objects(self) -> list[ObjectId]:
        """The prompted objects, in the order of first prompts. Objects of detections are not known before tracking."""
        return list(dict.fromkeys(prompt.object for prompt in self.prompts))

    @cached_property
    def frame_files(self) -> list[Path]:
        """The image files of a folder, in the order of the frames. Empty for other videos."""
        from sam2fast.video_io.sources import frame_files

        folder, source = Path(self.source.text), self.source
        return frame_files(folder) if not (source.is_live or source.is_volume) and folder.is_dir() else []

    @cached_property
    def frame_names(self) -> list[str]:
        """The names of the image files, with suffixes only if stems are equal. Empty for other videos."""
        return distinct_stems([file.name for file in self.frame_files])

    @property
    def first_name(self) -> str:
        """The name of frame 0 if it states another number, such as ``shot.1001.png``, otherwise an empty string."""
        name = self.frame_files[0].name if self.frame_files else ""
        numbers = re.findall("[0-9]+", Path(name).stem)
        return name if numbers and int(numbers[-1]) != 0 else ""

    def frame_name(self, frame: int) -> str:
        """Returns the name of a frame's files: the name of the image, or the frame number in five digits."""
        return self.frame_names[frame] if self.frame_names else f"{frame:05d}"

    def frames(self, tracked: Collection[int]) -> range:
        """Returns the frames with results: the tracked frames, and the frames before the first prompt, without masks.

        Args:
            tracked: Tracked frames, at least one. The result omits frames that the backward pass has not tracked yet.
        """
        begin = self.start + (self.offset - self.start) % self.step
        return range(min(tracked) if self.reverse else begin, max(tracked) + 1, self.step)

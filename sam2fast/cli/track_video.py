"""The video that is tracked: where it is, how large it is, and how to tell it from another one."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import click

from sam2fast.cli.digests import digest_of_ends
from sam2fast.cli.errors import UserError, one_line

CAMERA = "camera:"
PROBE_SIZE = 32  # of frames that are opened only to know their size


class VideoSource(NamedTuple):
    """What was given as VIDEO."""

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
        """Whether it cannot be read again from its beginning: a camera, a URL."""
        return self.camera is not None or "://" in self.text

    @property
    def name(self) -> str:
        """As it may be shown and written: without the user and password of an address."""
        return re.sub(r"://[^/@]*@", "://", self.text) if self.is_live else self.text

    @property
    def to_open(self) -> int | str:
        """As :func:`sam2fast.video_io.read_frames` takes it."""
        return self.text if self.camera is None else self.camera

    @property
    def stem(self) -> str:
        return "camera" if self.camera is not None else Path(self.text).stem or "video"

    def check_out(self, out: Path) -> None:
        """Checks that results would neither lie among the frames nor be written over the video.

        Raises:
            click.UsageError: they would.
        """
        if self.is_live:
            return
        path, folder = Path(os.path.realpath(self.text)), Path(os.path.realpath(out))
        if path in (folder, folder / "masks"):
            raise click.UsageError(
                f"the results would lie among the frames in {self.text}; choose another --out folder"
            )
        if path == folder / "overlay.mp4":
            raise click.UsageError(f"the result {out / 'overlay.mp4'} would overwrite the video; choose another --out")

    def facts(self) -> dict[str, Any]:
        """What tells it from another video, whatever its path; for those that are live, their address."""
        if self.is_live:
            return {"source": self.name}
        path = Path(self.text)
        with one_line(OSError):
            if path.is_dir():
                files = sorted((p.name, p.stat().st_size) for p in path.iterdir() if p.is_file())
                return {"sha256": hashlib.sha256(repr(files).encode()).hexdigest()}
            return {"bytes": path.stat().st_size, "sha256": digest_of_ends(path)}


class VideoSize(NamedTuple):
    """What is known of a video without reading all of it."""

    height: int
    width: int
    frames: int | None


def probe(source: VideoSource) -> VideoSize:
    """Size, and number of frames where the container says it; of the frames only the first is decoded.

    Raises:
        UserError: it cannot be read as a video.
    """
    from sam2fast.video_io import read_frames

    with one_line(OSError, ValueError, TypeError, ImportError), read_frames(source.to_open, PROBE_SIZE) as reader:
        return VideoSize(reader.height, reader.width, reader.count)

"""The videos of a server: its gallery and its uploads, below one folder that no path leads out of."""

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from PIL import Image

from sam2fast.demo.server.errors import NotFoundError, shown
from sam2fast.demo.server.settings import PROBE_SIZE
from sam2fast.io.atomic import moved_to
from sam2fast.io.images import write_jpeg
from sam2fast.video_io import VideoError, read_frames

_log = logging.getLogger(__name__)

GALLERY, UPLOADS, POSTERS, INCOMING = "gallery", "uploads", "posters", ".incoming"
SUFFIX = ".mp4"
LONGEST_PATH = 300
UPLOADS_KEPT = 100
POSTER_QUALITY = 85  # of JPEG
SECONDS_TO_COME_IN = 3600  # more than any upload takes


@dataclass(frozen=True)
class Video:
    """A video as clients know it.

    Attributes:
        path: relative to the data folder, with slashes, such as ``gallery/01_dog.mp4``.
        poster: the same of its first frame as a picture, if that could be made.
    """

    path: str
    poster: str | None
    width: int
    height: int


class Library:
    """Videos below a folder, which is made if it is not there.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        for name in (GALLERY, UPLOADS, POSTERS, INCOMING):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        for left in self.incoming.iterdir():  # by a server that was killed; another one may be at work here, too
            with suppress(FileNotFoundError):  # which was there first
                if left.stat().st_mtime < time.time() - SECONDS_TO_COME_IN:
                    if left.is_dir():
                        shutil.rmtree(left, ignore_errors=True)
                    else:
                        left.unlink()
        # By path: what tells whether a file has changed, and what is known of it.
        self._known: dict[str, tuple[tuple[int, int], Video]] = {}
        self._lock = threading.Lock()

    @property
    def incoming(self) -> Path:
        """Folder for files that are not videos of the library yet."""
        return self.root / INCOMING

    def gallery(self) -> list[Video]:
        """All of the gallery, by name; what cannot be read as a video, or leads elsewhere, is left out."""
        found, folder = [], self.root / GALLERY
        for file in sorted(folder.rglob(f"*{SUFFIX}")):
            name = file.relative_to(folder)
            if not any(part.startswith(".") for part in name.parts):
                try:
                    found.append(self.describe(self.file(GALLERY, name.as_posix())))
                except (NotFoundError, VideoError, OSError) as error:
                    _log.warning("%s is left out of the gallery: %s", file, error)
        return found

    def default(self, path: str | None) -> Video:
        """The gallery's video of this path, or its first.

        Raises:
            NotFoundError: the gallery is empty.
        """
        videos = self.gallery()
        if not videos:
            raise NotFoundError(
                f"the gallery is empty: put MP4 files into the folder {GALLERY} of --data, or upload one"
            )
        return next((video for video in videos if video.path == path), videos[0])

    def find(self, path: str) -> Path:
        """The file of a video of the gallery or the uploads.

        Raises:
            NotFoundError: the path is no such video's, whatever else it leads to.
        """
        folder, _, name = path.partition("/")
        if folder in (GALLERY, UPLOADS) and name.endswith(SUFFIX):
            return self.file(folder, name)
        raise NotFoundError(f"there is no video {shown(path)} in the gallery or among the uploads")

    def file(self, folder: str, name: str) -> Path:
        """A file in one of the library's folders.

        Args:
            name: relative to the folder, with slashes; no part of it begins with a dot.

        Raises:
            NotFoundError: there is none by this name, whatever else the name leads to.
        """
        parts = name.split("/") if len(name) <= LONGEST_PATH and name.isprintable() else [""]
        if not any(part == "" or part.startswith(".") or "\\" in part for part in parts):
            base = self.root / folder
            file = base.joinpath(*parts)
            with suppress(OSError):  # a name that is too long for the file system
                # What a link leads to counts, not where it lies.
                if file.is_file() and file.resolve().is_relative_to(base.resolve()):
                    return file
        raise NotFoundError(f"there is no file {shown(name)} in {folder}")

    def describe(self, file: Path) -> Video:
        """What clients are told of a file of the library; it is opened once.

        Raises:
            VideoError, OSError: it cannot be read as a video.
        """
        path, stat = file.relative_to(self.root).as_posix(), file.stat()
        version = stat.st_mtime_ns, stat.st_size
        with self._lock:
            known = self._known.get(path)
            if known is None or known[0] != version:
                poster = f"{POSTERS}/{path.removesuffix(SUFFIX)}.jpg"
                with read_frames(file, PROBE_SIZE) as reader:
                    first = next(reader)
                    made = self._write_poster(self.root / poster, Image.fromarray(first.rgb))
                    known = version, Video(path, poster if made else None, reader.width, reader.height)
                self._known[path] = known
            return known[1]

    def adopt(self, film: Path, digest: str, in_use: Callable[[], set[str]]) -> Video:
        """Makes a finished film one of the uploads; the oldest go, but for those in use.

        Raises:
            OSError: it cannot be moved.
        """
        target = self.root / UPLOADS / f"{digest}{SUFFIX}"
        os.replace(film, target)
        video = self.describe(target)
        self._forget_uploads(in_use() | {video.path})
        return video

    def _write_poster(self, file: Path, picture: Image.Image) -> bool:
        """Whether the picture is there, whole. What a killed server leaves of it goes as unfinished films do."""
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with moved_to(file, self.incoming / f"{uuid4()}.jpg") as partial:
                write_jpeg(picture, partial, POSTER_QUALITY)
        except OSError as error:
            _log.warning("no poster %s: %s", file, error)
            return False
        return True

    def _forget_uploads(self, kept: set[str]) -> None:
        files = sorted((self.root / UPLOADS).glob(f"*{SUFFIX}"), key=lambda file: file.stat().st_mtime)
        for file in files[: max(0, len(files) - UPLOADS_KEPT)]:
            path = file.relative_to(self.root).as_posix()
            if path not in kept:
                file.unlink(missing_ok=True)
                (self.root / POSTERS / path).with_suffix(".jpg").unlink(missing_ok=True)
                with self._lock:
                    self._known.pop(path, None)

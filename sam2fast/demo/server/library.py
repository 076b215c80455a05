"""The videos of a server: its gallery and its uploads, in one folder that no path can leave."""

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from sam2fast.demo.server.demo_errors import NotFoundError, shortened
from sam2fast.demo.server.photos import is_photo, poster_of
from sam2fast.demo.server.transcode import Transcoded
from sam2fast.io.atomic import atomic_path, remove
from sam2fast.io.images import write_jpeg
from sam2fast.video_io import VideoError, read_frames
from sam2fast.video_io.video_types import PROBE_SIZE

_log = logging.getLogger(__name__)

GALLERY, UPLOADS, POSTERS, SOURCES, INCOMING = "gallery", "uploads", "posters", "sources", ".incoming"
SUFFIX = ".mp4"
FACTS_SUFFIX = ".json"  # beside a source: how the upload was made of it
MAX_PATH_LENGTH = 300
MAX_UPLOADS, MAX_PHOTOS = 100, 500  # of videos, and of photographs
MIN_FREE_BYTES = 1 << 30  # of the disk: below, old videos make room
POSTER_QUALITY = 85  # of JPEG
STALE_SECONDS = 3600  # no upload takes as long


class UploadSource(NamedTuple):
    """The file that an upload was made of, where that is larger, and how."""

    file: Path
    made: Transcoded


@dataclass(frozen=True)
class LibraryVideo:
    """A video as clients see it. Paths of itself and its poster are in the data folder: ``gallery/01_dog.mp4``."""

    path: str
    poster: str | None
    width: int
    height: int


class Library:
    """The videos in a folder, which is created if it is missing."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        for name in (GALLERY, UPLOADS, POSTERS, SOURCES, INCOMING):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        for leftover in self.incoming.iterdir():  # of a server that was killed; another one may be using the folder
            with suppress(OSError):  # the other one has deleted it
                if leftover.stat().st_mtime < time.time() - STALE_SECONDS:
                    remove(leftover)
        # By path: modification time and size of a file, and its description.
        self._descriptions: dict[str, tuple[tuple[int, int], LibraryVideo]] = {}
        self._lock = threading.Lock()

    @property
    def incoming(self) -> Path:
        """Folder of unfinished files."""
        return self.root / INCOMING

    def gallery(self) -> list[LibraryVideo]:
        """The gallery's videos by name, without unreadable files and links to other folders."""
        found, folder = [], self.root / GALLERY
        for file in sorted(folder.rglob(f"*{SUFFIX}")):
            name = file.relative_to(folder)
            if not any(part.startswith(".") for part in name.parts):
                try:
                    found.append(self.describe(self.file(GALLERY, name.as_posix())))
                except (NotFoundError, VideoError, OSError) as error:
                    _log.warning("%s is not shown in the gallery: %s", file, error)
        return found

    def default(self, path: str | None) -> LibraryVideo:
        """The gallery's video with this path, or else the first. Raises NotFoundError if the gallery is empty."""
        videos = self.gallery()
        if not videos:
            raise NotFoundError(
                f"the gallery is empty: put MP4 files into the folder {GALLERY} of --data, or upload one"
            )
        return next((video for video in videos if video.path == path), videos[0])

    def find(self, path: str) -> Path:
        """The file of a video or photograph of the gallery or the uploads. Raises NotFoundError for other paths."""
        folder, _, name = path.partition("/")
        if folder in (GALLERY, UPLOADS) and (name.endswith(SUFFIX) or is_photo(name)):
            return self.file(folder, name)
        raise NotFoundError(f"there is no video {shortened(path)} in the gallery or among the uploads")

    def file(self, folder: str, name: str) -> Path:
        """A file in one of the library's folders.

        Args:
            name: relative path with slashes; no part of it begins with a dot.

        Raises:
            NotFoundError: If there is no such file, or the name leads out of the folder.
        """
        parts = name.split("/") if len(name) <= MAX_PATH_LENGTH and name.isprintable() else [""]
        if not any(part == "" or part.startswith(".") or "\\" in part for part in parts):
            base = self.root / folder
            file = base.joinpath(*parts)
            with suppress(OSError):  # a name that is too long for the file system
                # The target of a link must be inside of the folder.
                if file.is_file() and file.resolve().is_relative_to(base.resolve()):
                    return file
        raise NotFoundError(f"there is no file {shortened(name)} in {folder}")

    def describe(self, file: Path) -> LibraryVideo:
        """Describes a file of the library for clients; an unchanged file is opened only once.

        Raises:
            VideoError, BadPhotoError, OSError: If the file cannot be read as a video or a photograph.
        """
        path, stat = file.relative_to(self.root).as_posix(), file.stat()
        version = stat.st_mtime_ns, stat.st_size
        with self._lock:
            described = self._descriptions.get(path)
            if described is None or described[0] != version:
                poster = f"{POSTERS}/{path.removesuffix(file.suffix)}.jpg"
                if is_photo(file):
                    first, (height, width) = poster_of(file)
                else:
                    with read_frames(file, PROBE_SIZE) as reader:
                        first, height, width = Image.fromarray(next(reader).rgb), reader.height, reader.width
                has_poster = self._write_poster(self.root / poster, first)
                described = version, LibraryVideo(path, poster if has_poster else None, width, height)
                self._descriptions[path] = described
            return described[1]

    def add_upload(
        self, file: Path, digest: str, source: UploadSource | None, in_use: Callable[[], set[str]]
    ) -> LibraryVideo:
        """Moves a finished file to the uploads; deletes the oldest uploads that are not in use.

        Args:
            source: Source of a video; copied if its frames have another size. None for a photograph.

        Raises:
            OSError: If a file cannot be moved or copied.
        """
        target = self.root / UPLOADS / f"{digest}{file.suffix}"
        os.replace(file, target)
        video = self.describe(target)
        if source is not None:
            self._keep_source(digest, source, source.made.size != (video.height, video.width))
        self._delete_old_uploads(in_use() | {video.path})
        return video

    def source_of(self, path: str) -> UploadSource | None:
        """Returns the source of a video; None for the gallery's and for uploads that have their source's size."""
        made = self.made_of(path)
        file = self.root / SOURCES / path.partition("/")[2].removesuffix(SUFFIX)
        return UploadSource(file, made) if made is not None and file.is_file() else None

    def made_of(self, path: str) -> Transcoded | None:
        """Returns how an uploaded video was transcoded; None for the gallery's videos and for photographs."""
        folder, _, name = path.partition("/")
        if folder != UPLOADS:
            return None
        file = self.root / SOURCES / name.removesuffix(SUFFIX)
        try:
            facts = json.loads(file.with_suffix(FACTS_SUFFIX).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return Transcoded(**facts | {"rate": Fraction(facts["rate"]), "size": tuple(facts["size"])})

    def _keep_source(self, digest: str, source: UploadSource, has_file: bool) -> None:
        file, made = self.root / SOURCES / digest, source.made
        if has_file:
            with atomic_path(file, self.incoming) as partial:
                shutil.copyfile(source.file, partial)
        facts = {**asdict(made), "rate": str(made.rate)}
        with atomic_path(file.with_suffix(FACTS_SUFFIX), self.incoming) as partial:
            partial.write_text(json.dumps(facts), encoding="utf-8")

    def _write_poster(self, file: Path, image: Image.Image) -> bool:
        """Writes the poster atomically; returns False if that failed."""
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(file, self.incoming) as partial:
                write_jpeg(image, partial, POSTER_QUALITY)
        except OSError as error:
            _log.warning("cannot write the poster %s: %s", file, error)
            return False
        return True

    def _delete_old_uploads(self, in_use: set[str]) -> None:
        files = sorted((self.root / UPLOADS).iterdir(), key=lambda file: file.stat().st_mtime)
        photos, videos = [file for file in files if is_photo(file)], [file for file in files if file.suffix == SUFFIX]
        for file in photos[:-MAX_PHOTOS] + videos:
            if file in videos[-MAX_UPLOADS:] and shutil.disk_usage(self.root).free >= MIN_FREE_BYTES:
                return
            path = file.relative_to(self.root).as_posix()
            if path not in in_use:
                source = self.root / SOURCES / file.stem
                poster = (self.root / POSTERS / path).with_suffix(".jpg")
                for part in (file, poster, source, source.with_suffix(FACTS_SUFFIX)):
                    part.unlink(missing_ok=True)
                with self._lock:
                    self._descriptions.pop(path, None)

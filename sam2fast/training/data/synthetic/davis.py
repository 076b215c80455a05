"""Clips as files, in the layout of the DAVIS data set."""

import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam2fast.training.data.clip import Clip

FRAMES, MASKS, LISTS = "JPEGImages", "Annotations", "ImageSets"
QUALITY = 95
MOST_OBJECTS = 255


def palette() -> NDArray[np.uint8]:
    """DAVIS's colours ``(256, 3)`` of ids: an id's bits, three at a time, are bits of red, green and blue."""
    ids = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for level in range(8):
        for channel in range(3):
            bit = (ids >> (3 * level + channel)) & 1
            colours[:, channel] |= (bit << (7 - level)).astype(np.uint8)
    return colours


def clip_files(clip: Clip) -> dict[str, bytes]:
    """The files of a clip, by paths such as ``JPEGImages/00000.jpg`` and ``Annotations/00000.png``.

    Masks are palette pictures: 0 where there is no object, else the object's position in the clip, from 1.

    Raises:
        ValueError: more objects than a palette has colours.
    """
    count = clip.masks.shape[1]
    if count > MOST_OBJECTS:
        raise ValueError(f"a palette has room for {MOST_OBJECTS} objects, the clip has {count}")
    colours = palette().tobytes()
    files = {}
    for t, (frame, masks) in enumerate(zip(clip.frames, clip.masks, strict=True)):
        ids = (masks * np.arange(1, count + 1, dtype=np.uint8)[:, None, None]).max(axis=0)
        indices = Image.fromarray(ids)
        indices.putpalette(colours)
        files[f"{FRAMES}/{t:05d}.jpg"] = _encoded(Image.fromarray(frame), "JPEG", quality=QUALITY, subsampling=0)
        files[f"{MASKS}/{t:05d}.png"] = _encoded(indices, "PNG")
    return files


class DavisFolder:
    """Clips below one folder. A clip appears whole: both of its folders are complete, or it is not there.

    Args:
        root: made when the first clip is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def has(self, name: str) -> bool:
        """Whether this clip is there."""
        return (self.root / FRAMES / name).is_dir()

    def write(self, name: str, clip: Clip) -> None:
        """Writes a clip, over what an interrupted write of it may have left.

        Raises:
            FileExistsError: the clip is there.
        """
        if self.has(name):
            raise FileExistsError(f"the clip {name} is in {self.root} already")
        partial = self.root / ".partial"
        _remove(partial)
        for path, content in clip_files(clip).items():
            file = partial / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        # The frames last: they are what tells that the clip is complete.
        for kind in (MASKS, FRAMES):
            target = self.root / kind / name
            _remove(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            (partial / kind).rename(target)
        partial.rmdir()

    def list_clips(self, names: list[str]) -> None:
        """Writes ``ImageSets/all.txt``."""
        file = self.root / LISTS / "all.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def _remove(folder: Path) -> None:
    """Removes a folder with all in it, if it is there."""
    if folder.is_dir():
        shutil.rmtree(folder)


def _encoded(picture: Image.Image, kind: str, **options: int) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()

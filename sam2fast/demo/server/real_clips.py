"""Clips of the official demo for the gallery, downloaded when a user asks for them."""

from pathlib import Path
from typing import NamedTuple

from sam2fast.demo.server.background import Download
from sam2fast.demo.server.library import GALLERY, Library
from sam2fast.downloads.transfer import fetch

COMMIT = "2b90b9f5ceec907a1c18123530e92e794ad901a4"  # of facebookresearch/sam2, Apache-2.0
SUBFOLDER = "sam2"  # of the gallery
URL = f"https://raw.githubusercontent.com/facebookresearch/sam2/{COMMIT}/demo/data/gallery"


class RealClip(NamedTuple):
    """A file of the official demo's gallery, its size and its hash."""

    name: str
    size: int
    sha256: str


CLIPS = (
    RealClip("01_dog.mp4", 1738970, "21425eb9b7fce7d3fb23fa17b1c07bcbe99ba9e64e3b5347d8052ba6d9c38924"),
    RealClip("02_cups.mp4", 2543710, "6320759eede8c82c7d43fe1cc569f3a389758ec37b2b1dc9e9b7b4ce4110ab13"),
    RealClip("03_blocks.mp4", 1808832, "2868f2c62f5cfa28dabbe925fae95da7f896531630a0627e5edbc784ea42413d"),
    RealClip("04_coffee.mp4", 1177415, "f9a439a8bf66910db3e2a9d9ea853bc24c760c8d4ca227f4c33051b1cef28c03"),
    RealClip("05_default_juggle.mp4", 1842699, "60d23773ad50389a5c2df9ba4ab05e9b4d39d21dfa7b75d15b46666ff7a4e2bb"),
)
SIZE = sum(clip.size for clip in CLIPS)


def real_clips(library: Library) -> Download:
    """The download of all clips into the gallery. They are served as they are: H.264, yuv420p, 24 frames/s."""
    folder = library.root / GALLERY / SUBFOLDER
    incoming = library.incoming / "real"

    def get_all() -> None:
        incoming.mkdir(exist_ok=True)
        folder.mkdir(exist_ok=True)
        for clip in (one for one in CLIPS if not (folder / one.name).is_file()):
            # Unfinished files are outside of the gallery, which shows every MP4 file.
            part = incoming / f"{clip.name}.part"
            fetch([f"{URL}/{clip.name}"], part, clip.sha256, quiet=True)
            part.replace(folder / clip.name)

    def parts() -> list[Path]:
        finished = [folder / clip.name for clip in CLIPS]
        return [*finished, *(incoming / f"{clip.name}.part" for clip in CLIPS)]

    return Download(lambda: all((folder / c.name).is_file() for c in CLIPS), get_all, parts, SIZE)

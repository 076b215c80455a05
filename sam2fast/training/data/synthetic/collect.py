"""Arranges folders of images into the layout of media folders for synthetic clips.

    OUT/train/backgrounds/PACKAGE/*.jpg     photographs
    OUT/train/cutouts/PACKAGE/*.png         objects with alpha
    OUT/heldout/...                         the same, of images that are never trained on

Nothing is downloaded. Of the Debian packages that hold usable images, lomiri-wallpapers-16.04 and -20.04,
mate-backgrounds, plasma-workspace-wallpapers, lxqt-themes, opencv-doc, tuxpaint-data and gcompris-qt-data (inside Qt
resource files) have photographs; tuxpaint-stamps-default has photographed objects with alpha, gcompris-qt-data and
openclipart-png have drawn ones; the Python packages scikit-image and scikit-learn have a few photographs. Unpack a
package into a folder with its name (``dpkg-deb -x FILE.deb FOLDER``), then

    python -m sam2fast.training.data.synthetic.collect OUT --backgrounds FOLDER --cutouts FOLDER --limit 3000
"""

import argparse
import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam2fast.io.images import IMAGE_READ_ERRORS, open_image, write_jpeg
from sam2fast.training.data.synthetic.media import SUFFIXES

_log = logging.getLogger(__name__)

RESOURCES = ".rcc"  # of Qt; contain WebP images uncompressed
MOST_PIXELS = 40_000_000
HELDOUT_SHARE = 0.12
# From scikit-image: shown in the documentation, so never trained on.
ALWAYS_HELDOUT = ("astronaut", "coffee", "chelsea")

Filter = Callable[[Image.Image], Image.Image | None]


def collect_backgrounds(
    folder: Path, out: Path, longest: int = 1024, limit: int | None = None, exclude: Sequence[str] = ()
) -> int:
    """Copies the photographs anywhere in ``folder``, scaled down, into ``out``; drops drawings and near-duplicates.

    Args:
        longest: largest side in pixels.
        limit: largest number of files to read.
        exclude: patterns of relative paths to leave out, such as ``*/icons/*``.

    Returns:
        How many images were written.
    """
    seen: list[NDArray[np.bool_]] = []

    def usable(image: Image.Image) -> Image.Image | None:
        if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] != 255:
            return None
        image = image.convert("RGB")
        if min(image.size) < 200 or max(image.size) > 4 * min(image.size):
            return None
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS, reducing_gap=2.0)
        fingerprint = _fingerprint(image)
        if _flatness(image) > 0.8 or any((fingerprint != other).mean() < 0.08 for other in seen):
            return None
        seen.append(fingerprint)
        return image

    return _arrange(folder, out, "backgrounds", usable, limit, exclude)


def collect_cutouts(
    folder: Path, out: Path, longest: int = 384, limit: int | None = None, exclude: Sequence[str] = ()
) -> int:
    """Copies images with alpha anywhere in ``folder``, cropped to their visible pixels and scaled down, into ``out``.

    Images are dropped if they are nearly empty, nearly a full rectangle, largely half transparent, or in pieces.
    Arguments and result are those of :func:`collect_backgrounds`.
    """

    def usable(image: Image.Image) -> Image.Image | None:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        box = alpha.point(lambda a: 255 * (a > 40)).getbbox()
        if box is None or min(box[2] - box[0], box[3] - box[1]) < 24:
            return None
        image = image.crop(box)
        return _shrink(image, longest) if is_object(np.asarray(image.getchannel("A"))) else None

    return _arrange(folder, out, "cutouts", usable, limit, exclude)


def is_object(alpha: NDArray[np.uint8]) -> bool:
    """Whether a cropped alpha ``(H, W)`` is one opaque object, neither nearly empty nor nearly a rectangle."""
    solid, half = (alpha > 127).mean(), ((alpha > 25) & (alpha < 230)).mean()
    if not 0.12 < solid < 0.96 or half > 0.35 * solid:
        return False
    small = np.asarray(Image.fromarray(alpha).resize((48, 48), Image.Resampling.BOX)) > 90
    return largest_component(small) > 0.8 * small.sum()


def largest_component(mask: NDArray[np.bool_]) -> int:
    """Pixels of the largest 8-connected component of a small mask ``(H, W)``."""
    labels = np.pad(np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0), 1)
    inside = labels > 0
    while True:
        before = labels
        for axis in (0, 1):
            labels = np.maximum.reduce([labels, np.roll(labels, 1, axis), np.roll(labels, -1, axis)]) * inside
        if (labels == before).all():
            return int(np.bincount(labels[inside]).max(initial=0))


def is_heldout(name: str) -> bool:
    """Whether the image of this name is held out; names that differ in digits alone give the same answer."""
    stem = re.sub(r"[\dx_-]+(left|right|mirror|flip)?$", "", name.lower())
    share = int.from_bytes(_name_digest(stem)[:4], "big") / 2**32
    return share < HELDOUT_SHARE


def _name_digest(name: str) -> bytes:
    """A hash of a file's name, which may not be decodable in this locale."""
    return hashlib.sha256(name.encode(errors="surrogatepass")).digest()


def _arrange(folder: Path, out: Path, kind: str, usable: Filter, limit: int | None, exclude: Sequence[str]) -> int:
    if not folder.is_dir():
        raise NotADirectoryError(f"no folder {str(folder)!r} with images")
    # The same image may have several names, which could put it into both splits.
    arranged = {_digest(path): path for path in sorted(out.glob(f"*/{kind}/*/*"))}
    count = 0
    for path, name, content in _images(folder, limit, exclude):
        try:
            with open_image(path if content is None else BytesIO(content)) as opened:
                if opened.width * opened.height > MOST_PIXELS:
                    raise ValueError(f"{opened.width}x{opened.height} pixels are too many")
                opened.draft("RGB", (2048, 2048))  # JPEG only: decodes at a reduced size
                image = usable(opened)
        except IMAGE_READ_ERRORS as error:
            _log.warning("%s is skipped: %s", path, error)
            continue
        if image is None:
            continue
        part = "heldout" if path.stem in ALWAYS_HELDOUT or is_heldout(name) else "train"
        target = out / part / kind / folder.resolve().name / (name + (".png" if image.mode == "RGBA" else ".jpg"))
        target.parent.mkdir(parents=True, exist_ok=True)
        if image.mode == "RGBA":
            image.save(target)
        else:
            write_jpeg(image, target, quality=92)
        if arranged.setdefault(_digest(target), target) != target:
            target.unlink()
            continue
        count += 1
    return count


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def _images(folder: Path, limit: int | None, exclude: Sequence[str]) -> Iterator[tuple[Path, str, bytes | None]]:
    """Path and name of each image, and the content of an image inside a resource file."""
    paths = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        # Packages have symbolic links to the same image.
        wanted = path.suffix.lower() in (*SUFFIXES, RESOURCES) and path.is_file() and not path.is_symlink()
        if wanted and not any(fnmatch(relative, pattern) for pattern in exclude):
            paths.append(path)
    if limit is not None and len(paths) > limit:
        # Chosen by a hash of the name: the first names are all of one kind.
        paths.sort(key=lambda path: _name_digest(path.relative_to(folder).as_posix()))
        paths = sorted(paths[:limit])
    for path in paths:
        name = _name(folder, path)
        if path.suffix.lower() != RESOURCES:
            yield path, name, None
            continue
        content = path.read_bytes()
        for found in re.finditer(rb"RIFF(....)WEBP", content, re.DOTALL):
            image = content[found.start() : found.start() + 8 + int.from_bytes(found[1], "little")]
            yield path, f"{name}-{hashlib.sha256(image).hexdigest()[:10]}", image


def _name(folder: Path, path: Path) -> str:
    """A flat name: the package and the path, without uninformative folders."""
    parts = [p for p in path.relative_to(folder).with_suffix("").parts if p not in ("usr", "share", "doc")]
    return re.sub(r"[^\w-]+", "_", "-".join([folder.resolve().name, *parts]))[-150:]


def _shrink(image: Image.Image, longest: int) -> Image.Image:
    scale = longest / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _flatness(image: Image.Image) -> float:
    """Share of pixels that equal their neighbours: high in drawings and smooth gradients, low in photographs."""
    grey = image.convert("L")
    grey.thumbnail((400, 400))
    pixels = np.asarray(grey, dtype=np.int16)
    steps = np.abs(np.diff(pixels, axis=0))[:, 1:] + np.abs(np.diff(pixels, axis=1))[1:]
    return float((steps <= 2).mean())


def _fingerprint(image: Image.Image) -> NDArray[np.bool_]:
    """Which of 16 x 16 patches are brighter than their right neighbours."""
    pixels = np.asarray(image.convert("L").resize((17, 16), Image.Resampling.BOX), dtype=np.int16)
    return np.diff(pixels, axis=1) > 0


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Arrange images for synthetic clips.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--backgrounds", type=Path, action="append", default=[], help="folder of photographs")
    parser.add_argument("--cutouts", type=Path, action="append", default=[], help="folder of images with alpha")
    parser.add_argument("--limit", type=int, help="largest number of images to read from each folder")
    parser.add_argument("--exclude", action="append", default=[], help="pattern of paths within a folder to leave out")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    for function, folders in ((collect_backgrounds, chosen.backgrounds), (collect_cutouts, chosen.cutouts)):
        for folder in folders:
            count = function(folder, chosen.out, limit=chosen.limit, exclude=chosen.exclude)
            print(f"{folder}: {count} {function.__name__.removeprefix('collect_')}")


if __name__ == "__main__":
    main()

"""Photographs and cut-outs from folders, decoded when they are drawn."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image

from sam2fast.datasets.files import read_labels
from sam2fast.io.images import SUFFIXES, UNREADABLE, open_picture

_log = logging.getLogger(__name__)

# Each worker process has caches of its own.
PHOTOGRAPH_BYTES, CUTOUT_BYTES = 80 << 20, 30 << 20
# Objects of fewer pixels are too blurred to be enlarged.
LEAST_PIXELS = 256
_SOLID = [255 * (alpha > 60) for alpha in range(256)]  # which of a cut-out's alphas count as opaque


class MediaError(ValueError):
    """A media folder that lacks what it should hold."""


class _Cache:
    """Pictures used last, of up to ``limit`` bytes in all."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = 0
        self._pictures: OrderedDict[Path, Image.Image] = OrderedDict()

    def get(self, path: Path) -> Image.Image | None:
        if path in self._pictures:
            self._pictures.move_to_end(path)
        return self._pictures.get(path)

    def put(self, path: Path, picture: Image.Image) -> None:
        self._pictures[path] = picture
        self._bytes += _bytes(picture)
        while self._bytes > self._limit:
            self._bytes -= _bytes(self._pictures.popitem(last=False)[1])


class _Files:
    """Files by their folders."""

    def __init__(self) -> None:
        self._folders: list[list[Path]] = []
        self._shares = np.zeros(0)

    def __len__(self) -> int:
        return sum(map(len, self._folders))

    def add(self, paths: Sequence[Path]) -> None:
        """Adds files; the order decides what a generator draws."""
        for _, group in groupby(paths, key=lambda path: path.parent):
            self._folders.append(list(group))
        sizes = np.sqrt([len(folder) for folder in self._folders])
        self._shares = sizes / sizes.sum()

    def draw(self, rng: np.random.Generator) -> Iterator[Path]:
        """A random file, then the others in a fixed order, for when it cannot be used."""
        first = int(np.searchsorted(np.cumsum(self._shares)[:-1], rng.random(), side="right"))
        start = int(rng.integers(len(self._folders[first])))
        folder = self._folders[first]
        yield from folder[start:] + folder[:start]
        for other in self._folders[first + 1 :] + self._folders[:first]:
            yield from other


class Media:
    """The pictures of some folders.

    A folder has ``backgrounds/`` with photographs, ``cutouts/`` with RGBA pictures, or both; or it has ``images/`` and
    ``masks/`` of the same stems, where a mask's pixels are 0 or the id of an object.

    Pictures may lie in folders below ``backgrounds/`` and ``cutouts/``. Those of a small folder are drawn more often
    than those of a large one, by the square root of their number, so that a few hundred photographed objects do not
    drown in thousands of drawn ones.

    Args:
        folders: at least one.
        longest: cut-outs are scaled down to at most this, photographs to a shorter side a third longer.

    Raises:
        MediaError: a folder is missing, has none of these, is empty, or none of its pictures can be read.
    """

    def __init__(self, folders: Sequence[str | Path], longest: int) -> None:
        self._longest = longest
        self._photographs = _Files()
        self._cutouts = _Files()
        self._masks: dict[Path, Path] = {}  # of the cut-outs that have no alpha
        self._seen_photographs = _Cache(PHOTOGRAPH_BYTES)
        self._seen_cutouts = _Cache(CUTOUT_BYTES)
        self._unreadable: set[Path] = set()
        for folder in map(Path, folders):
            self._add(folder)
        # Finds out now, rather than in a worker process, that nothing can be read.
        rng = np.random.default_rng(0)
        if self.has_photographs:
            self.photograph(rng)
        if self.has_cutouts:
            self.cutout(rng)

    @property
    def has_photographs(self) -> bool:
        return len(self._photographs) > 0

    @property
    def has_cutouts(self) -> bool:
        return len(self._cutouts) > 0

    def photograph(self, rng: np.random.Generator) -> Image.Image:
        """A random photograph, RGB."""
        for path in self._photographs.draw(rng):
            picture = self._read(path, self._open_photograph, self._seen_photographs)
            if picture is not None:
                return picture
        raise MediaError(f"none of the {len(self._photographs)} photographs can be read, such as {path}")

    def cutout(self, rng: np.random.Generator) -> Image.Image:
        """A random object, RGBA, cropped to what is visible of it."""
        for path in self._cutouts.draw(rng):
            if path in self._masks:
                picture = self._masked(path, self._masks[path], rng)
            else:
                picture = self._read(path, self._open_cutout, self._seen_cutouts)
            if picture is not None:
                return picture
        raise MediaError(f"none of the {len(self._cutouts)} cut-outs can be read, such as {path}")

    def _add(self, folder: Path) -> None:
        if not folder.is_dir():
            raise MediaError(f"no media folder {str(folder)!r}")
        parts = {name: folder / name for name in ("backgrounds", "cutouts", "images", "masks")}
        found = {name: _pictures(path) for name, path in parts.items() if path.is_dir()}
        if "images" in found and "masks" in found:
            masks = {path.stem: path for path in found["masks"] if path.suffix.lower() == ".png"}
            pairs = [(path, masks[path.stem]) for path in found["images"] if path.stem in masks]
            if not pairs:
                raise MediaError(f"no picture in {parts['images']} has a mask STEM.png in {parts['masks']}")
            self._masks |= dict(pairs)
            self._cutouts.add([path for path, _ in pairs])
            self._photographs.add([path for path, _ in pairs])
        elif "backgrounds" not in found and "cutouts" not in found:
            raise MediaError(
                f"the media folder {str(folder)!r} has neither backgrounds/ (photographs) nor cutouts/ (PNG with "
                "alpha) nor images/ and masks/"
            )
        for name in ("backgrounds", "cutouts"):
            if name in found and not found[name]:
                raise MediaError(f"no pictures ({', '.join(SUFFIXES)}) in {parts[name]}")
        self._photographs.add(found.get("backgrounds", []))
        self._cutouts.add(found.get("cutouts", []))

    def _read(self, path: Path, opener: Callable[[Path], Image.Image], cache: _Cache) -> Image.Image | None:
        """The picture from the cache or the file; None, said once, where it cannot be used."""
        picture = cache.get(path)
        if picture is None and path not in self._unreadable:
            try:
                picture = opener(path)
            except UNREADABLE as error:
                self._unreadable.add(path)
                _log.warning("%s is left out: %s", path, error)
                return None
            cache.put(path, picture)
        return picture

    def _open_photograph(self, path: Path) -> Image.Image:
        shorter = 4 * self._longest // 3
        with _opened(path) as opened:
            opened.draft("RGB", (shorter, shorter))  # decodes a JPEG at a fraction of its size
            picture = opened.convert("RGB")
        return _shrink(picture, shorter / min(picture.size))

    def _open_cutout(self, path: Path) -> Image.Image:
        with _opened(path) as opened:
            if not opened.has_transparency_data:
                raise ValueError("it has no alpha, so that there is no telling the object from its surroundings")
            picture = opened.convert("RGBA")
        return self._crop(picture)

    def _open_mask(self, path: Path) -> Image.Image:
        ids = read_labels(path).astype(np.int32)
        if not ids.any():
            raise ValueError("it holds no object: all its pixels are 0")
        return Image.fromarray(ids)

    def _masked(self, path: Path, mask: Path, rng: np.random.Generator) -> Image.Image | None:
        """One of the mask's objects, cut out of its picture."""
        picture = self._read(path, self._open_photograph, self._seen_photographs)
        ids = self._read(mask, self._open_mask, self._seen_cutouts)
        if picture is None or ids is None:
            return None
        values, counts = np.unique(np.asarray(ids), return_counts=True)
        large = values[(values > 0) & (counts >= LEAST_PIXELS)]
        if not len(large):
            self._unreadable.add(mask)
            _log.warning("%s is left out: its objects are all smaller than %d pixels", mask, LEAST_PIXELS)
            return None
        alpha = Image.fromarray(255 * (np.asarray(ids) == rng.choice(large)).astype(np.uint8))
        if alpha.size != picture.size:
            alpha = alpha.resize(picture.size, Image.Resampling.BILINEAR)
        picture = picture.copy()
        picture.putalpha(alpha)
        return self._crop(picture)

    def _crop(self, picture: Image.Image) -> Image.Image:
        alpha = picture.getchannel("A").point(_SOLID)
        box = alpha.getbbox()
        if box is None or (box[2] - box[0]) * (box[3] - box[1]) < LEAST_PIXELS:
            raise ValueError("hardly anything of it is opaque")
        picture = picture.crop(box)
        return _shrink(picture, self._longest / max(picture.size))


class Album:
    """A few photographs for one scene: surfaces that look like one another, and fewer files to decode.

    Called with a generator it gives one of them, RGB; they are drawn when they are first asked for.
    """

    def __init__(self, media: Media, count: int = 2) -> None:
        self._media = media
        self._count = count
        self._pictures: list[Image.Image] = []

    def __call__(self, rng: np.random.Generator) -> Image.Image:
        if len(self._pictures) < self._count:
            self._pictures.append(self._media.photograph(rng))
            return self._pictures[-1]
        return self._pictures[rng.integers(self._count)]


def _pictures(folder: Path) -> list[Path]:
    return sorted(
        (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES), key=lambda path: (path.parent, path)
    )


def _opened(path: Path) -> Image.Image:
    # Read at once: the PNG decoder asks for many small pieces.
    return open_picture(BytesIO(path.read_bytes()))


def _shrink(picture: Image.Image, scale: float) -> Image.Image:
    if scale > 0.75:
        return picture
    size = (max(1, round(scale * picture.width)), max(1, round(scale * picture.height)))
    return picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=1.5)


def _bytes(picture: Image.Image) -> int:
    return picture.width * picture.height * 4  # also RGB, as Pillow stores it

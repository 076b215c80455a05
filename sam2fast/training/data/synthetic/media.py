"""Photographs and cut-outs from media folders, decoded on access."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image

from sam2fast.datasets.dataset_files import read_labels
from sam2fast.io.image_names import pair_masks
from sam2fast.io.images import IMAGE_READ_ERRORS, SUFFIXES, open_image
from sam2fast.utils.errors import FixableError

_log = logging.getLogger(__name__)

# Limits of the image caches of each worker process, in bytes.
PHOTOGRAPH_BYTES, CUTOUT_BYTES = 80 << 20, 30 << 20
# Minimum area of a cut-out in pixels. Smaller cut-outs would be blurred when enlarged.
LEAST_PIXELS = 256
_SOLID = [255 * (alpha > 60) for alpha in range(256)]  # lookup table: alpha above 60 counts as opaque


class MediaError(FixableError, ValueError):
    """Raised if a media folder has no usable images, or an image lacks required content."""


# Function that is called with the path of the first skipped image, the error, and the number of skipped images.
OnLeftOut: TypeAlias = Callable[[Path, Exception, int], None]


def warn_left_out(first: Path, error: Exception, count: int) -> None:
    """Logs a warning about ``count`` skipped images."""
    if count == 1:
        _log.warning("%s is left out: %s", first, error)
    else:
        _log.warning("%d images are left out, such as %s: %s", count, first, error)


class _Cache:
    """Least-recently-used cache of images with a limit in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = 0
        self._images: OrderedDict[Path, Image.Image] = OrderedDict()

    def get(self, path: Path) -> Image.Image | None:
        if path in self._images:
            self._images.move_to_end(path)
        return self._images.get(path)

    def put(self, path: Path, image: Image.Image) -> None:
        self._images[path] = image
        self._bytes += _bytes(image)
        while self._bytes > self._limit:
            self._bytes -= _bytes(self._images.popitem(last=False)[1])


class _Files:
    """Image files, grouped by folder, for random draws."""

    def __init__(self) -> None:
        self._folders: list[list[Path]] = []
        self._shares = np.zeros(0)

    def __len__(self) -> int:
        return sum(map(len, self._folders))

    def add(self, paths: Sequence[Path]) -> None:
        """Adds files. The result of a random draw depends on the order in which files were added."""
        for _, group in groupby(paths, key=lambda path: path.parent):
            self._folders.append(list(group))
        sizes = np.sqrt([len(folder) for folder in self._folders])
        self._shares = sizes / sizes.sum()

    def draw(self, rng: np.random.Generator) -> Iterator[Path]:
        """Yields a random file, then all other files in a fixed order. Callers stop at the first usable file."""
        first = int(np.searchsorted(np.cumsum(self._shares)[:-1], rng.random(), side="right"))
        start = int(rng.integers(len(self._folders[first])))
        folder = self._folders[first]
        yield from folder[start:] + folder[:start]
        for other in self._folders[first + 1 :] + self._folders[:first]:
            yield from other


class Media:
    """Random photographs and cut-outs of objects from media folders.

    A media folder has subfolders ``backgrounds/`` with photographs and ``cutouts/`` with RGBA images, or only one of
    the two. Another layout is ``images/`` and ``masks/`` with matching stems, where pixels of masks are 0 or object
    ids. The probability of a folder is proportional to the square root of the number of files in the folder, so that
    small folders still occur.

    Args:
        folders: paths of media folders, at least one.
        longest: maximum side of cut-outs, and maximum shorter side of photographs, in pixels. Images may exceed
            ``longest`` by a third.
        on_left_out: function called once for each unusable image, and once for each folder that has images without
            masks.

    Raises:
        MediaError: If a media folder is missing, lacks the subfolders ``backgrounds/``, ``cutouts/`` or the pair
            ``images/`` and ``masks/``, or has no readable image.
    """

    def __init__(self, folders: Sequence[str | Path], longest: int, on_left_out: OnLeftOut = warn_left_out) -> None:
        self._longest = longest
        self._on_left_out = on_left_out
        self._photographs = _Files()
        self._cutouts = _Files()
        self._masks: dict[Path, Path] = {}  # mask file of each image whose cut-outs are made with a mask
        self._seen_photographs = _Cache(PHOTOGRAPH_BYTES)
        self._seen_cutouts = _Cache(CUTOUT_BYTES)
        self._unreadable: set[Path] = set()
        for folder in map(Path, folders):
            self._add(folder)
        # Reads one photograph and one cut-out, so that unreadable images raise an error here and not in a worker
        # process.
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
        """Returns a random photograph, RGB."""
        for path in self._photographs.draw(rng):
            image = self._read(path, self._open_photograph, self._seen_photographs)
            if image is not None:
                return image
        raise MediaError(f"none of the {len(self._photographs)} photographs can be read, such as {path}")

    def cutout(self, rng: np.random.Generator) -> Image.Image:
        """Returns a random cut-out of an object, RGBA, cropped to the object's visible pixels."""
        for path in self._cutouts.draw(rng):
            if path in self._masks:
                image = self._masked(path, self._masks[path], rng)
            else:
                image = self._read(path, self._open_cutout, self._seen_cutouts)
            if image is not None:
                return image
        raise MediaError(f"none of the {len(self._cutouts)} cut-outs can be read, such as {path}")

    def _pairs(self, folder: Path, images: Sequence[Path], of_masks: Path, masks: Sequence[Path]) -> dict[Path, Path]:
        """Returns the mask of each image; see :func:`~sam2fast.io.image_names.pair_masks`. Leaves other images out."""
        files = [path for path in masks if path.suffix.lower() == ".png"]
        by_name = {path.relative_to(of_masks).with_suffix("").as_posix(): path for path in files}
        names = {path.relative_to(folder).as_posix(): path for path in images}
        owners = pair_masks(by_name, names, folder)
        pairs = {names[image]: by_name[found[0][0]] for image, found in owners.owned.items()}
        unclear = {names[image]: why for image, why in owners.unclear.items()}
        unmasked = [path for path in images if path not in pairs and path not in unclear]
        for paths, why in (([*unclear], next(iter(unclear.values()), "")), (unmasked, "it has no mask")):
            if paths:
                self._on_left_out(paths[0], MediaError(why), len(paths))
        return {path: pairs[path] for path in images if path in pairs}

    def _add(self, folder: Path) -> None:
        if not folder.is_dir():
            raise MediaError(f"no media folder {str(folder)!r}")
        parts = {name: folder / name for name in ("backgrounds", "cutouts", "images", "masks")}
        images = {name: _images(path) for name, path in parts.items() if path.is_dir()}
        if "images" in images and "masks" in images:
            pairs = self._pairs(parts["images"], images["images"], parts["masks"], images["masks"])
            if not pairs:
                raise MediaError(f"no image in {parts['images']} has a mask STEM.png in {parts['masks']}")
            self._masks |= pairs
            self._cutouts.add([*pairs])
            self._photographs.add([*pairs])
        elif "backgrounds" not in images and "cutouts" not in images:
            raise MediaError(
                f"the media folder {str(folder)!r} has neither backgrounds/ (photographs) nor cutouts/ (PNG with "
                "alpha) nor images/ and masks/"
            )
        for name in ("backgrounds", "cutouts"):
            if name in images and not images[name]:
                raise MediaError(f"no images ({', '.join(SUFFIXES)}) in {parts[name]}")
        self._photographs.add(images.get("backgrounds", []))
        self._cutouts.add(images.get("cutouts", []))

    def _read(self, path: Path, opener: Callable[[Path], Image.Image], cache: _Cache) -> Image.Image | None:
        """Returns an image from the cache, or reads the image file. Returns None if the image file is unusable."""
        image = cache.get(path)
        if image is None and path not in self._unreadable:
            try:
                image = opener(path)
            except IMAGE_READ_ERRORS as error:
                self._leave_out(path, error)
                return None
            cache.put(path, image)
        return image

    def _leave_out(self, path: Path, error: Exception) -> None:
        self._unreadable.add(path)
        self._on_left_out(path, error, 1)

    def _open_photograph(self, path: Path) -> Image.Image:
        shorter = 4 * self._longest // 3
        with _opened(path) as opened:
            opened.draft("RGB", (shorter, shorter))  # decodes JPEG files at a reduced resolution
            image = opened.convert("RGB")
        return _shrink(image, shorter / min(image.size))

    def _open_cutout(self, path: Path) -> Image.Image:
        with _opened(path) as opened:
            if not opened.has_transparency_data:
                raise MediaError("it has no alpha channel to separate the object from its background")
            image = opened.convert("RGBA")
        return self._crop(image)

    def _open_mask(self, path: Path) -> Image.Image:
        ids = read_labels(path).astype(np.int32)
        if not ids.any():
            raise MediaError("it holds no object: all its pixels are 0")
        return Image.fromarray(ids)

    def _masked(self, path: Path, mask: Path, rng: np.random.Generator) -> Image.Image | None:
        """Cuts the pixels of a random object in ``mask`` out of the image at ``path``."""
        image = self._read(path, self._open_photograph, self._seen_photographs)
        ids = self._read(mask, self._open_mask, self._seen_cutouts)
        if image is None or ids is None:
            return None
        values, counts = np.unique(np.asarray(ids), return_counts=True)
        large = values[(values > 0) & (counts >= LEAST_PIXELS)]
        if not len(large):
            self._leave_out(mask, MediaError(f"its objects are all smaller than {LEAST_PIXELS} pixels"))
            return None
        alpha = Image.fromarray(255 * (np.asarray(ids) == rng.choice(large)).astype(np.uint8))
        if alpha.size != image.size:
            alpha = alpha.resize(image.size, Image.Resampling.BILINEAR)
        image = image.copy()
        image.putalpha(alpha)
        return self._crop(image)

    def _crop(self, image: Image.Image) -> Image.Image:
        alpha = image.getchannel("A").point(_SOLID)
        box = alpha.getbbox()
        if box is None or (box[2] - box[0]) * (box[3] - box[1]) < LEAST_PIXELS:
            raise MediaError("almost all of it is transparent")
        image = image.crop(box)
        return _shrink(image, self._longest / max(image.size))


class ScenePhotographs:
    """Draws a few photographs for one scene, so that the scene's textures look alike and fewer files are decoded.

    Calling an instance with a generator returns one of the photographs, RGB. The first ``count`` calls each draw a new
    photograph.
    """

    def __init__(self, media: Media, count: int = 2) -> None:
        self._media = media
        self._count = count
        self._images: list[Image.Image] = []

    def __call__(self, rng: np.random.Generator) -> Image.Image:
        if len(self._images) < self._count:
            self._images.append(self._media.photograph(rng))
            return self._images[-1]
        return self._images[rng.integers(self._count)]


def _images(folder: Path) -> list[Path]:
    return sorted(
        (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES), key=lambda path: (path.parent, path)
    )


def _opened(path: Path) -> Image.Image:
    # Reads the whole file before decoding, because the PNG decoder would make many small reads.
    return open_image(BytesIO(path.read_bytes()))


def _shrink(image: Image.Image, scale: float) -> Image.Image:
    if scale > 0.75:
        return image
    size = (max(1, round(scale * image.width)), max(1, round(scale * image.height)))
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=1.5)


def _bytes(image: Image.Image) -> int:
    return image.width * image.height * 4  # Pillow stores RGB with four bytes per pixel, like RGBA

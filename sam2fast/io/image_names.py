"""Matches images with the names that files state for them, and names images in files of results.

Paths are compared from the last part, the file name, to the first. File names must agree. If several names or images
agree, the longest common path decides.
"""

import logging
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote

from sam2fast.io.images import IMAGE_SUFFIXES
from sam2fast.utils.errors import FixableError

# Ultralytics finds the labels of .../images/train/1.jpg in .../labels/train/1.txt.
LABELS, IMAGES = "labels", "images"
NUMBER = re.compile(r"\d{1,18}")
# Python decodes bytes of a path that are not UTF-8 to these characters (PEP 383).
SURROGATE, NOT_UTF8 = 0xDC00, re.compile("[\udc80-\udcff]")
_log = logging.getLogger(__name__)


class ImageNameError(FixableError, ValueError):
    """Raised if several images or names fit equally well."""

    def __init__(self, text: str, candidates: Iterable[str], place: object) -> None:
        super().__init__(text, sorted(candidates), str(place))

    def __str__(self) -> str:
        text, candidates, place = self.args
        names = ", ".join(candidates)
        return f"{text} may be any of {names} in {place}; expected names that differ by a folder or a suffix"


def utf8_text(name: str) -> str:
    """Returns a name for text files and for results. Bytes that are not UTF-8 become ``%XX``, as in an address.

    JSON with such bytes would be an error in most programs. Readers find the file by :func:`path_parts`.
    """
    return NOT_UTF8.sub(lambda match: f"%{ord(match[0]) - SURROGATE:02X}", name)


def name_key(name: str) -> str:
    """Returns a key that is equal for composed and decomposed characters, and for :func:`utf8_text`."""
    return unicodedata.normalize("NFC", utf8_text(name))


def similar_path(folder: Path, name: str) -> Path:
    """Returns ``folder / name``. If it does not exist, returns an existing path with other separators or characters.

    Separators may be ``\\``, and names of folders and of the file may have the same :func:`name_key`.
    """
    path = folder
    if (path / name).exists():
        return path / name
    for part in name.replace("\\", "/").split("/"):
        has_forms = not part.isascii() or "%" in part  # otherwise, listing a large folder would be in vain
        if has_forms and not (path / part).exists() and path.is_dir():
            part = next((other for other in os.listdir(path) if name_key(other) == name_key(part)), part)
        path /= part
    return path if path.exists() else folder / name


def relative_names(images: Sequence[Path | str]) -> list[str]:
    """Returns the paths of images relative to their common parent folder, with ``/`` as separator, in UTF-8.

    Args:
        images: Paths of files. Strings, such as addresses, are returned unchanged.
    """
    folders = [os.path.dirname(os.path.abspath(image)) for image in images if isinstance(image, Path)]
    parent = os.path.commonpath(folders) if folders else ""
    return [
        image if isinstance(image, str) else utf8_text(Path(os.path.relpath(os.path.abspath(image), parent)).as_posix())
        for image in images
    ]


def distinct_stems(names: Sequence[str], stems: Sequence[str] | None = None) -> list[str]:
    """Returns names of files without suffixes. If stems of different names are equal, returns the whole names.

    Args:
        stems: Names without suffixes. By default, the parts of ``names`` before the suffixes.
    """
    if stems is None:
        splits = [name.rpartition("/") for name in names]
        stems = [f"{folder}{slash}{PurePosixPath(last).stem}" for folder, slash, last in splits]
    while True:  # a whole name may equal another stem
        owners: dict[str, set[str]] = defaultdict(set)
        for name, stem in zip(names, stems, strict=True):
            owners[stem.casefold()].add(name)  # names that differ only in capitals are the same file on some systems
        distinct = [name if len(owners[stem.casefold()]) > 1 else stem for name, stem in zip(names, stems, strict=True)]
        if distinct == list(stems):
            return distinct
        stems = distinct


def path_parts(text: str) -> tuple[str, ...]:
    """Returns the parts of a path or a URL, with the file name last.

    Reads ``/`` and ``\\`` as separators, drops ``.``, resolves ``..``, and composes characters (Unicode's NFC). Drops
    spaces at both ends of a part. Bytes that are not UTF-8 are as in :func:`utf8_text`.
    """
    scheme, is_address, rest = text.partition("://")
    path = unquote(re.split("[?#]", rest)[0], errors="surrogateescape") if is_address else scheme
    parts: list[str] = []
    for part in map(str.strip, name_key(path).replace("\\", "/").split("/")):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return tuple(parts)


def as_number(text: str) -> int | None:
    """Returns the integer that a string of digits denotes, or None for other strings."""
    return int(text) if NUMBER.fullmatch(text) else None


@dataclass(frozen=True)
class ImageName:
    """The name or number that a file states for an image."""

    file: Path  # file or folder that states the name
    parts: tuple[str, ...]  # parts of the path, with the file name last
    text: str = field(compare=False)  # name of the image in messages
    stated: int  # number of parts in the file; for a label file, number of parts below the folder argument
    is_id: bool = False  # True if the name is a number, ``image_id`` of COCO's detections

    @classmethod
    def of(cls, name: str | int, file: Path) -> "ImageName":
        """Returns the name that a file states."""
        text = str(name)
        parts = path_parts(text) or (text,)
        return cls(file, parts, text, len(parts), is_id=isinstance(name, int))

    @classmethod
    def of_label(cls, label: Path, folder: Path) -> "ImageName":
        """Returns the name of the image of a label file ``STEM.txt`` in a folder or its subfolders."""
        parts = list(path_parts(os.path.abspath(label.with_suffix(""))))
        if LABELS in parts[:-1]:
            last = len(parts) - 2 - parts[-2::-1].index(LABELS)
            parts[last] = IMAGES
        below = label.relative_to(folder).with_suffix("")
        return cls(folder, tuple(parts), below.as_posix(), len(below.parts))


def coco_name(image: Mapping[str, Any]) -> str:
    """Returns the name of an image in COCO, the address of an image in LVIS, or an empty text."""
    name = image.get("file_name") or image.get("coco_url")
    return str(name) if isinstance(name, str | int) and str(name).strip() else ""


class GivenImage(NamedTuple):
    """An image or a frame whose name is looked for. The name of a frame has no suffix."""

    text: str  # name in messages
    parts: tuple[str, ...]
    stem: str
    is_frame: bool = False
    others: tuple[tuple[str, ...], ...] = ()  # parts of other paths with the same file name

    @classmethod
    def of(cls, path: str, text: str, others: Iterable[str] = ()) -> "GivenImage":
        """Returns the image with an absolute path or an address. ``others`` are paths by which the image is found."""
        parts = path_parts(path) or (path,)
        return cls(text, parts, PurePosixPath(parts[-1]).stem, others=tuple(map(path_parts, others)))

    @classmethod
    def of_frame(cls, path: str) -> "GivenImage":
        """Returns the frame whose image has this path without suffix."""
        parts = path_parts(os.path.abspath(path))
        return cls(path, parts, parts[-1], is_frame=True)


class PathMatch(NamedTuple):
    """Scores how well a name matches an image. The best match is the greatest tuple."""

    common: int  # number of equal parts at the end of the two paths, at least 1
    is_whole: bool  # True if all parts of the name agree
    closeness: int  # 3 for equal file names, 2 for equal names without suffix, 1 for equal numbers
    same_case: int  # number of the common parts with identical letter case


class ImageNames:
    """The names of images in files of prompts and boxes."""

    def __init__(self, names: Iterable[ImageName]) -> None:
        self.guessed: dict[str, str] = {}  # names with other folders than the image, by the image's text
        self._by_key: dict[str | int | None, list[ImageName]] = defaultdict(list)
        for name in dict.fromkeys(names):
            last = name.parts[-1]
            for key in {last.casefold(), _stem(last).casefold(), as_number(last)} - {None}:
                self._by_key[key].append(name)

    def of(self, image: GivenImage) -> list[ImageName]:
        """Returns the names that match an image, at most one from each file.

        A name with a shorter common path than another file's name only counts if all parts of the name agree.

        Raises:
            ImageNameError: If several names of one file fit equally well.
        """
        keys = image.parts[-1].casefold(), image.stem.casefold(), as_number(image.stem)
        candidates = dict.fromkeys(name for key in keys for name in self._by_key.get(key, ()))
        by_file: dict[Path, dict[ImageName, PathMatch]] = defaultdict(dict)
        for name in candidates:
            match = _match(name, image)
            if match is not None:
                by_file[name.file][name] = match
        best = {file: max(matches.values()) for file, matches in by_file.items()}
        longest = max((match.common for match in best.values()), default=0)
        names = []
        for file, match in best.items():
            fitting = [name for name, one in by_file[file].items() if one == match]
            if match.common < min(longest, len(fitting[0].parts)):
                continue
            if len(fitting) > 1:
                raise ImageNameError(image.text, (name.text for name in fitting), file)
            names += fitting
            if match.common == 1 < fitting[0].stated:
                self.guessed[image.text] = fitting[0].text
        return names

    def log_guesses(self) -> None:
        """Logs a warning if only the file name of an image agrees with a name that states folders."""
        _log_guesses(self.guessed)


class FoundImage(NamedTuple):
    """An image that fits a name. The best image is the greatest tuple without ``image``."""

    is_exact: bool  # True if the name and the path in the folder have the same folders
    match: PathMatch
    is_same_text: bool  # True if the name is the path in the folder
    image: str  # path in the folder


class FolderImages:
    """The images of a folder, for names that a file states.

    Args:
        images: Paths relative to the folder, with ``/`` as separator, with or without suffixes.
        folder: Folder of the images. Names may begin with parts of its path.
    """

    def __init__(self, images: Iterable[str], folder: Path) -> None:
        self._folder, parents = folder, path_parts(os.path.abspath(folder))
        self._by_key: dict[str, list[tuple[GivenImage, tuple[str, ...]]]] = defaultdict(list)
        for image in dict.fromkeys(images):
            parts = path_parts(image)
            given = GivenImage(image, (*parents, *parts), _stem(parts[-1]))
            for key in {parts[-1].casefold(), given.stem.casefold()}:
                self._by_key[key].append((given, tuple(map(str.casefold, parts[:-1]))))

    def find(self, name: str, exactly: bool = False) -> FoundImage | None:
        """Returns the image that fits a name best, or None. If ``exactly`` is True, the folders must agree, too.

        Raises:
            ImageNameError: If several images fit equally well.
        """
        stated = ImageName.of(name, self._folder)
        of_name = tuple(map(str.casefold, stated.parts[:-1]))
        found = [
            FoundImage(folders == of_name, match, given.text == name, given.text)
            for given, folders in self._by_key.get(stated.parts[-1].casefold(), ())
            if (folders == of_name or not exactly) and (match := _match(stated, given)) is not None
        ]
        best = max(found, default=None)
        if best is not None and len(fitting := [one.image for one in found if one[:-1] == best[:-1]]) > 1:
            raise ImageNameError(name, fitting, self._folder)
        return best


class MaskOwners(NamedTuple):
    """Masks of images, by the image's path in its folder."""

    owned: dict[str, list[tuple[str, bool]]]  # names of masks, and True if a name is longer than the image's name
    unclear: dict[str, str]  # images that share the name of a mask with other images, and the reason
    unpaired: list[str]  # masks without an image


def pair_masks(masks: Iterable[str], images: Collection[str], folder: Path, of_objects: bool = False) -> MaskOwners:
    """Finds the image of each mask. A name without folders may be of an image in a subfolder without other masks.

    Args:
        masks: Names of mask files in their folder, without the suffix of masks.
        images: Paths of the images in ``folder``.
        of_objects: If True, ``NAME_1`` and ``NAME/1`` are also masks of the image ``NAME``. The longest name decides.
    """
    owners = MaskOwners(defaultdict(list), {}, [])
    left = list(masks)
    for exactly in (True, False):
        lookup, names = FolderImages((image for image in images if image not in owners.owned), folder), left
        left = []
        for name in names:
            for owner in _owner_names(name) if of_objects else (name,):
                try:
                    found = lookup.find(owner, exactly)
                except ImageNameError as error:
                    owners.unclear.update(dict.fromkeys(error.args[1], str(error)))
                    break
                if found is not None and (exactly or found.match.is_whole):
                    owners.owned[found.image].append((name, owner != name))
                    break
            else:
                left.append(name)
    for image in owners.owned.keys() & owners.unclear.keys():
        del owners.unclear[image]
    return owners._replace(unpaired=left)


def _owner_names(name: str) -> Iterator[str]:
    """Yields the names of images that may own a mask: the same name, the folder, and beginnings before a ``_``."""
    yield name
    folder, _, stem = name.rpartition("/")
    if folder:
        yield folder
    while "_" in stem:
        stem = stem.rpartition("_")[0]
        if stem:
            yield f"{folder}/{stem}" if folder else stem


class FoundFiles(NamedTuple):
    """Files in a folder for names that a file states. Other names are the paths of files."""

    renamed: dict[str, str]  # paths in the folder of files with other names, by the stated name
    unclear: dict[str, str]  # names that fit several files, or share a file with other names, and the reason
    missing: list[str]  # names without a file


def find_files(names: Collection[str], folder: Path, suffixes: tuple[str, ...]) -> FoundFiles:
    """Finds the files in a folder and its subfolders that a file names. Logs a warning about guesses.

    Args:
        names: Names with suffixes.
        suffixes: Lower-case endings of the files that may have the names.
    """
    found, missing = FoundFiles({}, {}, []), names_without_file(names, folder)
    if not missing:
        return found
    taken = {path_parts(name) for name in {*names} - {*missing}}
    present = (path.relative_to(folder).as_posix() for path in visible_files(folder, suffixes))
    files = FolderImages((file for file in present if path_parts(file) not in taken), folder)
    claims: dict[str, list[tuple[PathMatch, str]]] = defaultdict(list)
    for name in missing:
        try:
            if (one := files.find(name)) is not None:
                claims[one.image].append((one.match, name))
        except ImageNameError as error:
            found.unclear[name] = str(error)
    guessed = {}
    for file, of_file in claims.items():
        best = max(match for match, _ in of_file)
        fitting = [name for match, name in of_file if match == best]
        if len(fitting) > 1:
            found.unclear.update(dict.fromkeys(fitting, str(ImageNameError(file, fitting, "the list of images"))))
            continue
        found.renamed[fitting[0]] = file
        if best.common == 1 < len(path_parts(fitting[0])):
            guessed[str(folder / file)] = fitting[0]
    _log_guesses(guessed)
    found.missing.extend(name for name in missing if name not in found.renamed and name not in found.unclear)
    return found


def names_without_file(names: Iterable[str], folder: Path) -> list[str]:
    """Returns the sorted names without a file ``folder/<name>``. The content of each folder is read once."""
    listed: dict[str, set[str]] = {}
    missing = []
    for name in sorted(set(names)):
        parent, _, own = name.rpartition("/")
        if parent not in listed:
            try:
                listed[parent] = set(os.listdir(folder / parent))
            except (OSError, ValueError):
                listed[parent] = set()
        if own not in listed[parent]:
            missing.append(name)
    return missing


def visible_files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Returns the files of a folder and its subfolders, sorted, except hidden files. Includes broken links."""
    paths = []
    for path in sorted(folder.rglob("*")):
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.name.lower().endswith(suffixes) and not is_hidden:
            is_broken = path.is_symlink() and not path.exists()  # reading a broken link raises an error later
            if path.is_file() or is_broken:
                paths.append(path)
    return paths


def _log_guesses(guessed: Mapping[str, str]) -> None:
    if guessed:
        image, name = next(iter(guessed.items()))
        count = f"{len(guessed)} images are" if len(guessed) > 1 else "1 image is"
        text = "%s matched by the file name only, since folders differ: %s is matched with %s"
        _log.warning(text, count, image, name)


def _stem(name: str) -> str:
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in IMAGE_SUFFIXES else name


def _match(name: ImageName, image: GivenImage) -> PathMatch | None:
    last, file_name = name.parts[-1], image.parts[-1]
    pairs = [(last, file_name, 3), (last, image.stem, 2), *([(_stem(last), file_name, 2)] if image.is_frame else ())]
    equal = [(one == other, closeness) for one, other, closeness in pairs if one.casefold() == other.casefold()]
    if name.is_id or not equal:
        is_number = (name.is_id or image.is_frame) and as_number(last) is not None
        return PathMatch(1, True, 1, 0) if is_number and as_number(last) == as_number(image.stem) else None
    has_same_case, closeness = max(equal, key=lambda one: one[1])
    common, same_case = max(_common_folders(name.parts, parts) for parts in (image.parts, *image.others))
    return PathMatch(common + 1, common + 1 >= name.stated, closeness, same_case + has_same_case)


def _common_folders(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[int, int]:
    """Returns the number of equal folders at the end of two paths, and the number of folders with equal capitals."""
    common = same_case = 0
    for part, other_part in zip(one[-2::-1], other[-2::-1], strict=False):
        if part.casefold() != other_part.casefold():
            break
        common, same_case = common + 1, same_case + (part == other_part)
    return common, same_case

"""Matches images with their names in files of prompts and boxes.

Paths are compared from the last part, the file name, to the first. File names must agree. If several names agree, the
name with the longest common path is taken.
"""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

from sam2fast.cli.sources import IMAGE_SUFFIXES, InputSource
from sam2fast.cli.user_errors import UserError, print_note

# Ultralytics finds the labels of .../images/train/1.jpg in .../labels/train/1.txt.
LABELS, IMAGES = "labels", "images"
NUMBER = re.compile(r"\d{1,18}")


def path_parts(text: str) -> tuple[str, ...]:
    """Returns the parts of a path or a URL, with the file name last.

    Reads ``/`` and ``\\`` as separators, drops ``.``, resolves ``..``, and composes characters (Unicode's NFC).
    """
    scheme, is_address, rest = unicodedata.normalize("NFC", text.strip()).partition("://")
    path = unquote(re.split("[?#]", rest)[0]) if is_address else scheme
    parts: list[str] = []
    for part in path.replace("\\", "/").split("/"):
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


class GivenImage(NamedTuple):
    """An image from the command line, or a frame in a folder. A frame's name has no suffix."""

    text: str
    parts: tuple[str, ...]
    stem: str
    is_frame: bool = False

    @classmethod
    def of(cls, source: InputSource) -> "GivenImage":
        """Returns the image of an input."""
        if source.content is not None:
            return cls(str(source), (source.file_name,), source.stem)
        parts = path_parts(source.text if source.path is None else os.path.abspath(source.path)) or (source.file_name,)
        return cls(str(source), parts, PurePosixPath(parts[-1]).stem)

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
            UserError: If several names of one file fit equally well.
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
                texts = ", ".join(sorted(name.text for name in fitting))
                raise UserError(
                    f"{image.text} may be any of {texts} in {file}; expected an image in a folder of the same name"
                )
            names += fitting
            if match.common == 1 < fitting[0].stated:
                self.guessed[image.text] = fitting[0].text
        return names

    def note_guesses(self) -> None:
        """Prints a note if only the file name of an image agrees with a name that states folders."""
        if self.guessed:
            image, name = next(iter(self.guessed.items()))
            count = f"{len(self.guessed)} images are" if len(self.guessed) > 1 else "1 image is"
            print_note(f"{count} matched by the file name only, since folders differ: {image} is matched with {name}")


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
    common, same_case = 1, int(has_same_case)
    for one, other in zip(name.parts[-2::-1], image.parts[-2::-1], strict=False):
        if one.casefold() != other.casefold():
            break
        common, same_case = common + 1, same_case + (one == other)
    return PathMatch(common, common >= name.stated, closeness, same_case)

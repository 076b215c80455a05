"""Which videos or pictures of a data set are used: lists of names, and errors that name what is missing."""

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from sam2fast.training.data.errors import DataError

PathLike: TypeAlias = str | os.PathLike[str]
Lists: TypeAlias = PathLike | Sequence[PathLike] | None

NAMED = 5  # how many offenders an error names


class NamedVideos:
    """What data sets of videos, and of pictures as videos, have in common.

    Attributes:
        img_folder: of the frames or pictures.
        video_names: of the videos that are used, in their order.
    """

    img_folder: Path
    video_names: list[str]

    @property
    def name(self) -> str:
        """For messages."""
        return str(self.img_folder)

    def __len__(self) -> int:
        return len(self.video_names)


def existing_folder(argument: str, folder: PathLike | None, expected: str) -> Path:
    """``folder``, if it is one.

    Raises:
        DataError: it is not, or not set; says what should be in it.
    """
    if folder is None:  # what configurations leave for the user to set
        raise DataError(f"{argument} is not set: it must be a folder with {expected}")
    if not Path(folder).is_dir():
        raise DataError(f"{argument} {folder} is not a folder: expected {expected} in it")
    return Path(folder)


def read_list(argument: str, path: PathLike, present: Collection[str] = ()) -> list[str]:
    """Names in a text file, one a line, without file extensions; a dot in the name of a present video is none.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{argument} {path} cannot be read, expected one name of a video a line: {error}") from error
    names = [line.strip() for line in lines]
    return [name if name in present else os.path.splitext(name)[0] for name in names if name]


def choose_names(
    present: Iterable[str], folder: Path, expected: str, file_list_txt: PathLike | None, excluded: Lists, what: str
) -> list[str]:
    """Names of the videos or pictures that are used, sorted; those listed are not looked for.

    Args:
        present: those in ``folder``.
        expected, what: for the message: what should be where, and what that is called.
        file_list_txt: takes only those named in it.
        excluded: one list, or several, of those that are left out.

    Raises:
        DataError: a list cannot be read, or none is left.
    """
    known = set(present)
    names = list(known) if file_list_txt is None else read_list("file_list_txt", file_list_txt, known)
    lists = [] if excluded is None else [excluded] if isinstance(excluded, str | os.PathLike) else list(excluded)
    unwanted = {name for path in lists for name in read_list("excluded_videos_list_txt", path, known)}
    names = sorted(name for name in names if name not in unwanted)
    if not names:
        source = folder if file_list_txt is None else file_list_txt
        excluding = " that is not excluded" if lists else ""
        raise DataError(f"there are no {what} in {source}: expected {expected}{excluding}")
    return names


def choose_present(
    present: Collection[str], folder: Path, expected: str, file_list_txt: PathLike | None, excluded: Lists, what: str
) -> list[str]:
    """As :func:`choose_names`, where ``file_list_txt`` may name nothing but what is ``present`` in ``img_folder``.

    Args:
        folder: ``img_folder``.
        expected: for the message: what should be there.

    Raises:
        DataError: a list cannot be read or names what is not there, or none is left.
    """
    names = choose_names(present, folder, f"{expected} in img_folder", file_list_txt, excluded, what)
    refuse(
        [name for name in names if name not in present],
        f"of the {len(names)} {what} listed in {file_list_txt} are not in img_folder {folder}",
        f"Expected {expected} there.",
    )
    return names


def without_file(names: Iterable[str], folder: Path, suffix: str) -> list[str]:
    """The names for which there is no file ``folder/<name><suffix>``, sorted; each folder is listed once."""
    listed: dict[str, set[str]] = {}
    missing = []
    for name in sorted(set(names)):
        parent, _, own = name.rpartition("/")
        if parent not in listed:
            try:
                listed[parent] = set(os.listdir(folder / parent))
            except OSError:
                listed[parent] = set()
        if own + suffix not in listed[parent]:
            missing.append(name)
    return missing


def refuse(offenders: Sequence[str], problem: str, expected: str) -> None:
    """Raises ``DataError`` if there are offenders, and names some of them."""
    if offenders:
        more = f" and {len(offenders) - NAMED} more" if len(offenders) > NAMED else ""
        raise DataError(f"{len(offenders)} {problem}: {', '.join(offenders[:NAMED])}{more}. {expected}")

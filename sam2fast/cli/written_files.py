"""Removes files of earlier runs whose images or objects are gone, by a record of the written files."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from sam2fast.cli.command_files import write_atomically
from sam2fast.cli.sources import may_exist
from sam2fast.cli.user_errors import print_note
from sam2fast.io.file_records import file_sha256


class WrittenFiles:
    """The record of the files that runs wrote into a folder: image and digest of each file.

    A context manager that writes the record at its end, even after an exception.

    Args:
        out: Folder of the results.
        name: Name of the record in the folder.
    """

    def __init__(self, out: Path, name: str) -> None:
        self._out, self._record = out, out / name
        self._files: dict[str, tuple[str, str]] = {}  # image and digest by path in the folder
        try:
            for path, (image, digest) in json.loads(self._record.read_bytes()).items():
                if not Path(path).is_absolute() and ".." not in Path(path).parts:
                    self._files[path] = str(image), str(digest)
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            self._files = {}  # there is no record, or a damaged one

    def __enter__(self) -> "WrittenFiles":
        return self

    def __exit__(self, *error: object) -> None:
        content = (json.dumps(dict(sorted(self._files.items())), indent=0) + "\n").encode()
        before = self._record.read_bytes() if self._record.is_file() else b"{}\n"
        if content != before:
            write_atomically(self._record, content)

    def add(self, image: str, files: Iterable[Path], is_new: bool = True) -> None:
        """Records the files of an image, a value of :attr:`InputSource.resolved`.

        Args:
            is_new: True if this run wrote the files. False for files that an unfinished run may have written: only
                those without a record are added.
        """
        for file in files:
            name = file.relative_to(self._out).as_posix()
            if file.is_file() and (is_new or name not in self._files):
                self._files[name] = image, file_sha256(file)

    def files_of(self, image: str) -> list[Path]:
        """Returns the recorded files of an image."""
        return [self._out / name for name, (of, _) in self._files.items() if of == image]

    def remove_others(
        self, outputs: Mapping[str, Collection[Path]], is_rewritten: Callable[[Path], bool] = lambda path: True
    ) -> None:
        """Removes recorded files that the results of this run do not include. Notes count these files.

        A file is removed if its image is gone (see :func:`may_exist`), or is in ``outputs`` without this file. Files
        that were changed since they were written, and files of other images, are kept.

        Args:
            outputs: Files of each input.
            is_rewritten: Function that returns False for a path in the folder if this run writes no files of its kind.
        """
        removed, changed, others = list[Path](), list[Path](), list[Path]()
        for name, (image, digest) in list(self._files.items()):
            path = self._out / name
            if not path.is_file():
                del self._files[name]
            elif path in outputs.get(image, ()) or not is_rewritten(Path(name)):
                continue
            elif image not in outputs and may_exist(image):
                others.append(path)
            else:
                del self._files[name]
                if file_sha256(path) == digest:
                    path.unlink()
                (changed if path.is_file() else removed).append(path)
        for files, what in (
            (removed, "removed, since their images or objects are gone"),
            (changed, "kept although their images or objects are gone, since they were changed"),
            (others, "kept, of images without results in this run"),
        ):
            if files:
                print_note(f"files of earlier runs that are {what}: {len(files)} (first: {files[0]})")

"""Output folder of one video, created atomically and filled with PNG masks by a thread."""

import json
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam2fast.io.atomic import annotate_oserror, replace_all, temporary_path
from sam2fast.io.label_maps import extended, label_dtype, label_png, stack_masks
from sam2fast.io.made_from import described, differences, is_whole

NOTE = ".note.json"  # file in the hidden folder that becomes the note next to the output folder
# Maximum number of frames in the queue of the writer. With a queue, one slow write does not stop the device.
MOST_WAITING = 8


def is_done(folder: Path, made_from: Any) -> bool:
    """Returns True if the folder's record equals ``made_from``, and all masks of its note are complete."""
    note = _read_note(folder)
    if note is None or not folder.is_dir() or differences(note["made_from"], made_from):
        return False
    return bool(sum(map(is_whole, _masks(folder))) == note["masks"])


def conflicts(folder: Path, made_from: Any) -> list[str]:
    """Returns names of inputs that differ from an existing result's inputs; see :mod:`sam2fast.io.made_from`."""
    if not (folder.exists() or folder.is_symlink()) or (folder.is_dir() and not any(folder.iterdir())):
        return []
    note = _read_note(folder) if folder.is_dir() else None
    return differences(note and note["made_from"], made_from)


def _read_note(folder: Path) -> dict[str, Any] | None:
    """Returns the folder's record and number of masks from its note, or None if the folder has no valid note."""
    try:
        note = json.loads(_note(folder).read_text(encoding="utf-8"))
        return {"made_from": note["made_from"], "masks": int(note["masks"])}
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _masks(folder: Path) -> list[Path]:
    return [Path(at, name) for at, _, files in os.walk(folder) for name in files if name.endswith(".png")]


@contextmanager
def atomic_folder(folder: Path, made_from: Any, replace: bool) -> Iterator[Path]:
    """Yields a hidden folder, which replaces ``folder`` if the context ends without an exception.

    ``made_from`` is JSON for the note ``.NAME.json``. Even if the process is killed, :func:`is_done` is True only for
    complete folders. Raises FileExistsError if the folder has another record, unless ``replace`` is True.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with temporary_path(folder) as partial:
        partial.mkdir()
        yield partial
        if not replace and (other := conflicts(folder, made_from)):
            raise FileExistsError(f"{folder} already exists, and {described(other)}")
        note = partial / NOTE
        with annotate_oserror(note):  # writes the note before moving files, because the disk may be full
            content = {"made_from": made_from, "masks": len(_masks(partial))}
            note.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        # With this order, a note never describes another folder than the folder next to it.
        replace_all([(note, _note(folder)), (partial, folder)])


def _note(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.json")


def format_error(error: Exception) -> str:
    """Formats an exception as one line. For an ``OSError``, the line begins with the file's name."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


class MaskWriter:
    """Writes masks as PNG in a thread: a label image per frame, or an image of 0 and 1 per object and frame.

    A label image has a palette, or 16 bits if an id exceeds 255.

    If the writer's context ends without an exception, all files are written.

    Args:
        folder: Existing folder for ``FRAME.png``, or for ``OBJECT/FRAME.png`` with object ids of three digits.
        colours: RGB bytes of the palette. Defaults to DAVIS's palette.
    """

    def __init__(
        self, folder: Path, names: Sequence[str], size: tuple[int, int], per_object: bool, colours: bytes | None
    ) -> None:
        self._folder, self._names, self._size = folder, names, size
        self._per_object, self._colours = per_object, colours
        self._thread = ThreadPoolExecutor(1, "images")
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> "MaskWriter":
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *error: object) -> None:
        try:
            while exc_type is None and self._waiting:
                self._waiting.popleft().result()
        finally:
            self._thread.shutdown(cancel_futures=True)

    def add(self, frame: int, masks: dict[int, NDArray[np.uint8]]) -> None:
        """Queues a frame. Blocks while the queue is full.

        Args:
            masks: masks by object id, as bits ``(H, ceil(W / 8))`` uint8. A byte has eight pixels, with the leftmost
                pixel in the lowest bit.

        Raises:
            OSError: If an earlier frame could not be written.
        """
        self._waiting.append(self._thread.submit(self._write, frame, masks))
        while len(self._waiting) > MOST_WAITING:
            self._waiting.popleft().result()

    def _write(self, frame: int, masks: dict[int, NDArray[np.uint8]]) -> None:
        pixels = {i: np.unpackbits(bits, axis=-1, count=self._size[1], bitorder="little") for i, bits in masks.items()}
        if not self._per_object:
            # At pixels of overlapping masks, the smaller id is written.
            shown = ((i, pixels[i].view(np.bool_)) for i in sorted(pixels, reverse=True))
            labels = stack_masks(shown, self._size, label_dtype(pixels))
            colours = None if self._colours is None else extended(self._colours, max(pixels, default=0) + 1)
            self._save(self._folder, frame, label_png(labels, colours))
            return
        for obj_id, mask in pixels.items():
            folder = self._folder / f"{obj_id:03d}"
            folder.mkdir(exist_ok=True)
            colours = None if self._colours is None else extended(self._colours, 2)
            self._save(folder, frame, label_png(mask, colours))

    def _save(self, folder: Path, frame: int, content: bytes) -> None:
        file = folder / f"{self._names[frame]}.png"
        with annotate_oserror(file):
            file.write_bytes(content)

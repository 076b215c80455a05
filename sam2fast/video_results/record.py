"""The file ``masks.jsonl`` of ``sam2fast track``: a line of JSON for each frame, in the order of frames."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sam2fast.io.rle import decode_rle
from sam2fast.video_results.frames import FrameMasks


class RecordError(ValueError):
    """A file that is no record of tracked masks."""


def read_masks(path: str | Path) -> Iterator[FrameMasks]:
    """The tracked frames of a ``masks.jsonl``, one after the other, in constant memory.

    A last line that an interrupted run left half-written is left out.

    Raises:
        FileNotFoundError: there is no such file.
        RecordError: a line is something else.
    """
    for line in read_lines(path):
        try:
            yield _decoded(line)
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(f"{path}: frame {line['frame']} cannot be read: {error}") from error


def read_lines(path: str | Path) -> Iterator[dict[str, Any]]:
    """The same as they are stored, with run lengths; raises as :func:`read_masks`."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n"):
                yield parse_line(line, f"{path}, line {number}")


def parse_line(line: bytes, where: str) -> dict[str, Any]:
    """One line.

    Raises:
        RecordError: it is no line of such a file; the message begins with ``where``.
    """
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{where}, is no JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("frame"), int) or "objects" not in content:
        raise RecordError(f"{where}, is no frame of tracked masks")
    return content


class RecordIndex(Mapping[int, dict[str, Any]]):
    """The lines of a ``masks.jsonl`` by frame; they stay on disk.

    Raises:
        FileNotFoundError, RecordError: as :func:`read_masks`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[int, tuple[int, int]] = {}
        place = 0
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n"):
                    frame = parse_line(line, f"{path}, line {number}")["frame"]
                    self._places[frame] = (place, len(line))
                place += len(line)
        self._file = open(path, "rb")  # noqa: SIM115  # closed by close()

    def __getitem__(self, frame: int) -> dict[str, Any]:
        return parse_line(self.raw(frame), f"{self._path}, frame {frame}")

    def raw(self, frame: int) -> bytes:
        """A frame's line as it is stored, with its line feed."""
        place, length = self._places[frame]
        self._file.seek(place)
        return self._file.read(length)

    def __iter__(self) -> Iterator[int]:
        """Frames in the order of the file."""
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def is_sorted(self) -> bool:
        """Whether the lines are in the order of frames."""
        frames = list(self._places)
        return frames == sorted(frames)

    def close(self) -> None:
        self._file.close()


def _decoded(line: Mapping[str, Any]) -> FrameMasks:
    objects = line["objects"]
    masks = [decode_rle(entry["rle"]) for entry in objects]
    scores = np.array([entry["score"] for entry in objects], dtype=np.float32)
    pixels = np.stack(masks) if masks else np.zeros((0, 0, 0), dtype=bool)
    return FrameMasks(line["frame"], [entry["id"] for entry in objects], pixels, scores)

"""Reads ``masks.jsonl`` of ``sam2fast track``: a line of JSON for each frame, in the order of frames."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sam2fast.io.rle import decode_rle
from sam2fast.results.frame_masks import FrameMasks
from sam2fast.utils.errors import FixableError

MOST_FRAMES = 10**8  # maximum number of frames: a month at 30 frames/s


class RecordError(FixableError, ValueError):
    """Raised if a file is not a valid ``masks.jsonl``."""


def read_masks(path: str | Path) -> Iterator[FrameMasks]:
    """Yields the tracked frames of a ``masks.jsonl``, in constant memory.

    An incomplete last line of an interrupted run is skipped.

    Raises:
        FileNotFoundError: If the file does not exist.
        RecordError: If a line is invalid.
    """
    for line in read_lines(path):
        try:
            objects = line["objects"]
            ids = [entry["id"] for entry in objects]
            if not all(isinstance(obj_id, int | str) for obj_id in ids):
                raise ValueError(f"the ids are {ids}; expected integers and strings")
            masks = [decode_rle(entry["rle"]) for entry in objects]
            scores = np.array([entry["score"] for entry in objects], dtype=np.float32)
            pixels = np.stack(masks) if masks else np.zeros((0, 0, 0), dtype=bool)
            yield FrameMasks(line["frame"], ids, pixels, scores)
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(f"{path}: frame {line['frame']} cannot be read: {error}") from error


def read_lines(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yields each line as a dictionary with run lengths. Raises the errors of :func:`read_masks`."""
    for _, line, where in complete_lines(path):
        yield parse_line(line, where)


def complete_lines(path: str | Path) -> Iterator[tuple[int, bytes, str]]:
    """Yields the offset, the content and, for messages, the name of each line. Skips an incomplete last line."""
    offset = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n"):
                yield offset, line, f"{path}, line {number}"
            offset += len(line)


def parse_line(line: bytes, where: str) -> dict[str, Any]:
    """Parses one line. For an invalid line, raises RecordError with a message that begins with ``where``."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{where}, is no JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("frame"), int) or "objects" not in content:
        raise RecordError(f"{where}, is not a frame of tracked masks")
    if not 0 <= content["frame"] < MOST_FRAMES:
        raise RecordError(f"{where}, has the frame {content['frame']}; expected 0 to {MOST_FRAMES - 1}")
    return content


class RecordIndex(Mapping[int, dict[str, Any]]):
    """The lines of a ``masks.jsonl`` by frame, read lazily. Raises FileNotFoundError or RecordError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offsets: dict[int, tuple[int, int]] = {}
        for offset, line, where in complete_lines(path):
            self._offsets[parse_line(line, where)["frame"]] = (offset, len(line))
        self._file = open(path, "rb")  # noqa: SIM115  # closed by close()

    def __getitem__(self, frame: int) -> dict[str, Any]:
        return parse_line(self.raw(frame), f"{self._path}, frame {frame}")

    def raw(self, frame: int) -> bytes:
        """Returns a frame's line as stored in the file, including the line feed."""
        offset, length = self._offsets[frame]
        self._file.seek(offset)
        return self._file.read(length)

    def __iter__(self) -> Iterator[int]:
        """Yields frames in the order of the file."""
        return iter(self._offsets)

    def __len__(self) -> int:
        return len(self._offsets)

    @property
    def is_sorted(self) -> bool:
        """True if the lines are in the order of frames."""
        frames = list(self._offsets)
        return frames == sorted(frames)

    def close(self) -> None:
        self._file.close()

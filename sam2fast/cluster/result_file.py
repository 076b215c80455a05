"""Answers of one task, one after the other in a file that grows.

A file for each task rather than for each job: shared file systems are slow at making files, not at filling them.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_HEAD = struct.Struct("<qq")  # the job's index, the length of what follows


class Answer(NamedTuple):
    """One answer in a file."""

    job: int  # its index
    content: bytes
    end: int  # where the next one begins


def append_answer(path: Path, index: int, content: bytes) -> None:
    """Adds an answer, which can be read at once; of a process that ends meanwhile, a part of it may stay."""
    with path.open("ab", buffering=0) as file:
        view = memoryview(_HEAD.pack(index, len(content)) + content)
        while view:
            view = view[file.write(view) :]
        os.fsync(file.fileno())  # so that other machines see it


def read_answers(path: Path, start: int = 0) -> Iterator[Answer]:
    """The whole answers from a place in the file on; nothing if there is no file."""
    try:
        file = path.open("rb")  # anew each time, which is when shared file systems look for what is new
    except FileNotFoundError:
        return
    with file:
        file.seek(start)
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            index, length = _HEAD.unpack(head)
            content = file.read(length)
            if len(content) < length:
                return
            yield Answer(index, content, file.tell())


def repair(path: Path) -> set[int]:
    """Cuts off a part of an answer at the end; gives the indices of those that are there."""
    answers = list(read_answers(path))
    if path.exists():
        os.truncate(path, answers[-1].end if answers else 0)
    return {answer.job for answer in answers}

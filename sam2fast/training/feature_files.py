"""Files of kept features: one frame's levels, which are found out if they are damaged."""

import errno
import struct
import zipfile
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sam2fast.io.atomic import FULL, moved_to, own_number

# What reading an archive raises that is damaged somewhere.
DAMAGED = (OSError, ValueError, RuntimeError, EOFError, KeyError, struct.error, zlib.error, zipfile.BadZipFile)
NO_ROOM = (*FULL, errno.EFBIG)  # the last where there is a limit for each file


def write_levels(path: Path, levels: Sequence[Tensor]) -> bool:
    """Writes a file that appears whole or not at all; whether there was room for it on the disk.

    Raises:
        OSError: it cannot be written for another reason.
    """
    unfinished = path.with_suffix(f".{own_number()}.unfinished")
    try:
        with moved_to(path, unfinished) as partial, partial.open("wb") as file:
            arrays: dict[str, Any] = {_name(i, len(levels)): level.numpy() for i, level in enumerate(levels)}
            np.savez(file, **arrays)
    except OSError as error:
        if error.errno in NO_ROOM:
            return False
        raise
    return True


def read_levels(path: Path) -> list[Tensor]:
    """What was written, compared with the checksums in the file.

    Raises:
        FileNotFoundError: there is none.
        Exception: it is damaged; one of ``DAMAGED``.
    """
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        expected = [f"{_name(i, len(infos))}.npy" for i in range(len(infos))]
        if not infos or [info.filename for info in infos] != expected:
            raise ValueError("some of its levels are missing")
        if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
            raise ValueError("its levels are compressed, as they are never written")
        # Whole, since checksums are compared at the end; numpy stops where its header says that an array ends.
        contents = [archive.read(info) for info in infos]
    return [torch.from_numpy(np.load(BytesIO(content), allow_pickle=False)) for content in contents]


def _name(number: int, count: int) -> str:
    return f"level_{number}_of_{count}"

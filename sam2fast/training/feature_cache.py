"""Cache of the features of a frozen image encoder, in memory or in files with checksums."""

import errno
import hashlib
import logging
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sam2fast.io.atomic import FULL, atomic_path, remove_leftovers, target_of

_log = logging.getLogger(__name__)

GIGABYTE = 10**9
LARGEST_FP16 = torch.finfo(torch.float16).max
# Types of exceptions that reading a damaged archive raises.
DAMAGED = (OSError, ValueError, RuntimeError, EOFError, KeyError, struct.error, zlib.error, zipfile.BadZipFile)
NO_ROOM = (*FULL, errno.EFBIG)  # EFBIG: the file is too large for the file system


@dataclass
class EncoderCacheConf:
    """Location and maximum size of an :class:`EncoderCache`.

    Args:
        folder: folder for feature files, one file per frame. Later runs reuse the files of the folder. If ``folder`` is
            None, features are kept in memory.
        gigabytes: maximum size of the cache in units of 10**9 bytes. Frames that do not fit are encoded at each use.
            The size of a folder is the size of files that exist when a process starts, plus files that the process
            adds. The limit applies separately to each combination of weights, image size and precision.

    Raises:
        ValueError: If ``gigabytes`` is not positive.
    """

    folder: str | None = None
    gigabytes: float = 4.0

    def __post_init__(self) -> None:
        if not self.gigabytes > 0:
            raise ValueError(f"encoder_cache.gigabytes must be positive, got {self.gigabytes}")


class EncoderCache:
    """Cache of the image encoder's feature levels in fp16.

    The key of a cache entry is made from the pixels of a frame and the weights of the encoder. Frames are encoded one
    by one, and features are rounded to fp16 even at the first use. Features thus do not depend on cache hits or on
    other frames of a batch. The attributes ``found`` and ``computed`` count cache hits and misses.

    Args:
        encode: Function from frames ``(1, S, S, 3)`` uint8 to feature levels ``(1, C_i, H_i, W_i)``.
        modules: Frozen modules that ``encode`` uses, by name in the model. ``encode`` runs in evaluation mode.
    """

    def __init__(
        self, conf: EncoderCacheConf, encode: Callable[[Tensor], list[Tensor]], modules: Mapping[str, nn.Module]
    ) -> None:
        learns = [f"{m}.{p}" for m in modules for p, value in modules[m].named_parameters() if value.requires_grad]
        if learns:
            raise ValueError(
                f"encoder_cache needs a frozen encoder, but {len(learns)} of its parameters are trainable, such as "
                f"{learns[0]}; freeze {' and '.join(f'{m}.*' for m in modules)}"
            )
        self._conf, self._encode, self._modules = conf, encode, tuple(modules.values())
        self._store: _Memory | None = None
        self._setting: tuple[object, ...] = ()
        self._weights = b""
        self.found = self.computed = 0

    def __call__(self, frames: Tensor) -> list[Tensor]:
        """Returns detached fp32 feature levels ``(N, C_i, H_i, W_i)`` of ``frames (N, S, S, 3)`` uint8."""
        store = self._store_for(frames)
        levels: dict[bytes, list[Tensor]] = {}
        names = [hashlib.blake2b(frame, digest_size=16).digest() for frame in frames.cpu().numpy()]
        for name, frame in zip(names, frames, strict=True):
            if name not in levels:
                levels[name] = [level.to(frames.device).float() for level in self._levels(store, name, frame)]
        return [torch.stack(parts) for parts in zip(*(levels[name] for name in names), strict=True)]

    def clear(self) -> None:
        """Clears the cache. Callers must do so after weights change. Files for old weights stay on the disk, unused."""
        self._store, self._weights = None, b""

    def _levels(self, store: "_Memory", name: bytes, frame: Tensor) -> list[Tensor]:
        levels = store.get(name)
        if levels is not None:
            self.found += 1
            return levels
        self.computed += 1
        with torch.no_grad(), evaluating(self._modules):
            levels = [level[0].clamp(-LARGEST_FP16, LARGEST_FP16).half().cpu() for level in self._encode(frame[None])]
        store.put(name, levels)
        return levels

    def _store_for(self, frames: Tensor) -> "_Memory":
        """Returns the store for the current weights, image size and precision, and makes the store if necessary."""
        device = frames.device.type
        precision = str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else "full"
        setting = (frames.shape[1:], device, precision)
        if self._store is None or setting != self._setting:
            if not self._weights:  # computes a hash of all weights and of the modules' repr
                digest = hashlib.blake2b(digest_size=16)
                for module in self._modules:
                    digest.update(repr(module).encode())
                    for key, tensor in module.state_dict().items():
                        digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
                        digest.update(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy())
                self._weights = digest.digest()
            limit, folder = int(self._conf.gigabytes * GIGABYTE), self._conf.folder
            name = hashlib.blake2b(self._weights + repr(setting).encode(), digest_size=16).hexdigest()
            self._store = _Memory(limit) if folder is None else _Folder(Path(folder) / name, limit)
            self._setting = setting
        return self._store


class _Memory:
    """Store of feature levels by name in memory, up to ``limit`` bytes. Logs one warning when the limit is reached."""

    def __init__(self, limit: int, taken: int = 0) -> None:
        self._limit, self._taken, self._is_full = limit, taken, False
        self._levels: dict[bytes, list[Tensor]] = {}

    def get(self, name: bytes) -> list[Tensor] | None:
        return self._levels.get(name)

    def put(self, name: bytes, levels: list[Tensor]) -> None:
        size = sum(level.nbytes for level in levels)
        if self._is_full or self._taken + size > self._limit:
            self._close(f"{self._limit / GIGABYTE:.2f} GB are full")
            return
        self._taken += size
        self._store(name, levels)

    def _store(self, name: bytes, levels: list[Tensor]) -> None:
        self._levels[name] = levels

    def _close(self, reason: str) -> None:
        """Stops storing features and logs the reason once."""
        if not self._is_full:
            self._is_full = True
            _log.warning("encoder_cache: %s; further frames are encoded each time", reason)


class _Folder(_Memory):
    """Store of feature levels with one file per name. Several processes may share a folder."""

    def __init__(self, folder: Path, limit: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(filter(None, map(target_of, folder.iterdir())), is_spread=True)
        super().__init__(limit, sum(file.stat().st_size for file in folder.glob("*.npz")))
        self._folder = folder

    def get(self, name: bytes) -> list[Tensor] | None:
        path = self._path(name)
        try:
            return read_levels(path)
        except FileNotFoundError:
            return None
        except DAMAGED as error:
            _log.warning("%s is damaged and will be replaced: %s", path, error)
            return None

    def _store(self, name: bytes, levels: list[Tensor]) -> None:
        if not write_levels(self._path(name), levels):
            self._close(f"the disk of {self._folder} is full")

    def _path(self, name: bytes) -> Path:
        return self._folder / f"{name.hex()}.npz"


@contextmanager
def evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Context manager that puts ``modules`` and all submodules in evaluation mode."""
    trained = [module for whole in modules for module in whole.modules() if module.training]
    for module in trained:
        module.training = False
    try:
        yield
    finally:
        for module in trained:
            module.training = True


def write_levels(path: Path, levels: Sequence[Tensor]) -> bool:
    """Writes feature levels to a file atomically. Returns False if the disk is full or the file is too large."""
    try:
        with atomic_path(path) as partial, partial.open("wb") as file:
            arrays: dict[str, Any] = {_name(i, len(levels)): level.numpy() for i, level in enumerate(levels)}
            np.savez(file, **arrays)
    except OSError as error:
        if error.errno in NO_ROOM:
            return False
        raise
    return True


def read_levels(path: Path) -> list[Tensor]:
    """Reads a file of :func:`write_levels` and verifies checksums. Damaged files raise an exception of ``DAMAGED``."""
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        expected = [f"{_name(i, len(infos))}.npy" for i in range(len(infos))]
        if not infos or [info.filename for info in infos] != expected:
            raise ValueError("some of its levels are missing")
        if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
            raise ValueError("its levels are compressed, but this program writes them uncompressed")
        # Reads each file of the archive to the end, where zipfile verifies the checksum. numpy may stop reading
        # earlier.
        contents = [archive.read(info) for info in infos]
    return [torch.from_numpy(np.load(BytesIO(content), allow_pickle=False)) for content in contents]


def _name(number: int, count: int) -> str:
    return f"level_{number}_of_{count}"

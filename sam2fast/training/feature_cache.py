"""Features of a frozen image encoder, kept for frames that come again."""

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sam2fast.training.feature_files import DAMAGED, read_levels, write_levels

_log = logging.getLogger(__name__)

GIGABYTE = 10**9
LARGEST_FP16 = torch.finfo(torch.float16).max
ABANDONED = 3600.0  # seconds after which a file that is not finished has nobody who writes it


@dataclass
class EncoderCacheConf:
    """Where features are kept, and how many.

    Args:
        folder: one file for each frame, found again by later runs; without one they are kept in memory.
        gigabytes: of 10**9 bytes; once they are full, frames that are not kept are encoded anew each time. It is the
            limit of each process, which counts what it finds as it starts and what it adds, and of the features of each
            setting: other weights, sizes and precisions have their own.

    Raises:
        ValueError: no room at all.
    """

    folder: str | None = None
    gigabytes: float = 4.0

    def __post_init__(self) -> None:
        if not self.gigabytes > 0:
            raise ValueError(f"encoder_cache.gigabytes must be positive, got {self.gigabytes}")


class FeatureCache:
    """The levels of frames, in fp16, by what the frames look like and by the weights they were computed with.

    Frames are encoded one by one and rounded to fp16 before they are used for the first time, so that a training gets
    the same numbers whether a frame is found or not, and whatever else is in its batch.

    Args:
        conf: where, and how many.
        encode: from frames ``(1, S, S, 3)`` uint8 to levels ``(1, C_i, H_i, W_i)``.
        modules: what it computes with, by their names in the model. They compute as in evaluation, without stochastic
            depth. :meth:`forget` has to be called when their weights are replaced.

    Attributes:
        found, computed: how many frames so far.

    Raises:
        ValueError: one of their parameters learns.
    """

    def __init__(
        self, conf: EncoderCacheConf, encode: Callable[[Tensor], list[Tensor]], modules: Mapping[str, nn.Module]
    ) -> None:
        learns = [f"{m}.{p}" for m in modules for p, value in modules[m].named_parameters() if value.requires_grad]
        if learns:
            raise ValueError(
                f"encoder_cache: features cannot be kept while {len(learns)} of the parameters that they are computed "
                f"with learn, such as {learns[0]}; freeze {' and '.join(f'{m}.*' for m in modules)}"
            )
        self._conf, self._encode, self._modules = conf, encode, tuple(modules.values())
        self._store: _Memory | _Folder | None = None
        self._setting: tuple[object, ...] = ()
        self._weights = b""
        self.found = self.computed = 0

    def __call__(self, frames: Tensor) -> list[Tensor]:
        """Levels ``(N, C_i, H_i, W_i)`` fp32 of ``frames (N, S, S, 3)`` uint8, on their device, without gradients.

        Raises:
            OSError: the folder cannot be written.
        """
        store = self._store_for(frames)
        levels: dict[bytes, list[Tensor]] = {}
        names = [hashlib.blake2b(frame, digest_size=16).digest() for frame in frames.cpu().numpy()]
        for name, frame in zip(names, frames, strict=True):
            if name not in levels:
                levels[name] = [level.to(frames.device).float() for level in self._levels(store, name, frame)]
        return [torch.stack(parts) for parts in zip(*(levels[name] for name in names), strict=True)]

    def forget(self) -> None:
        """Takes the weights for others; files of the old ones stay in the folder, and are not used for the new."""
        self._store, self._weights = None, b""

    def _levels(self, store: "_Memory | _Folder", name: bytes, frame: Tensor) -> list[Tensor]:
        kept = store.get(name)
        if kept is not None:
            self.found += 1
            return kept
        self.computed += 1
        with torch.no_grad(), _evaluating(self._modules):
            levels = [level[0].clamp(-LARGEST_FP16, LARGEST_FP16).half().cpu() for level in self._encode(frame[None])]
        store.put(name, levels)
        return levels

    def _store_for(self, frames: Tensor) -> "_Memory | _Folder":
        """The store for the present weights and precision; a new one where they have changed."""
        device = frames.device.type
        precision = str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else "full"
        setting = (frames.shape[1:], device, precision)
        if self._store is None or setting != self._setting:
            self._weights = self._weights or _digest(self._modules)
            limit = int(self._conf.gigabytes * GIGABYTE)
            if self._conf.folder is None:
                self._store = _Memory(limit)
            else:
                name = hashlib.blake2b(self._weights + repr(setting).encode(), digest_size=16).hexdigest()
                self._store = _Folder(Path(self._conf.folder) / name, limit)
            self._setting = setting
        return self._store


class _Memory:
    """Levels by name, up to ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        self._room = _Room(limit)
        self._levels: dict[bytes, list[Tensor]] = {}

    def get(self, name: bytes) -> list[Tensor] | None:
        return self._levels.get(name)

    def put(self, name: bytes, levels: list[Tensor]) -> None:
        if self._room.take(sum(level.nbytes for level in levels)):
            self._levels[name] = levels


class _Folder:
    """The same in one file for each name, which several processes may fill together."""

    def __init__(self, folder: Path, limit: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        self._folder = folder
        self._room = _Room(limit, sum(file.stat().st_size for file in folder.glob("*.npz")))

    def get(self, name: bytes) -> list[Tensor] | None:
        path = self._path(name)
        try:
            return read_levels(path)
        except FileNotFoundError:
            return None
        except DAMAGED as error:
            _log.warning("%s is damaged, and made anew: %s", path, error)
            return None

    def put(self, name: bytes, levels: list[Tensor]) -> None:
        path = self._path(name)
        if self._room.take(sum(level.nbytes for level in levels)) and not write_levels(path, levels):
            self._room.close(f"the disk of {self._folder} is full")

    def _path(self, name: bytes) -> Path:
        return self._folder / f"{name.hex()}.npz"


def _remove_abandoned(folder: Path) -> None:
    """Removes what killed processes left; by its age, since they may have run on other machines."""
    for path in folder.glob("*.unfinished"):
        with suppress(FileNotFoundError):  # other processes remove them, too
            if time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()


class _Room:
    """Bytes that are left; says once that there are none."""

    def __init__(self, limit: int, taken: int = 0) -> None:
        self._limit, self._taken, self._is_full = limit, taken, False

    def take(self, size: int) -> bool:
        if not self._is_full and self._taken + size <= self._limit:
            self._taken += size
            return True
        self.close(f"{self._limit / GIGABYTE:.2f} GB are full")
        return False

    def close(self, reason: str) -> None:
        """Nothing is taken any more, which is no reason to end a training."""
        if not self._is_full:
            self._is_full = True
            _log.warning("encoder_cache: %s; further frames are encoded each time", reason)


@contextmanager
def _evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    before = [module.training for module in modules]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for module, training in zip(modules, before, strict=True):
            module.train(training)


def _digest(modules: Iterable[nn.Module]) -> bytes:
    """Of all weights, and of the modules' settings as they are printed."""
    digest = hashlib.blake2b(digest_size=16)
    for module in modules:
        digest.update(repr(module).encode())
        for name, tensor in module.state_dict().items():
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy())
    return digest.digest()

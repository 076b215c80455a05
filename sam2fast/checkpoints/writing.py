"""Writes checkpoints in each layout, atomically, and reads them back to check them."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from sam2fast.checkpoints.int8 import from_int8
from sam2fast.checkpoints.reading import read_checkpoint
from sam2fast.checkpoints.transformers_layout import to_transformers
from sam2fast.checkpoints.weight_files import CONFIG_FILE, RECORD, CheckpointError
from sam2fast.io.atomic import annotate_oserror, atomic_path, locked, resolve_symlinks, restore

WEIGHTS_FILE = "model.safetensors"  # of a folder in the layout of transformers
Record = Mapping[str, Any]


def save_torch(content: Any, file: IO[bytes]) -> None:
    """``torch.save`` into an open file.

    Raises:
        OSError: of the file, such as a full disk, which torch reports as an unfinished archive.
    """
    watched: Any = _Watched(file)  # has only the methods that torch.save needs
    try:
        torch.save(content, watched)
    except RuntimeError as error:
        if watched.failure is not None:
            raise watched.failure from error
        raise


class _Watched:
    """A file that stores the first error of writing to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.failure: OSError | None = None

    def write(self, data: bytes) -> int:
        with self._watch():
            return self._file.write(data)

    def flush(self) -> None:
        with self._watch():
            self._file.flush()

    @contextmanager
    def _watch(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = self.failure or error
            raise


def check_free(path: Path, overwrite: bool) -> None:
    """Checks that ``path`` may be written to.

    Raises:
        FileExistsError: the path exists; with ``overwrite``, it is a device, a pipe or a folder with other files.
        OSError: ``path`` is a circular symlink.
    """
    path = resolve_symlinks(path)
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise FileExistsError(f"{path} already exists, and is only replaced with overwrite")
    if not path.is_file() and not path.is_dir():
        raise FileExistsError(f"{path} is a device or a pipe, and a checkpoint can only be written to a file")
    if path.is_dir() and (others := sorted({file.name for file in path.iterdir()} - {WEIGHTS_FILE, CONFIG_FILE})):
        raise FileExistsError(f"the folder {path} has other files, such as {others[0]}, and is not replaced")


@contextmanager
def replacing(path: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary path to write to, renamed to ``path`` when the block ends; see :func:`atomic_path`.

    Leftovers of a killed process are cleaned up by the next one.

    Raises:
        FileExistsError: see :func:`check_free`.
        OSError: the path cannot be written, or another process is writing it.
    """
    path = resolve_symlinks(path)
    check_free(path, overwrite)
    with annotate_oserror(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path):
            restore(path)
            check_free(path, overwrite)  # again: it may have been restored
            with atomic_path(path, in_folder=True) as partial:
                yield partial
                check_free(path, overwrite)
                if partial.is_dir() != path.is_dir() and os.path.lexists(path):
                    raise FileExistsError(f"{path} is a {'folder' if path.is_dir() else 'file'}, and is not replaced")


def write_official(
    weights: Mapping[str, Tensor], path: Path, overwrite: bool = False, made_from: Record | None = None
) -> None:
    """Writes a ``.pt`` file with the weights under ``model``, as in the original; see :func:`write_transformers`."""
    with replacing(path, overwrite) as partial:
        with partial.open("wb") as file:
            # Clones: a view would be saved with its whole storage.
            content = {"model": {name: tensor.clone() for name, tensor in weights.items()}}
            save_torch(content if made_from is None else {**content, RECORD: dict(made_from)}, file)
            _fsync(file)
        _check(partial, weights)


def write_safetensors(
    stored: Mapping[str, Tensor], path: Path, overwrite: bool = False, made_from: Record | None = None
) -> None:
    """Writes a ``.safetensors`` file with official names and scales of int8 weights; see :func:`write_transformers`."""
    with replacing(path, overwrite) as partial:
        _save_safetensors(stored, partial, made_from)
        _check(partial, from_int8(stored))


def write_transformers(
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    path: Path,
    overwrite: bool = False,
    made_from: Record | None = None,
) -> None:
    """Writes a folder with ``model.safetensors`` in transformers' names, and ``config.json``.

    Args:
        weights: under official names.
        config: the content of ``config.json``.
        path: the folder, which must be new, or with ``overwrite`` have only these two files.
        made_from: Record that is written beside the weights; see :mod:`sam2fast.io.made_from`.

    Raises:
        FileExistsError: see :func:`check_free`.
        CheckpointError: some of the weights have no counterpart in transformers, or the written file differs when read
            back.
        OSError: the folder cannot be written. A previous one is unchanged, and nothing else is left.
    """
    theirs = to_transformers(weights)
    with replacing(path, overwrite) as partial:
        partial.mkdir()
        _save_safetensors(theirs, partial / WEIGHTS_FILE, made_from)
        with (partial / CONFIG_FILE).open("w", encoding="utf-8") as file:
            json.dump(config, file, indent=2)
            file.write("\n")
            _fsync(file)
        _check(partial, weights)


def written_files(path: Path) -> list[Path]:
    """The files of a written checkpoint."""
    return [path / WEIGHTS_FILE, path / CONFIG_FILE] if path.is_dir() else [path]


def _save_safetensors(tensors: Mapping[str, Tensor], path: Path, made_from: Record | None) -> None:
    from safetensors.torch import save

    # Clones: safetensors refuses tensors that share memory. Older versions of transformers need this metadata.
    # save_file would make the file readable by its owner only.
    try:
        content = save({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, {"format": "pt"})
    except UnicodeEncodeError as error:
        raise CheckpointError(f"the name {error.object!r} of a weight is no text that safetensors can store") from error
    end = 8 + int.from_bytes(content[:8], "little")
    header = content[:end]
    if made_from is not None:  # safetensors' own writer orders keys at random
        facts = json.loads(header[8:])
        facts["__metadata__"][RECORD] = json.dumps(made_from)
        text = json.dumps(facts, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # tensors are aligned
        header = len(text).to_bytes(8, "little") + text
    with path.open("wb") as file:
        file.write(header)
        file.write(memoryview(content)[end:])
        _fsync(file)


def _fsync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _check(path: Path, weights: Mapping[str, Tensor]) -> None:
    found = read_checkpoint(path)
    wrong = [name for name in {**found, **weights} if not _same(found.get(name), weights.get(name))]
    if wrong:
        raise CheckpointError(f"what was written does not read back: {wrong[0]} is another; nothing was kept")


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None or a.dtype != b.dtype or a.shape != b.shape:
        return False
    # Compared as bytes, since NaN is not equal to itself.
    return torch.equal(*(x.contiguous().flatten().view(torch.uint8) for x in (a, b)))

"""Writes checkpoints in each layout atomically. Reads written checkpoints back for verification."""

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

WEIGHTS_FILE = "model.safetensors"  # name of the weight file in transformers' layout
Record = Mapping[str, Any]


def save_torch(content: Any, file: IO[bytes]) -> None:
    """Calls ``torch.save`` with an open file.

    Raises:
        OSError: If writing fails, for example on a full disk. ``torch.save`` itself would raise a RuntimeError.
    """
    watched: Any = _Watched(file)  # has only the methods that torch.save needs
    try:
        torch.save(content, watched)
    except RuntimeError as error:
        if watched.failure is not None:
            raise watched.failure from error
        raise


class _Watched:
    """File object that stores the first error of writing."""

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
    """Checks that a checkpoint may be written to ``path``.

    Raises:
        FileExistsError: If the path exists and ``overwrite`` is False, or the path is a device, a pipe or a folder with
            other files.
        OSError: If ``path`` is a circular symlink.
    """
    path = resolve_symlinks(path)
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise FileExistsError(f"{path} already exists, and is only replaced with overwrite")
    if not path.is_file() and not path.is_dir():
        raise FileExistsError(f"{path} is a device or a pipe, but a checkpoint can only be written to a file")
    if path.is_dir() and (others := sorted({file.name for file in path.iterdir()} - {WEIGHTS_FILE, CONFIG_FILE})):
        raise FileExistsError(f"the folder {path} has other files, such as {others[0]}, and is not replaced")


@contextmanager
def replacing(path: Path, overwrite: bool) -> Iterator[Path]:
    """Context manager that yields a temporary path, and renames it to ``path`` at the end. See :func:`atomic_path`.

    Removes temporary files of killed processes.

    Raises:
        FileExistsError: If :func:`check_free` raises the error.
        OSError: If the path cannot be written, or another process is writing to the path.
    """
    path = resolve_symlinks(path)
    check_free(path, overwrite)
    with annotate_oserror(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path):
            restore(path)
            check_free(path, overwrite)  # checks again, since restore() may have created the path
            with atomic_path(path, in_folder=True) as partial:
                yield partial
                check_free(path, overwrite)
                if partial.is_dir() != path.is_dir() and os.path.lexists(path):
                    raise FileExistsError(f"{path} is a {'folder' if path.is_dir() else 'file'}, and is not replaced")


def write_official(
    weights: Mapping[str, Tensor], path: Path, overwrite: bool = False, made_from: Record | None = None
) -> None:
    """Writes a ``.pt`` file with the weights under ``model``, as in official files. See :func:`write_transformers`."""
    with replacing(path, overwrite) as partial:
        with partial.open("wb") as file:
            # Tensors are cloned, since torch.save would write the whole storage of a view.
            content = {"model": {name: tensor.clone() for name, tensor in weights.items()}}
            save_torch(content if made_from is None else {**content, RECORD: dict(made_from)}, file)
            _fsync(file)
        _check(partial, weights)


def write_safetensors(
    stored: Mapping[str, Tensor], path: Path, overwrite: bool = False, made_from: Record | None = None
) -> None:
    """Writes a ``.safetensors`` file with official names and int8 scales. See :func:`write_transformers`."""
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
    """Writes a folder that contains ``model.safetensors`` (with transformers' names) and ``config.json``.

    Args:
        weights: Weights by official name.
        config: Content of ``config.json``.
        path: Folder. Without ``overwrite``, the folder must not exist. With ``overwrite``, it may contain only these
            two files.
        overwrite: If True, replaces an existing checkpoint.
        made_from: Record of the sources, written with the weights. See :mod:`sam2fast.io.made_from`.

    Raises:
        FileExistsError: If :func:`check_free` raises the error.
        CheckpointError: If a weight has no counterpart in transformers, or the written file differs when read back.
        OSError: If the folder cannot be written. A previous folder stays unchanged, and no partial folder is left.
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
    """Returns the files of a written checkpoint."""
    return [path / WEIGHTS_FILE, path / CONFIG_FILE] if path.is_dir() else [path]


def _save_safetensors(tensors: Mapping[str, Tensor], path: Path, made_from: Record | None) -> None:
    from safetensors.torch import save

    # Tensors are cloned, since safetensors does not save tensors that share memory. Older versions of transformers need
    # the metadata. save_file is not used, since it makes the file readable only by the owner.
    try:
        content = save({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, {"format": "pt"})
    except UnicodeEncodeError as error:
        raise CheckpointError(f"the name {error.object!r} of a weight cannot be stored by safetensors") from error
    end = 8 + int.from_bytes(content[:8], "little")
    header = content[:end]
    if made_from is not None:  # the key is added here, since safetensors writes several keys in random order
        facts = json.loads(header[8:])
        facts["__metadata__"][RECORD] = json.dumps(made_from)
        text = json.dumps(facts, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # aligns the tensors
        header = len(text).to_bytes(8, "little") + text
    with path.open("wb") as file:
        file.write(header)
        file.write(memoryview(content)[end:])
        _fsync(file)


def _fsync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _check(path: Path, weights: Mapping[str, Tensor]) -> None:
    written = read_checkpoint(path)
    wrong = [name for name in {**written, **weights} if not _same(written.get(name), weights.get(name))]
    if wrong:
        raise CheckpointError(f"the written file differs when read back, for example in {wrong[0]}; it was deleted")


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None or a.dtype != b.dtype or a.shape != b.shape:
        return False
    # Compares bytes, since NaN is not equal to itself.
    return torch.equal(*(x.contiguous().flatten().view(torch.uint8) for x in (a, b)))

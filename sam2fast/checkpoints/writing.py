"""Writes checkpoints in each layout; what is written appears whole or not at all, and reads back as it was."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sam2fast.checkpoints.errors import CheckpointError
from sam2fast.checkpoints.folders import CONFIG_FILE
from sam2fast.checkpoints.reading import read_checkpoint
from sam2fast.checkpoints.transformers_layout import to_transformers

WEIGHTS_FILE = "model.safetensors"  # of a folder in the layout of transformers
BLOCK = 1 << 20


def write_official(weights: Mapping[str, Tensor], path: Path, force: bool = False) -> None:
    """A ``.pt`` file with the weights under ``model``, as the original reads it; raises as write_transformers."""
    with _replacing(path, force) as partial:
        with partial.open("wb") as file:
            # Clones: a view would be saved with all that it is a view of.
            torch.save({"model": {name: tensor.clone() for name, tensor in weights.items()}}, file)
            _to_disk(file)
        _check(partial, weights)


def write_safetensors(weights: Mapping[str, Tensor], path: Path, force: bool = False) -> None:
    """A ``.safetensors`` file with the weights under official names; raises as write_transformers."""
    with _replacing(path, force) as partial:
        _save_safetensors(weights, partial)
        _check(partial, weights)


def write_transformers(
    weights: Mapping[str, Tensor], config: Mapping[str, Any], path: Path, force: bool = False
) -> None:
    """A folder with ``model.safetensors`` under the names of transformers, and ``config.json``.

    Args:
        weights: under official names.
        config: the content of ``config.json``.
        path: the folder, which must be new, or with ``force`` have nothing but these two files.

    Raises:
        FileExistsError: there is something of this name; without ``force`` anything.
        CheckpointError: some of the weights have no counterpart in transformers, or what was written does not read back
            as the weights.
        OSError: it cannot be written. Nothing is left behind, and what was there is as it was.
    """
    theirs = to_transformers(weights)
    with _replacing(path, force) as partial:
        partial.mkdir()
        _save_safetensors(theirs, partial / WEIGHTS_FILE)
        with (partial / CONFIG_FILE).open("w", encoding="utf-8") as file:
            json.dump(config, file, indent=2)
            file.write("\n")
            _to_disk(file)
        _check(partial, weights)


def written_files(path: Path) -> list[Path]:
    """The files of a checkpoint that was written here."""
    return [path / WEIGHTS_FILE, path / CONFIG_FILE] if path.is_dir() else [path]


def file_hash(path: Path) -> str:
    """SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def check_free(path: Path, force: bool) -> None:
    """Checks that nothing would be lost by writing to ``path``.

    Raises:
        FileExistsError: there is something already; with ``force`` something other than what would be written.
    """
    if not os.path.lexists(path):
        return
    if not force:
        raise FileExistsError(f"{path} is already there, and only replaced by force")
    if path.is_dir() and (others := sorted({file.name for file in path.iterdir()} - {WEIGHTS_FILE, CONFIG_FILE})):
        raise FileExistsError(f"the folder {path} has other things in it, such as {others[0]}, and is not replaced")


@contextmanager
def _replacing(path: Path, force: bool) -> Iterator[Path]:
    """A name to write under; afterwards that is ``path``, and on an error there is nothing of it."""
    check_free(path, force)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays, since readers go by it.
    partial = path.with_name(f".{os.getpid()}.part.{path.name}")
    before = path.with_name(f".{os.getpid()}.before.{path.name}")
    try:
        yield partial
        check_free(path, force)
        if partial.is_dir() != path.is_dir() and os.path.lexists(path):
            raise FileExistsError(f"{path} is a {'folder' if path.is_dir() else 'file'}, and is not replaced")
        if not path.is_dir():
            os.replace(partial, path)
            return
        # A folder that is not empty cannot be replaced in one step.
        os.rename(path, before)
        try:
            os.rename(partial, path)
        except BaseException:
            os.rename(before, path)
            raise
        shutil.rmtree(before)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        partial.unlink(missing_ok=True)


def _save_safetensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    from safetensors.torch import save

    # Clones: safetensors refuses views of one memory. Older versions of transformers read no file without this note.
    # Its own function for files would let nobody else read them.
    content = save({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, {"format": "pt"})
    with path.open("wb") as file:
        file.write(content)
        _to_disk(file)


def _to_disk(file: Any) -> None:
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
    # Bytes: a number that is none is not equal to itself.
    return torch.equal(*(x.contiguous().flatten().view(torch.uint8) for x in (a, b)))

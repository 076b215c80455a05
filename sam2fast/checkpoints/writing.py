"""Writes checkpoints in each layout; what is written appears whole or not at all, and reads back as it was."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sam2fast.checkpoints.errors import CheckpointError
from sam2fast.checkpoints.folders import CONFIG_FILE
from sam2fast.checkpoints.reading import read_checkpoint
from sam2fast.checkpoints.replacing import WEIGHTS_FILE, replacing
from sam2fast.checkpoints.saving import save_torch
from sam2fast.checkpoints.transformers_layout import to_transformers

BLOCK = 1 << 20


def write_official(weights: Mapping[str, Tensor], path: Path, force: bool = False) -> None:
    """A ``.pt`` file with the weights under ``model``, as the original reads it; raises as write_transformers."""
    with replacing(path, force) as partial:
        with partial.open("wb") as file:
            # Clones: a view would be saved with all that it is a view of.
            save_torch({"model": {name: tensor.clone() for name, tensor in weights.items()}}, file)
            _to_disk(file)
        _check(partial, weights)


def write_safetensors(weights: Mapping[str, Tensor], path: Path, force: bool = False) -> None:
    """A ``.safetensors`` file with the weights under official names; raises as write_transformers."""
    with replacing(path, force) as partial:
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
    with replacing(path, force) as partial:
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

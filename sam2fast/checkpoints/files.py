"""Tensors of single files, by the names they are stored under. No code from a file is run."""

import json
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sam2fast.checkpoints.errors import CheckpointError, first_line

ZIP, PICKLE = b"PK\x03\x04", b"\x80"  # how the new and the old format of torch.save begin
# What tensors are found under: the official files' and trainers' key, and another one that trainers are fond of.
LEVELS = ("model", "state_dict")
INDEX_SUFFIX = ".index.json"
MOST_REPEATED = 1 << 30  # values of a tensor that are not all in the file; copying it would need memory for each


def read_file(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, or of all the files that an index (``*.index.json``) names.

    Args:
        path: a ``.safetensors`` file, an index, or anything else for a file by ``torch.save``, in which the tensors may
            lie under ``model`` or ``state_dict`` beside other things.

    Raises:
        CheckpointError: the file is no checkpoint, is damaged, or holds objects other than tensors.
        FileNotFoundError: there is no such file, or a file of the index is missing.
        ImportError: a ``.safetensors`` file and the package safetensors is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint file {str(path)!r}")
    if path.name.endswith(INDEX_SUFFIX):
        return _read_shards(path)
    if path.suffix == ".safetensors":
        return _tensors(path, _read_safetensors(path))
    content = _read_pickle(path)
    for level in LEVELS:
        if isinstance(content, Mapping) and isinstance(content.get(level), Mapping):
            return _tensors(path, content[level])
    return _tensors(path, content)


def _tensors(path: Path, content: Any) -> dict[str, Tensor]:
    is_named = isinstance(content, Mapping) and all(isinstance(name, str) for name in content)
    if not is_named or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{path} is no checkpoint: expected named tensors, or a dict with them under 'model'")
    for name, tensor in content.items():
        if kind := _unusable(tensor):
            raise CheckpointError(f"{path} has {kind} under {name}; expected plain tensors of numbers")
    return dict(content)


def _unusable(tensor: Tensor) -> str | None:
    """What a tensor is that no weight of a model can be taken from; None for all others."""
    if tensor.layout is not torch.strided or tensor.is_nested:
        return "a sparse or nested tensor"
    if tensor.is_meta:
        return "a tensor without values"
    if tensor.is_quantized or tensor.is_complex():
        return f"a tensor of {tensor.dtype}"
    if tensor.numel() > MOST_REPEATED and tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
        return f"a tensor that repeats few values to {tuple(tensor.shape)}"
    return None


def _read_pickle(path: Path) -> Any:
    is_mapped = _starts_with(path, ZIP) and _is_utf8(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
    except pickle.UnpicklingError as error:
        # torch's own message goes on to advise loading the file without this protection.
        named = re.search(r"GLOBAL (\S+)|class (\S+)|function (\S+)", str(error))
        if named is None and not _starts_with(path, PICKLE):
            raise CheckpointError(f"{path} is damaged or no checkpoint at all") from error
        what = next(filter(None, named.groups())) if named else "a pickle of something other than tensors"
        raise CheckpointError(
            f"{path} holds {what}, which could run code, and was not loaded; if you trust the file, save its weights "
            "alone with the program that wrote it"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # what is damaged makes torch's reader raise almost anything, struct.error included
        raise CheckpointError(f"{path} is truncated, damaged or no checkpoint ({first_line(error)})") from error


def _is_utf8(path: Path) -> bool:
    """Whether the name on the disk is that in UTF-8, under which torch looks for what it maps, whatever the locale."""
    return os.fsencode(path) == str(path).encode("utf-8", "surrogatepass")


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError("reading .safetensors needs the package safetensors: pip install safetensors") from error
    try:
        return load_file(path, device="cpu")
    except SafetensorError as error:
        raise CheckpointError(f"{path} is truncated, damaged or no safetensors file ({first_line(error)})") from error


def _read_shards(index: Path) -> dict[str, Tensor]:
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        pairs = {str(name): str(file) for name, file in places.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index} is no index of a checkpoint: expected a 'weight_map'") from error
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(pairs.values())):
        # Another place than the index's own folder is nothing that a program writes.
        if not file or Path(file).name != file or file.endswith(INDEX_SUFFIX):
            raise CheckpointError(f"{index} names the file {file!r}; expected files beside it")
        try:
            found = read_file(index.with_name(file))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise CheckpointError(f"{index} names a file that cannot be read: {error}") from error
        expected = {name for name, place in pairs.items() if place == file}
        if absent := sorted(expected - found.keys()):
            raise CheckpointError(f"{index} places {absent[0]} in {file}, which does not have it")
        tensors.update({name: found[name] for name in expected})
    return _tensors(index, tensors)

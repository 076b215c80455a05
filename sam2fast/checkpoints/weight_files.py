"""Finds checkpoint files in folders, and reads their tensors. Never runs code from a file."""

import json
import os
import pickle
import re
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sam2fast._official_names import RELEASES
from sam2fast.checkpoints.other_files import archive_kind, folder_kind
from sam2fast.io.atomic import expanded
from sam2fast.io.file_kinds import first_bytes, kind_of
from sam2fast.utils.embedded import EMBEDDED
from sam2fast.utils.errors import FixableError

MOST_LISTED = 8  # maximum number of names in an error message, before "and N more"
ZIP, PICKLE = b"PK\x03\x04", b"\x80"  # first bytes of the new and the old format of torch.save
# torch's advice to load a file without protection, and remarks about its own code, in the first line of an error.
_ADVICE = re.compile(r"\. (?:In PyTorch|This file can still|This is an internal) .*")
# Keys under which a file may store the weights: the official key, followed by other common keys. The first match is
# used.
LEVELS = (
    *("model", "state_dict", "model_state_dict", "model_state", "net", "network", "module", "weights", "params"),
    *("ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict"),
)
DEEPEST = 3  # maximum number of nested keys
INDEX_SUFFIX = ".index.json"
MOST_REPEATED = 1 << 30  # maximum values of an expanded tensor, since a copy allocates memory for all values
SUFFIXES = (".pt", ".pth", ".safetensors")
CONFIG_FILE = "config.json"
RECORD = "made_from"  # key of the record of sources: beside the weights, or in metadata of safetensors
# File names of transformers' weights, in transformers' order of preference.
TRANSFORMERS_FILES = tuple(
    name + suffix for name in ("model.safetensors", "pytorch_model.bin") for suffix in ("", INDEX_SUFFIX)
)


class _NotRead:
    """Placeholder for a harmless object beside the weights, such as a loss or options. The object is not made."""

    def __new__(cls, *args: object, **kwargs: object) -> "_NotRead":
        return object.__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


class _PlainDict:
    """Makes an empty dict for a subclass of dict. Pickle adds the items."""

    def __new__(cls, *args: object) -> dict[Any, Any]:  # type: ignore[misc]
        return {}


# Modules and names of harmless classes and functions in pickles.
_HARMLESS = {
    **{f"numpy.{core}.multiarray": ("scalar", "_reconstruct") for core in ("core", "_core")},  # before, since NumPy 2
    "numpy": ("dtype", "ndarray"),
    "argparse": ("Namespace",),
    "types": ("SimpleNamespace",),
    "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
    **{
        module: tuple(f"{pure}{system}Path" for pure in ("", "Pure") for system in ("", "Posix", "Windows"))
        for module in ("pathlib", "pathlib._local")
    },
    "omegaconf.dictconfig": ("DictConfig",),
    "omegaconf.listconfig": ("ListConfig",),
    "omegaconf.base": ("ContainerMetadata", "Metadata"),
    "omegaconf.nodes": tuple(f"{kind}Node" for kind in ("Any", "Boolean", "Bytes", "Float", "Integer", "String")),
    "typing": ("Any",),
    "builtins": ("bool", "bytes", "dict", "float", "frozenset", "int", "list", "range", "slice", "str", "tuple"),
}
_SAFE_GLOBALS: list[tuple[Any, str]] = [
    *((_NotRead, f"{module}.{name}") for module, names in _HARMLESS.items() for name in names),
    (_PlainDict, "collections.defaultdict"),
]
_globals_lock = threading.Lock()  # torch's list of safe globals is shared by all threads


class CheckpointError(FixableError, RuntimeError):
    """Raised if a checkpoint cannot be read, or does not fit the model."""


class NoConfigError(CheckpointError):
    """Raised if the configuration of a checkpoint cannot be determined. Callers must name the configuration."""


def first_line(error: BaseException) -> str:
    """Returns the first line of an exception's message without torch's advice, or the type if there is no message."""
    return _ADVICE.sub("", (str(error).strip().splitlines() or [type(error).__name__])[0])


def listed(names: Sequence[str]) -> str:
    """Returns text with the first names, and the number of all other names."""
    rest = len(names) - MOST_LISTED
    return ", ".join(names[:MOST_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def read_file(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a file, or of all files of an index (``*.index.json``).

    Args:
        path: Safetensors file, index, or file written by ``torch.save``. Files of ``torch.save`` may store tensors
            under keys of :data:`LEVELS`, also nested. The content determines the file type, not the suffix.

    Raises:
        CheckpointError: If the file is not a checkpoint, is damaged, or contains objects other than tensors.
        FileNotFoundError: If the file or a file of the index does not exist.
        ImportError: If the file is a safetensors file and the package safetensors is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint file {str(path)!r}")
    if path.name.endswith(INDEX_SUFFIX):
        return _read_shards(path)
    return _tensors(path, _read_safetensors(path) if _is_safetensors(first_bytes(path)) else _read_pickle(path))


def read_record(path: Path) -> Any:
    """Returns the record that ``sam2fast convert`` wrote to a checkpoint. See :mod:`sam2fast.io.made_from`.

    Returns None if ``path``, a file or folder, has no record or cannot be read.
    """
    try:
        file = find_weights(path)
        if not _is_safetensors(first_bytes(file)):
            content = _read_pickle(file)
            return content.get(RECORD) if isinstance(content, Mapping) else None
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, "pt") as opened:
                return json.loads((opened.metadata() or {}).get(RECORD, "null"))
        except SafetensorError:
            return None
    except (CheckpointError, FileNotFoundError, ValueError):
        return None


def _is_safetensors(head: bytes) -> bool:
    """Returns True if a file begins with eight bytes for the length of a header, and a JSON header."""
    return head[5:9] == b"\0\0\0{"


def _tensors(path: Path, content: Any) -> dict[str, Tensor]:
    found = _named_tensors(content)
    if found is None:
        keys = f"a dict with {listed([repr(key)[:40] for key in content])}" if isinstance(content, Mapping) else ""
        raise CheckpointError(
            f"{path} is no checkpoint: expected named tensors, at the top level or under {', '.join(LEVELS)}; "
            f"got {keys or type(content).__name__}"
        )
    level, tensors, others = found
    if others:
        other = others[-1]  # averaged weights come last
        warnings.warn(
            f"{path} has several sets of weights: {level!r} is loaded, and {listed([*map(repr, others)])} is not. To "
            f"load the latter: torch.save(torch.load(FILE, weights_only=True)[{other!r}], NEW_FILE)",
            stacklevel=2,
        )
    for name, tensor in tensors.items():
        if description := _unusable(tensor):
            raise CheckpointError(f"{path} has {description} under {name}; expected plain tensors of numbers")
    return dict(tensors)


def _named_tensors(content: Any, depth: int = DEEPEST) -> tuple[str, Mapping[str, Tensor], list[str]] | None:
    """Returns the named tensors of a file, at the top level or under :data:`LEVELS`, or None.

    Returns the key, the tensors, and other keys with named tensors.
    """
    if not isinstance(content, Mapping) or not content:
        return None
    if all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()):
        return "", content, []
    nested = [(level, found) for level in LEVELS if depth and (found := _named_tensors(content.get(level), depth - 1))]
    if not nested:
        return None
    level, (_, tensors, others) = nested[0]
    return level, tensors, others + [other for other, _ in nested[1:]]


def _unusable(tensor: Tensor) -> str | None:
    """Returns a description of a tensor that cannot be a model's weight, or None for usable tensors."""
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
    head = first_bytes(path)
    if head.startswith(ZIP):
        if kind := archive_kind(path):
            raise CheckpointError(f"{path} is {kind}")
    elif not head.startswith(PICKLE) and (other := kind_of(head)):
        raise CheckpointError(f"{path} is {other.name}, not the weights{other.advice}")
    # torch.load only maps files that are passed as paths, and treats the suffix .safetensors as safetensors.
    is_utf8 = os.fsencode(path) == str(path).encode("utf-8", "surrogatepass")  # torch assumes UTF-8 in every locale
    is_mapped = head.startswith(ZIP) and is_utf8 and path.suffix != ".safetensors"

    def load() -> Any:
        with path.open("rb") as file:
            return torch.load(path if is_mapped else file, map_location="cpu", weights_only=True, mmap=is_mapped)

    try:
        try:
            return load()
        except pickle.UnpicklingError:
            with _globals_lock, torch.serialization.safe_globals(_SAFE_GLOBALS):  # type: ignore[arg-type]
                return load()
    except MemoryError:
        raise
    except Exception as error:  # for damaged files, torch.load raises many types of errors, such as struct.error
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> CheckpointError:
    """Returns the error for a file that ``torch.load`` refuses, without torch's advice to run the file's code."""
    if not isinstance(error, pickle.UnpicklingError):
        return CheckpointError(f"{path} is truncated, damaged or no checkpoint ({first_line(error)})")
    named = re.search(r"GLOBAL (\S+)|class (\S+)|function (\S+)", str(error))
    if named is None and not first_bytes(path).startswith(PICKLE):
        return CheckpointError(f"{path} is damaged or no checkpoint: expected a file of torch.save or safetensors")
    name = next(filter(None, named.groups())) if named else "a pickle of something other than tensors"
    return CheckpointError(
        f"{path} contains {name}, which could run code, and was not loaded; if you trust the file, save only its "
        "weights with the program that wrote it"
    )


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
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        pairs = {str(name): str(file) for name, file in weight_map.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index} is no index of a checkpoint: expected a 'weight_map'") from error
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(pairs.values())):
        # Only files in the index's folder are valid.
        if not file or Path(file).name != file or file.endswith(INDEX_SUFFIX):
            raise CheckpointError(f"{index} names the file {file!r}; expected files beside it")
        try:
            shard = read_file(index.with_name(file))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise CheckpointError(f"{index} names a file that cannot be read: {error}") from error
        expected = {name for name, named in pairs.items() if named == file}
        if absent := sorted(expected - shard.keys()):
            raise CheckpointError(f"{index} places {absent[0]} in {file}, which does not have it")
        tensors.update({name: shard[name] for name in expected})
    return _tensors(index, tensors)


def find_weights(path: str | Path) -> Path:
    """Returns the checkpoint file at a path of a file or folder.

    In a folder, a file with the name of an official checkpoint is preferred. In folders with a ``config.json``, weights
    of transformers or an index of such weights come next, and then a single ``*.index.json``. Otherwise the folder must
    have only one ``.pt``, ``.pth`` or ``.safetensors`` file. If a path does not exist and is the name of an embedded
    model (``sam2fast/mini``), returns this model's weights. Expands ``~`` to the home folder.

    Raises:
        FileNotFoundError: If the path does not exist, or the folder has no checkpoint.
        CheckpointError: If the folder has several candidates, or another program's files (``other_files.py``).
    """
    path = expanded(path)
    if path.is_file():
        return path
    if not path.is_dir():
        if path.as_posix() in EMBEDDED:
            return EMBEDDED[path.as_posix()].weights
        raise FileNotFoundError(f"no checkpoint file {str(path)!r}")
    files = sorted(entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith("."))
    names = {file.name: file for file in files}
    preferred = [names[release.checkpoint] for release in RELEASES.values() if release.checkpoint in names]
    if CONFIG_FILE in names and not preferred:
        preferred = [names[name] for name in TRANSFORMERS_FILES if name in names][:1]
    if not preferred and len(indices := [file for file in files if file.name.endswith(INDEX_SUFFIX)]) == 1:
        preferred = indices
    candidates = preferred or [file for file in files if file.suffix in SUFFIXES or file.name in TRANSFORMERS_FILES]
    if not candidates:
        if kind := folder_kind(path):
            raise CheckpointError(f"the folder {path} {kind}")
        raise FileNotFoundError(f"no checkpoint ({', '.join(SUFFIXES)}) in the folder {str(path)!r}")
    if len(candidates) > 1:
        names_of_all = listed([file.name for file in candidates])
        raise CheckpointError(f"the folder {path} has {len(candidates)} checkpoints: {names_of_all}; name one of them")
    return candidates[0]

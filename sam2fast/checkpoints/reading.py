"""Reads checkpoints of all layouts, and converts the names of weights to official names."""

import logging
import re
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from torch import Tensor

from sam2fast.checkpoints.int8 import from_int8
from sam2fast.checkpoints.other_files import refused_weights
from sam2fast.checkpoints.sam3_files import is_whole, tracker_of
from sam2fast.checkpoints.transformers_layout import MARKS, OFFICIAL_MARKS, is_transformers, to_official
from sam2fast.checkpoints.weight_files import CheckpointError, find_weights, listed, read_file

# Names of modules that torch wraps around other modules, anywhere in a model.
WRAPPERS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# Matches a name of SAM 2 with the prefix that a training program added.
WRAPPED = re.compile(rf"((?:.*?\.)?)(?:{'|'.join(map(re.escape, (*OFFICIAL_MARKS, *MARKS)))})")

_log = logging.getLogger(__name__)


class StoredWeights(NamedTuple):
    """Stores the weights of a checkpoint by official name, and the layout of the file."""

    file: Path
    from_transformers: bool  # True if the file stores transformers' names
    tensors: dict[str, Tensor]
    left_out: tuple[str, ...]  # omitted names, since they lack the requested prefix
    of_detector: int = 0  # number of omitted weights of SAM 3's detector


def read_checkpoint(path: str | Path, prefix: str = "") -> dict[str, Tensor]:
    """Returns the tensors of a checkpoint by official name, with the stored dtypes and shapes.

    Int8 weights become fp32. Never runs code from the file.

    The tensors are memory-mapped, except from files of torch before 1.6, so unused tensors take no memory. The file
    must not change while tensors are in use. Overwriting the file changes the tensors. If the file is truncated,
    reading a tensor kills the process (SIGBUS). Replacing the file by a rename is safe. ``clone()`` tensors that must
    outlive the file. Models built from the file have copies.

    Args:
        path: File written by ``torch.save``, with weights at the top level or under ``model``, ``state_dict`` or
            another common key (``weight_files.LEVELS``); safetensors file; index of several files; or folder that
            contains such a file (see :func:`find_weights`). The content determines the file type, not the name. Weights
            may have official names or transformers' names. A prefix that all names begin with, such as ``module.``, is
            removed. From files of the whole SAM 3, only the tracker's weights are read.
        prefix: Prefix of the names to read. The prefix is removed. Names without the prefix are omitted, with a log
            message.

    Raises:
        FileNotFoundError: If the file does not exist.
        CheckpointError: If the file is not a checkpoint, is damaged, or contains objects other than tensors; if no name
            has ``prefix``; if only some of SAM 2's names have a prefix; or if the weights are SAM 3.1's or adapters,
            or have adapters that are not merged.
        ImportError: If the file is a safetensors file and the package safetensors is not installed.
    """
    return read_with_notes(path, prefix).tensors


def read_with_notes(path: str | Path, prefix: str) -> StoredWeights:
    """Reads the weights of a checkpoint as :func:`read_checkpoint` does, and logs which weights are omitted."""
    layout = read_layout(path, prefix)
    if layout.left_out:
        _log.warning("%s: left out the names without the prefix %r: %s", layout.file, prefix, listed(layout.left_out))
    if layout.of_detector:
        _log.info("%s: left out %d weights of SAM 3's detector", layout.file, layout.of_detector)
    return layout


def read_layout(path: str | Path, prefix: str) -> StoredWeights:
    """Reads the weights of a checkpoint as :func:`read_checkpoint` does, but without log messages."""
    file = find_weights(path)
    stored = read_file(file)
    below = {name.removeprefix(prefix): x for name, x in stored.items() if name.startswith(prefix)}
    tensors = {WRAPPERS.sub("", name): x for name, x in below.items()}
    if len(tensors) < len(below):
        raise CheckpointError(f"{file} has the same weight with and without {WRAPPERS.pattern}")
    if not tensors:
        raise CheckpointError(f"no name in {file} begins with {prefix!r}; the first is {next(iter(stored))}")
    if reason := refused_weights(tensors):
        raise CheckpointError(f"{file} {reason}")
    of_detector = 0
    if is_whole(tensors):
        try:
            tracker = tracker_of(tensors)
        except CheckpointError as error:
            raise CheckpointError(f"{file}: {error}") from error
        of_detector, tensors = len(tensors) - len(tracker), tracker
    tensors = _without_prefix(file, tensors, prefix)
    left_out = tuple(name for name in stored if not name.startswith(prefix))
    try:
        tensors = from_int8(tensors)
        from_transformers = is_transformers(tensors)
        tensors = to_official(tensors) if from_transformers else tensors
        return StoredWeights(file, from_transformers, tensors, left_out, of_detector)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error


def _without_prefix(path: Path, tensors: dict[str, Tensor], requested: str) -> dict[str, Tensor]:
    """Removes a common prefix of all names. Raises ``CheckpointError`` if only some names have a prefix."""
    prefixes = {match[1] for name in tensors if (match := WRAPPED.match(name))}
    if not prefixes or "" in prefixes:
        return tensors
    counts = {prefix: sum(name.startswith(prefix) for name in tensors) for prefix in sorted(prefixes)}
    first = max(counts, key=counts.__getitem__)
    others = [name for name in tensors if not name.startswith(tuple(counts))]
    if len(counts) == 1 and not others:
        return {name.removeprefix(first): tensor for name, tensor in tensors.items()}
    groups = [f"{count} below {requested + prefix!r}" for prefix, count in counts.items()]
    groups += [f"{len(others)} elsewhere ({listed(others)})"] if others else []
    prefix = requested + first
    command = f"sam2fast convert {quote(str(path))} weights.pt --prefix {quote(prefix)}"
    raise CheckpointError(
        f"{path} has {len(tensors)} weights: {', '.join(groups)}. To use only the weights below {prefix!r}, write them "
        f"to another file by `{command}`, or pass ckpt_prefix={prefix!r} in Python"
    )

"""Reads checkpoints in every layout, and returns official names."""

import logging
import re
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from torch import Tensor

from sam2fast.checkpoints.int8 import from_int8
from sam2fast.checkpoints.sam3_files import is_whole, tracker_of
from sam2fast.checkpoints.transformers_layout import MARKS, OFFICIAL_MARKS, is_transformers, to_official
from sam2fast.checkpoints.weight_files import CheckpointError, find_weights, listed, read_file

# Modules that torch puts around others, anywhere in a model.
WRAPPERS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# A name of SAM 2, with the modules of a program around it.
WRAPPED = re.compile(rf"((?:.*?\.)?)(?:{'|'.join(map(re.escape, (*OFFICIAL_MARKS, *MARKS)))})")

_log = logging.getLogger(__name__)


class StoredWeights(NamedTuple):
    """The weights of a checkpoint under official names, and how they are stored."""

    file: Path
    from_transformers: bool
    tensors: dict[str, Tensor]
    left_out: tuple[str, ...]  # names without the prefix that was asked for
    of_detector: int = 0  # number of weights of SAM 3's detector, which are left out


def read_checkpoint(path: str | Path, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a checkpoint under official names, with the stored dtypes and shapes; of int8 weights, in fp32.

    No code from the file is run.

    The tensors are memory-mapped, except from files of torch before 1.6, so unused ones take no memory. The file must
    not change while they are in use: overwriting it changes them, and after truncating it, reading them ends the
    process (SIGBUS). Replacing it by a rename is safe. ``clone()`` tensors that must outlive the file; models built
    from it have copies.

    Args:
        path: a file by ``torch.save``, in which the weights may be under ``model``, ``state_dict`` or another usual key
            (``weight_files.LEVELS``); a safetensors file; an index of several files; or a folder with one of them (see
            :func:`find_weights`). The content decides, not the file's name. Weights may have official names or those
            of transformers, all of them below a prefix such as ``module.``, which is removed. Of the whole SAM 3, the
            tracker's weights are read.
        prefix: takes only the names with this prefix, which is removed; others are left out with a logged note. For
            files in which not all names have it.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is no checkpoint, is damaged, or has objects other than tensors; no name has the
            prefix; only some names are SAM 2's below a prefix; or the weights have adapters that are not merged.
        ImportError: a safetensors file without the package safetensors.
    """
    return read_with_notes(path, prefix).tensors


def read_with_notes(path: str | Path, prefix: str) -> StoredWeights:
    """Returns the weights of a checkpoint as :func:`read_checkpoint` does, and logs what is left out."""
    layout = read_layout(path, prefix)
    if layout.left_out:
        _log.warning("%s: left out what is not below %r: %s", layout.file, prefix, listed(layout.left_out))
    if layout.of_detector:
        _log.info("%s: left out %d weights of SAM 3's detector", layout.file, layout.of_detector)
    return layout


def read_layout(path: str | Path, prefix: str) -> StoredWeights:
    """The weights of a checkpoint as :func:`read_checkpoint` returns them, without its note."""
    file = find_weights(path)
    found = read_file(file)
    below = {name.removeprefix(prefix): x for name, x in found.items() if name.startswith(prefix)}
    tensors = {WRAPPERS.sub("", name): x for name, x in below.items()}
    if len(tensors) < len(below):
        raise CheckpointError(f"{file} has the same weight with and without {WRAPPERS.pattern}")
    if not tensors:
        raise CheckpointError(f"no name in {file} begins with {prefix!r}; the first is {next(iter(found))}")
    if any(".base_layer." in name for name in tensors):
        raise CheckpointError(f"{file} has adapters that are not merged; load merged.pt of the same training instead")
    of_detector = 0
    if is_whole(tensors):
        try:
            tracker = tracker_of(tensors)
        except CheckpointError as error:
            raise CheckpointError(f"{file}: {error}") from error
        of_detector, tensors = len(tensors) - len(tracker), tracker
    tensors = _without_prefix(file, tensors, prefix)
    left_out = tuple(name for name in found if not name.startswith(prefix))
    try:
        tensors = from_int8(tensors)
        from_transformers = is_transformers(tensors)
        tensors = to_official(tensors) if from_transformers else tensors
        return StoredWeights(file, from_transformers, tensors, left_out, of_detector)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error


def _without_prefix(path: Path, tensors: dict[str, Tensor], asked: str) -> dict[str, Tensor]:
    """Removes the prefix that all names have before SAM 2's. Raises CheckpointError if there are other names."""
    prefixes = {match[1] for name in tensors if (match := WRAPPED.match(name))}
    if not prefixes or "" in prefixes:
        return tensors
    counts = {prefix: sum(name.startswith(prefix) for name in tensors) for prefix in sorted(prefixes)}
    first = max(counts, key=counts.__getitem__)
    others = [name for name in tensors if not name.startswith(tuple(counts))]
    if len(counts) == 1 and not others:
        return {name.removeprefix(first): tensor for name, tensor in tensors.items()}
    found = [f"{count} below {asked + prefix!r}" for prefix, count in counts.items()]
    found += [f"{len(others)} elsewhere ({listed(others)})"] if others else []
    prefix = asked + first
    command = f"sam2fast convert {quote(str(path))} weights.pt --prefix {quote(prefix)}"
    raise CheckpointError(
        f"{path} has {len(tensors)} weights: {', '.join(found)}. To take those below {prefix!r} alone, write them to "
        f"another file by `{command}`, or pass ckpt_prefix={prefix!r} in Python"
    )

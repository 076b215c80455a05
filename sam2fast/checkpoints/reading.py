"""Reads checkpoints of every layout, under the official names."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from sam2fast.checkpoints.errors import CheckpointError
from sam2fast.checkpoints.files import read_file
from sam2fast.checkpoints.folders import find_weights
from sam2fast.checkpoints.transformers_layout import is_transformers, official_names, to_official


def read_checkpoint(path: str | Path, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a checkpoint under the official names, in the dtypes and shapes that they are stored in.

    No code from the file is run.

    The tensors are mapped, so that those that nobody looks at take no memory: the file has to stay as it is while they
    live, but for one in the format of torch before 1.6. Where it is written over, they change with it; where it is cut
    short, looking at what is gone ends the process (SIGBUS). Moving another file to its name does no harm. ``clone()``
    what has to outlive the file; models that are built from one have copies.

    Args:
        path: a ``.pt`` file, with or without the official ``model`` level; a ``.safetensors`` file; an index of several
            files; or a folder with one of them (see :func:`find_weights`). Names may be the official ones or those of
            transformers.
        prefix: taken off every name that has it, such as ``module.``.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is no checkpoint, is damaged, or holds objects other than tensors; or no name has the
            prefix.
        ImportError: a ``.safetensors`` file and the package safetensors is not installed.
    """
    file = find_weights(path)
    tensors = without_prefix(file, read_file(file), prefix)
    return under_official_names(file, tensors) if is_transformers(tensors) else tensors


def under_official_names(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file in the layout of transformers, as :func:`to_official` gives them; errors name the file."""
    try:
        return to_official(tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def without_prefix(path: Path, tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """``tensors`` with their names from behind ``prefix``; names without it stay.

    Raises:
        CheckpointError: no name has the prefix, or two names become one.
    """
    if not prefix:
        return tensors
    if not any(name.startswith(prefix) for name in tensors):
        raise CheckpointError(f"no name in {path} begins with {prefix!r}; the first is {next(iter(tensors))}")
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        short = name.removeprefix(prefix)
        if short in out:
            raise CheckpointError(f"{path} has {short} with and without the prefix {prefix!r}")
        out[short] = tensor
    return out


def recognised_prefix(names: Iterable[str], wanted: Mapping[str, object]) -> str:
    """What stands before every name, if more of them belong to a model without it; else an empty string.

    Wrappers put it there: ``module.`` by parallel training, ``model.`` by many trainers.

    Args:
        wanted: the model's own names.
    """
    names = list(names)
    best, most = "", _known(names, wanted)
    parts = names[0].split(".") if names else []
    for end in range(1, len(parts)):
        prefix = ".".join(parts[:end]) + "."
        if not all(name.startswith(prefix) for name in names):
            break
        if (known := _known([name.removeprefix(prefix) for name in names], wanted)) > most:
            best, most = prefix, known
    return best


def _known(names: list[str], wanted: Mapping[str, object]) -> int:
    if is_transformers(names):
        names = list(official_names(names).values())
    return sum(name in wanted for name in names)

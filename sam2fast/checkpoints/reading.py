"""Reads checkpoints in every layout, and returns official names."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from sam2fast.checkpoints.int8 import from_int8
from sam2fast.checkpoints.transformers_layout import is_transformers, official_names, to_official
from sam2fast.checkpoints.weight_files import CheckpointError, find_weights, read_file


def read_checkpoint(path: str | Path, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a checkpoint under official names, with the stored dtypes and shapes; of int8 weights, in fp32.

    No code from the file is run.

    The tensors are memory-mapped, except from files of torch before 1.6, so unused ones take no memory. The file must
    not change while they are in use: overwriting it changes them, and after truncating it, reading them ends the
    process (SIGBUS). Replacing it by a rename is safe. ``clone()`` tensors that must outlive the file; models built
    from it have copies.

    Args:
        path: a ``.pt`` file, with or without the official ``model`` level; a ``.safetensors`` file; an index of several
            files; or a folder with one of them (see :func:`find_weights`). Names may be official or those of
            transformers.
        prefix: removed from every name that has it, such as ``module.``.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is no checkpoint, is damaged, or has objects other than tensors; or no name has the
            prefix.
        ImportError: a ``.safetensors`` file without the package safetensors.
    """
    return read_layout(path, prefix)[2]


def read_layout(path: str | Path, prefix: str) -> tuple[Path, bool, dict[str, Tensor]]:
    """The file of a checkpoint, whether it has transformers' names, and what :func:`read_checkpoint` returns."""
    file = find_weights(path)
    tensors = _without_prefix(file, read_file(file), prefix)
    try:
        tensors = from_int8(tensors)
        if not is_transformers(tensors):
            return file, False, tensors
        return file, True, to_official(tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error


def _without_prefix(path: Path, tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """``tensors`` with ``prefix`` removed from their names; names without it stay.

    Raises:
        CheckpointError: no name has the prefix, or two names become equal.
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
    """The common prefix of all names without which more of them fit the model; otherwise an empty string.

    Wrappers add prefixes, such as ``module.`` by DistributedDataParallel and ``model.`` by many trainers.

    Args:
        wanted: the model's names.
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

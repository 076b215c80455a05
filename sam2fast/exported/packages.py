"""Exported programs compiled ahead of time by AOTInductor: native code in one file, loaded without a compiler."""

import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sam2fast.checkpoints.errors import first_line
from sam2fast.exported.errors import ArtifactError
from sam2fast.exported.programs import written_program

if TYPE_CHECKING:
    from torch.export import ExportedProgram

# A program's tensors in order, whatever lists they are in, to its results.
FlatFunction = Callable[[Sequence[Tensor]], Sequence[Tensor]]


def compile_artifact(program: "ExportedProgram", path: str | Path, options: Mapping[str, Any] | None = None) -> None:
    """Compiles a program for the device and the processor of this machine, and writes it whole or not at all.

    Args:
        path: ends in ``.pt2``.
        options: settings of ``torch._inductor.config``.

    Raises:
        ValueError: the name does not end in ``.pt2``.
        OSError: the file cannot be written; nothing is left behind.
        RuntimeError: there is no C++ compiler, or torch cannot compile the program.
    """
    from torch._inductor import aoti_compile_and_package

    with written_program(path) as partial, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of one part of torch about another
        aoti_compile_and_package(
            program, package_path=str(partial), inductor_configs=None if options is None else dict(options)
        )


def load_artifact(path: str | Path, device_index: int | None = None) -> FlatFunction:
    """What :func:`compile_artifact` wrote, as a function of all the program's tensors in one list, none left out.

    The file is native code, which runs as this process does: load only what you trust.

    The tensors must be contiguous, and of the device and the dtypes that the program was made for: native code looks at
    their memory only.

    Args:
        device_index: which GPU a program for CUDA is to run on; by default the current one.

    Raises:
        FileNotFoundError: there is no such file.
        ArtifactError: it is damaged, or nothing that this version of torch can load.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no compiled program {str(path)!r}")
    if not zipfile.is_zipfile(path):
        raise ArtifactError(f"{path} is damaged, or no compiled program")
    try:
        return _load(str(path), -1 if device_index is None else device_index)
    except RuntimeError as error:
        raise ArtifactError(f"{path} cannot be loaded by torch {torch.__version__}: {first_line(error)}") from error


def _load(path: str, device_index: int) -> FlatFunction:
    try:
        # What torch._inductor.aoti_load_package makes; but that imports the compiler, which takes seconds.
        loader = torch._C._aoti.AOTIModelPackageLoader(path, "model", False, 1, device_index)
    except (AttributeError, TypeError):
        from torch._inductor import aoti_load_package

        loader = aoti_load_package(path, device_index=device_index).loader
    return lambda tensors: loader.run(list(tensors))

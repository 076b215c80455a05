"""Launch configurations: block sizes and warps by op, dtype, shape class and GPU, from a table in the package."""

import contextlib
import functools
import json
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sam2fast.kernels._dispatch import interpreting

TABLE = "launch_table.json"
# Environment variable with a file that replaces the packaged table.
TABLE_VARIABLE = "SAM2FAST_LAUNCH_TABLE"
ANY = "*"
# Key of a row's meta: programs that run at once on a multiprocessor, 1 if absent. Not passed to the kernel.
CTAS_PER_SM = "CTAS_PER_SM"
# Triton's option of every launch, but where products must be rounded before a sum. Its default changes in Triton 3.10.
FUSED = {"enable_fp_fusion": True}
# Triton's pointer types, by the table's dtype names.
POINTERS = {"float32": "*fp32", "bfloat16": "*bf16", "float16": "*fp16"}
# CUDA's limit of programs along the second and the third axis of a grid; along the first it is 2**31 - 1.
MAX_PROGRAMS = 65535


class Compilation(NamedTuple):
    """One kernel with the arguments of a configuration, to compile it without a GPU."""

    kernel: Any  # the @triton.jit function
    arguments: tuple[str, ...]  # types of its runtime arguments, such as *bf16 and i32
    constants: Mapping[str, int]  # its constexpr arguments
    dtype: str  # of the computation: a bfloat16 or float16 kernel must not spill
    uses_tensor_cores: bool = False  # in every dtype but fp32, which need not
    options: Mapping[str, int] | None = None  # num_warps and num_stages, where they are not those of the row
    is_fp8: bool = False  # only for GPUs with fp8 matrix multiplications, which attention must then use


class LaunchConfig(NamedTuple):
    """One row of the table."""

    arch: str  # sm_90, gfx942, or * for every GPU without a row of its own
    dtype: str  # of the first argument, such as bfloat16, or *
    shape: str  # the op's shape class, or *
    meta: Mapping[str, int]  # the kernel's constexpr arguments, and settings of its launcher
    options: Mapping[str, int]  # num_warps, num_stages

    def on_device(self, tensor: torch.Tensor) -> contextlib.AbstractContextManager[Any]:
        """Makes the tensor's device current, since Triton launches on the current device."""
        return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


@functools.cache
def launch_table() -> dict[str, list[LaunchConfig]]:
    """Every stored configuration by op, from ``launch_table.json`` or the file in ``SAM2FAST_LAUNCH_TABLE``.

    It is read once per process.

    Raises:
        ValueError: the file in ``SAM2FAST_LAUNCH_TABLE`` cannot be read or is not a launch table.
    """
    custom = os.environ.get(TABLE_VARIABLE)
    if not custom:
        return parse_launch_table((files("sam2fast.kernels") / TABLE).read_text(encoding="utf-8"))
    try:
        return parse_launch_table(Path(custom).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{TABLE_VARIABLE} is {custom!r}, which is no launch table: {error}") from error


def parse_launch_table(text: str) -> dict[str, list[LaunchConfig]]:
    """A launch table from its JSON.

    Raises:
        ValueError: it is not JSON, or not a list of rows per op.
    """
    table = json.loads(text)
    if not isinstance(table, dict):
        raise ValueError(f"expected an object with a list of rows per op, got {type(table).__name__}")
    return {op: [_row(op, row) for row in _list(op, rows)] for op, rows in table.items()}


def _list(op: str, rows: Any) -> list[Any]:
    if not isinstance(rows, list):
        raise ValueError(f"expected a list of rows of {op}, got {type(rows).__name__}")
    return rows


def _row(op: str, row: Any) -> LaunchConfig:
    fields = LaunchConfig._fields
    if not isinstance(row, dict) or set(row) != set(fields):
        raise ValueError(f"expected rows with {', '.join(fields)}, and one of {op} is {row!r}")
    numbers = [row[field] for field in ("meta", "options")]
    names = [row[field] for field in ("arch", "dtype", "shape")]
    if not all(isinstance(name, str) for name in names) or not all(
        isinstance(values, dict) and all(isinstance(value, int) for value in values.values()) for values in numbers
    ):
        raise ValueError(f"expected names, and whole numbers in meta and options, and a row of {op} is {row!r}")
    return LaunchConfig(**row)


def launch_config(op: str, tensor: torch.Tensor, shape: str = ANY) -> LaunchConfig:
    """The row for this op, GPU, dtype and shape class. A row that names the shape wins, then one that names the GPU.

    Raises:
        LookupError: no row matches.
    """
    global _chosen
    table, chosen = launch_table(), _chosen
    if chosen.table is not table:  # the tuner has replaced or restored it
        chosen = _chosen = _Chosen(table, {})
    key = op, architecture(tensor.device), tensor.dtype, shape
    row = chosen.rows.get(key)
    if row is None:
        row = chosen.rows[key] = _fitting_row(table.get(op, ()), *key)
    return row


class _Chosen(NamedTuple):
    """Cache of chosen rows, with the table that they come from."""

    table: Mapping[str, Sequence[LaunchConfig]]
    rows: dict[tuple[str, str, torch.dtype, str], LaunchConfig]  # by op, GPU, dtype and shape class


_chosen = _Chosen({}, {})


def _fitting_row(rows: Sequence[LaunchConfig], op: str, arch: str, dtype: torch.dtype, shape: str) -> LaunchConfig:
    wanted = arch, str(dtype).removeprefix("torch."), shape
    fitting = [c for c in rows if all(have in (ANY, want) for have, want in zip(c[:3], wanted, strict=True))]
    if not fitting:
        raise LookupError(f"{os.environ.get(TABLE_VARIABLE) or TABLE} has no launch configuration of {op} for {wanted}")
    return max(fitting, key=lambda c: (c.shape != ANY, c.arch != ANY, c.dtype != ANY))


def product_precision(dtype: torch.dtype) -> str:
    """Triton's ``input_precision``: on NVIDIA GPUs fp32 takes three TF32 products, or one if torch allows TF32."""
    if dtype != torch.float32 or interpreting() or torch.version.hip is not None:
        return "ieee"
    return "tf32" if tf32_is_allowed() else "tf32x3"


def tf32_is_allowed() -> bool:
    """Whether torch uses TF32 for fp32 matrix multiplications."""
    matmul = torch.backends.cuda.matmul
    # Newer versions of torch have another switch, which the old one also sets. Once that is set, they refuse to read
    # the old one.
    precision = getattr(matmul, "fp32_precision", None)
    return matmul.allow_tf32 if precision is None else precision == "tf32"


@functools.cache
def architecture(device: torch.device) -> str:
    """``sm_90``, ``gfx942``, or ``cpu`` for the interpreter."""
    if device.type != "cuda":
        return "cpu"
    if torch.version.hip is not None:
        return str(torch.cuda.get_device_properties(device).gcnArchName).partition(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"

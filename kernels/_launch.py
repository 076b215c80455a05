"""Chooses launch configurations (block sizes, warps) from each op's ``config(arch, dtype, shape)`` or a user's file."""

import contextlib
import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sam2fast.kernels._dispatch import count_launch, interpreting

# Environment variable that names a file of launch configurations, which override the package's configurations.
TABLE_VARIABLE = "SAM2FAST_LAUNCH_TABLE"
ANY = "*"
# Key in LaunchConfig.meta: number of programs that run at once on a multiprocessor (default 1). The value is not passed
# to kernels.
CTAS_PER_SM = "CTAS_PER_SM"
# Triton option that fuses multiplications and additions (default until Triton 3.10). Only kernels that must round
# products before additions do not use this option.
FUSED = {"enable_fp_fusion": True}
# CUDA's maximum number of programs along the second and third axes of a grid. The first axis allows 2**31 - 1 programs.
MAX_PROGRAMS = 65535


class LaunchConfig(NamedTuple):
    """Stores constants and options of a kernel launch."""

    meta: Mapping[str, int]  # the kernel's constexpr arguments, and settings of the function that launches the kernel
    options: Mapping[str, int]  # num_warps, num_stages

    def on_device(self, tensor: torch.Tensor) -> contextlib.AbstractContextManager[Any]:
        """Makes the tensor's device current, since Triton launches on the current device."""
        return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()

    def launch(self, op: str, kernel: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
        """Launches a Triton kernel on the device of its first argument, and counts a launch of ``op``."""
        count_launch(op)
        with self.on_device(args[0]):
            kernel[grid](*args, **constants, **self.options, **FUSED)


# Function that returns an op's launch configuration. The arguments are a GPU such as sm_90 (cpu for Triton's
# interpreter), a dtype such as bfloat16, and a shape class (* for any).
Configure = Callable[[str, str, str], LaunchConfig]


class Row(NamedTuple):
    """Stores a row of a launch table: a configuration, and the launches that use this configuration."""

    arch: str  # GPU architecture such as sm_90, or * for any GPU
    dtype: str  # dtype of the op's first argument, or * for any dtype
    shape: str  # shape class (name for a range of input sizes), or * for any shape class
    meta: Mapping[str, int]
    options: Mapping[str, int]


def launch_config(op: str, config: Configure, tensor: torch.Tensor, shape: str = ANY) -> LaunchConfig:
    """Returns the launch configuration of an op for the GPU and dtype of ``tensor``, and the shape class ``shape``.

    A matching row of the file in ``SAM2FAST_LAUNCH_TABLE`` overrides ``config``.
    """
    global _cache
    rows, cache = custom_rows(), _cache
    if cache.rows is not rows:  # the tuner has changed the user's rows
        cache = _cache = _Cache(rows, {})
    key = op, architecture(tensor.device), tensor.dtype, shape
    launch = cache.configs.get(key)
    if launch is None:
        names = key[1], str(tensor.dtype).removeprefix("torch."), shape
        launch = cache.configs[key] = configuration(op, config, *names)
    return launch


def configuration(op: str, config: Configure, arch: str, dtype: str, shape: str) -> LaunchConfig:
    """Returns the launch configuration of a matching row in the file ``SAM2FAST_LAUNCH_TABLE``, else of ``config``."""
    return fitting_row(custom_rows().get(op, ()), arch, dtype, shape) or config(arch, dtype, shape)


class _Cache(NamedTuple):
    """Caches launch configurations, and the rows of the user's launch table that the configurations depend on."""

    rows: Mapping[str, Sequence[Row]]
    configs: dict[tuple[str, str, torch.dtype, str], LaunchConfig]  # keys consist of op, GPU, dtype and shape class


_cache = _Cache({}, {})


def fitting_row(rows: Sequence[Row], arch: str, dtype: str, shape: str) -> LaunchConfig | None:
    """Returns the configuration of the most specific row that matches, or None.

    Rows that name a shape class have the highest priority, rows that name a GPU the second highest, and rows that name
    a dtype the third highest.
    """
    names = arch, dtype, shape
    fitting = [row for row in rows if all(have in (ANY, want) for have, want in zip(row[:3], names, strict=True))]
    if not fitting:
        return None
    best = max(fitting, key=lambda row: (row.shape != ANY, row.arch != ANY, row.dtype != ANY))
    return LaunchConfig(best.meta, best.options)


@functools.cache
def custom_rows() -> dict[str, list[Row]]:
    """Returns rows by op, from the file that ``SAM2FAST_LAUNCH_TABLE`` names. Reads the file once per process.

    Raises:
        ValueError: If the file cannot be read or is not a launch table.
    """
    custom = os.environ.get(TABLE_VARIABLE)
    if not custom:
        return {}
    try:
        return parse_rows(Path(custom).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{TABLE_VARIABLE} is {custom!r}, which is not a launch table: {error}") from error


def parse_rows(text: str) -> dict[str, list[Row]]:
    """Parses the JSON of a launch table, and returns rows by op.

    Raises:
        ValueError: If ``text`` is not JSON, or does not map op names to lists of rows.
    """
    table = json.loads(text)
    if not isinstance(table, dict):
        raise ValueError(f"expected an object with a list of rows per op, got {type(table).__name__}")
    for op, rows in table.items():
        if not isinstance(rows, list):
            raise ValueError(f"expected a list of rows of {op}, got {type(rows).__name__}")
    return {op: [_row(op, row) for row in rows] for op, rows in table.items()}


def _row(op: str, row: Any) -> Row:
    fields = Row._fields
    if not isinstance(row, dict) or set(row) != set(fields):
        raise ValueError(f"expected rows with {', '.join(fields)}, but a row of {op} is {row!r}")
    numbers = [row[field] for field in ("meta", "options")]
    names = [row[field] for field in ("arch", "dtype", "shape")]
    if not all(isinstance(name, str) for name in names) or not all(
        isinstance(values, dict) and all(isinstance(value, int) for value in values.values()) for values in numbers
    ):
        raise ValueError(f"expected names, and integers in meta and options, but a row of {op} is {row!r}")
    return Row(**row)


def product_precision(dtype: torch.dtype) -> str:
    """Returns Triton's ``input_precision``: for fp32 on NVIDIA GPUs, tf32x3, or tf32 if torch allows TF32."""
    if dtype != torch.float32 or interpreting() or torch.version.hip is not None:
        return "ieee"
    return "tf32" if tf32_is_allowed() else "tf32x3"


def tf32_is_allowed() -> bool:
    """Returns True if torch uses TF32 for fp32 matrix multiplications."""
    matmul = torch.backends.cuda.matmul
    # Newer versions of torch have a second flag, fp32_precision. Setting allow_tf32 sets both flags. After a user has
    # set fp32_precision, torch refuses to read allow_tf32.
    precision = getattr(matmul, "fp32_precision", None)
    return matmul.allow_tf32 if precision is None else precision == "tf32"


tf32_is_allowed._dynamo_marked_constant = True  # type: ignore[attr-defined]  # a constant for torch.compile


@functools.cache
def architecture(device: torch.device) -> str:
    """Returns the name of the GPU architecture, such as ``sm_90`` or ``gfx942``, or ``cpu`` for a CPU."""
    if device.type != "cuda":
        return "cpu"
    if torch.version.hip is not None:
        return str(torch.cuda.get_device_properties(device).gcnArchName).partition(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def is_hopper(device: torch.device) -> bool:
    """Returns True on Hopper GPUs (sm_90): only on Hopper, the speed of kernels was compared with torch."""
    return architecture(device) == "sm_90"


is_hopper._dynamo_marked_constant = True  # type: ignore[attr-defined]  # a constant for torch.compile

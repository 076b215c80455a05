"""Launches of kernels for a GPU that need not be there, recorded from calls on tensors without values."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple
from unittest import mock

import torch
from kernel_records import RECORDS
from registry import Call, configured
from torch import Tensor

from sam2fast.kernels import _launch

TYPES = {
    torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16",
    torch.float8_e4m3fn: "fp8e4nv", torch.int64: "i64", torch.int32: "i32", torch.int8: "i8", torch.uint8: "u8",
    torch.bool: "i1",
}  # fmt: skip

# Kernels that must use tensor cores.
PRODUCTS = (
    "attend_kernel", "downsample_map_kernel", "embed_patches_kernel", "linear_gelu_kernel", "masks_kernel",
    "mlp_kernel", "norm_linear_kernel", "token_attention_kernel", "window_attention_kernel",
)  # fmt: skip


class Launch(NamedTuple):
    """A kernel with what Triton compiles it for."""

    op: str  # module of ``kernels`` or folder
    shape: str  # class of the configuration
    dtype: str  # of the computation
    kernel: Any  # the @triton.jit function
    types: Mapping[str, str]  # of arguments at run time: *bf16:16 and i32:16 are multiples of 16
    constants: Mapping[str, Any]  # other arguments: constexpr ones, and integers that are 1
    options: Mapping[str, Any]  # num_warps, num_stages, enable_fp_fusion
    meta: Mapping[str, int]  # of the configuration

    @property
    def name(self) -> str:
        return str(self.kernel.__name__).strip("_")

    @property
    def is_fp8(self) -> bool:
        return any("fp8" in each for each in self.types.values())


@contextlib.contextmanager
def recording(target: str) -> Iterator[list[tuple[Any, tuple[Any, ...], dict[str, Any]]]]:
    """Context manager in which kernels are not launched, and configurations are those for ``target``, such as sm_90.

    Yields:
        Kernels with their arguments, as they come. A number that is read from a tensor without values is 0.
    """
    from triton.runtime.jit import KernelInterface

    found: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def launcher(kernel: Any, grid: Any) -> Any:
        return lambda *given, **named: found.append((kernel, given, named))

    with (
        mock.patch.object(KernelInterface, "__getitem__", launcher),
        mock.patch.object(_launch, "architecture", lambda device: target),
        mock.patch.object(Tensor, "__int__", lambda tensor: 0),
    ):
        yield found


def launches(ops: Iterable[str], target: str) -> list[Launch]:
    """What the records' calls of these ops launch on ``target``, each once."""
    return [launch for op in ops for launch in launches_of(op, RECORDS[op].launched(), target)]


def launches_of(op: str, calls: Iterable[Call], target: str) -> list[Launch]:
    """What calls launch on ``target``, each once."""
    found: dict[str, Launch] = {}
    for call in calls:
        # Nothing is launched after a selection by values, of which there are none.
        with recording(target) as recorded, contextlib.suppress(NotImplementedError):
            call.run()
        dtype = str(call.arguments[0].dtype).removeprefix("torch.")
        meta = configured(op, target, dtype, call.shape).meta
        for kernel, given, named in recorded:
            launch = Launch(op, call.shape, call.dtype, kernel, *_compiled_for(kernel, given, named), meta)
            found.setdefault(repr((launch.name, launch.types, launch.constants, launch.options)), launch)
    return list(found.values())


@cache
def _jit_function(kernel: Any) -> Any:
    """Returns what compiles a kernel. For an interpreted one Triton reads its source, which takes milliseconds."""
    from triton.runtime.jit import JITFunction

    return kernel if isinstance(kernel, JITFunction) else JITFunction(kernel.fn, **kernel.kwargs)


def _compiled_for(
    kernel: Any, given: tuple[Any, ...], named: dict[str, Any]
) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
    """Types, constants and options, as Triton takes them from a launch."""
    kernel = _jit_function(kernel)
    values = dict(zip(kernel.arg_names, given, strict=False)) | named
    types: dict[str, str] = {}
    constants: dict[str, Any] = {}
    for parameter in kernel.params:
        name, value = parameter.name, values.pop(parameter.name)
        is_special = not parameter.do_not_specialize
        if parameter.is_constexpr or (isinstance(value, int) and value == 1 and is_special):
            constants[name] = value
        elif isinstance(value, Tensor):
            is_aligned = value.storage_offset() * value.element_size() % 16 == 0
            types[name] = f"*{TYPES[value.dtype]}" + ":16" * is_aligned
        elif isinstance(value, float):
            types[name] = "fp32"
        else:
            types[name] = ("i32" if value < 2**31 else "i64") + ":16" * (is_special and value % 16 == 0)
    return types, constants, values

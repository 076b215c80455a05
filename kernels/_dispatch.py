"""Chooses between the Triton kernel and the reference implementation of an op."""

import contextlib
import functools
import importlib.util
import logging
import os
import shutil
import sys
import sysconfig
import threading
from collections import Counter
from collections.abc import Hashable, Iterator
from contextvars import ContextVar

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from sam2fast.kernels import _custom_ops

_log = logging.getLogger(__name__)

BACKENDS = _custom_ops.BUILT_IN
OLDEST_TRITON = (3, 2)
OLDEST_GPU = (8, 0)  # compute capability
# AMD architectures that `make aot` compiles kernels for.
AMD_GPUS = ("gfx942",)
# Device types with kernels. The backend ``triton`` can also run kernels on the CPU, in Triton's interpreter.
KERNEL_DEVICES = ("cuda",)
# Dtypes that kernels for floating-point tensors support.
FLOATS = (torch.float32, torch.bfloat16, torch.float16)

# Number of kernel launches of each op in this process. Tests use this number to check that a kernel ran.
launches: Counter[str] = Counter()
_launches_lock = threading.Lock()
# Triton's interpreter treats the bits of bfloat16 as integers. Tests patch the interpreter and set this flag to True.
interpreter_supports_bfloat16 = False

_forced: ContextVar[str | None] = ContextVar("sam2fast_backend", default=None)


def _check_backend(name: str, source: str) -> str:
    if name not in BACKENDS and name not in _custom_ops.registered:
        raise ValueError(f"{source} is {name!r}; expected one of {', '.join((*BACKENDS, *_custom_ops.registered))}")
    return name


def current_backend() -> str:
    """Returns the active backend: the innermost :func:`backend` block, else ``SAM2FAST_BACKEND``, else ``auto``.

    Raises:
        ValueError: If ``SAM2FAST_BACKEND`` is not ``auto``, ``torch``, ``triton`` or a registered backend.
    """
    forced = _forced.get()
    if forced is not None:
        return forced
    name = os.environ.get("SAM2FAST_BACKEND", "auto")
    return name if name in BACKENDS else _check_backend(name, "SAM2FAST_BACKEND")


def implementation_of(op: str) -> _custom_ops.Implementation | None:
    """Returns the implementation of ``op`` that is registered for the active backend, or None."""
    if not _custom_ops.registered:
        return None
    return _custom_ops.registered.get(current_backend(), {}).get(op)


def backend_key() -> Hashable:
    """Returns a key of the active backend and its registered ops, for caches of CUDA graphs and compiled ops."""
    name = current_backend()
    return name, 0 if name in BACKENDS else _custom_ops.changes, torch_ops()


def torch_ops() -> frozenset[str]:
    """Returns the ops of ``SAM2FAST_TORCH_OPS``, names separated by commas. PyTorch computes these ops."""
    return _split(os.environ.get("SAM2FAST_TORCH_OPS", ""))


@functools.cache
def _split(names: str) -> frozenset[str]:
    return frozenset(filter(None, map(str.strip, names.split(","))))


# Marks the backend as a constant in graphs: a graph uses the backend that is active during tracing. The attribute has
# the effect of torch.compiler.assume_constant_result, without importing the compiler.
current_backend._dynamo_marked_constant = True  # type: ignore[attr-defined]


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Context manager that makes all ops of the calling thread use one backend.

    Raises:
        ValueError: If ``name`` is not ``auto``, ``torch``, ``triton`` or a registered backend.
    """
    token = _forced.set(_check_backend(name, "backend"))
    try:
        yield
    finally:
        _forced.reset(token)


def is_traced() -> bool:
    """Returns True in the tracers of torch.jit, torch.export and make_fx. Dispatch modes of users do not count."""
    if torch.jit.is_tracing():
        return True
    if not torch._C._len_torch_dispatch_stack():
        return False
    return any(getattr(mode, "_mode_key", None) is not None for mode in _get_current_dispatch_mode_stack())


def use_triton(op: str, *tensors: torch.Tensor, unsupported_reason: str | None = None) -> bool:
    """Returns True if the Triton kernel of ``op`` runs for these tensors.

    The backend ``auto`` uses kernels on supported GPUs, and the backend ``torch`` uses no kernels. With
    ``TRITON_INTERPRET=1``, the backend ``triton`` also runs kernels for CPU tensors, in Triton's interpreter. For ops
    that a registered backend does not implement, the backend acts like ``auto``.

    Args:
        unsupported_reason: Reason why the op's kernel does not support these inputs, for example "has no dropout", or
            None.

    Raises:
        RuntimeError: If the backend is ``triton`` and the kernel cannot run. A forced backend never falls back.
    """
    name = current_backend()
    if name == "torch":
        return False
    reason = unsupported_reason or _unsupported_reason(tensors, interpreter=name == "triton" and interpreting())
    if reason and name == "triton":
        raise RuntimeError(f"the backend is forced to 'triton', but {op} {reason}; use 'auto' or 'torch'")
    return reason is None


def why_no_triton(device: torch.device) -> str | None:
    """Returns the reason why Triton kernels cannot run on a CUDA device with the active backend, or None."""
    if current_backend() == "torch":
        return "the active backend is 'torch', and its connected components wait for the device"
    if "fill_holes_in_mask_scores" in torch_ops():
        return "SAM2FAST_TORCH_OPS has fill_holes_in_mask_scores, and torch's connected components wait for the device"
    return _triton_unsupported_reason() or _gpu_unsupported_reason(device)


def interpreting() -> bool:
    """Returns True if this process runs kernels in Triton's interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def why_no_scans() -> str | None:
    """Returns the reason why kernels with ``tl.associative_scan`` are not used, or None.

    Some builds of Triton for AMD compute scans across wavefronts incorrectly (ROCm/triton#947). On AMD GPUs, kernels
    with scans run only with the backend ``triton``.
    """
    if torch.version.hip is None or current_backend() == "triton":
        return None
    return "computes incorrect scans in some builds of Triton for AMD"


def count_launch(op: str) -> None:
    """Counts a launch of the kernel of ``op``, and logs the first launch."""
    with _launches_lock:
        is_first = op not in launches
        launches[op] += 1
    if is_first and not interpreting():
        _log.info("Triton compiles the kernel of %s for this GPU, unless the kernel is in Triton's cache", op)


def _unsupported_reason(tensors: tuple[torch.Tensor, ...], interpreter: bool) -> str | None:
    if missing := _triton_unsupported_reason():
        return missing
    if interpreter and all(tensor.is_cpu for tensor in tensors):
        if any(tensor.dtype == torch.bfloat16 for tensor in tensors) and not interpreter_supports_bfloat16:
            return "would be wrong: Triton's interpreter does not support bfloat16"
        return None
    if not all(tensor.is_cuda for tensor in tensors):
        devices = ", ".join(str(tensor.device) for tensor in tensors)
        return f"needs CUDA tensors (or TRITON_INTERPRET=1 and CPU tensors), got {devices}"
    return _gpu_unsupported_reason(tensors[0].device)


def _triton_unsupported_reason() -> str | None:
    version = _triton_version()
    if version is None:
        return f"needs the package triton, which {_why_absent}"
    if version < OLDEST_TRITON:
        required, installed = (".".join(map(str, v)) for v in (OLDEST_TRITON, version))
        return f"needs triton {required} or newer, but {installed} is installed"
    return None


def _triton_version() -> tuple[int, int] | None:
    return _find_triton()


def _gpu_unsupported_reason(device: torch.device) -> str | None:
    if torch.version.hip is not None:
        name = torch.cuda.get_device_properties(device).gcnArchName.partition(":")[0]
        if name not in AMD_GPUS:
            return f"supports only {', '.join(AMD_GPUS)} among AMD GPUs, but this GPU is {name}"
    elif (capability := torch.cuda.get_device_capability(device)) < OLDEST_GPU:
        return f"needs a GPU of compute capability 8.0 or higher, but this GPU has {capability[0]}.{capability[1]}"
    return _build_unsupported_reason()


@functools.cache
def _build_unsupported_reason() -> str | None:
    """Returns why Triton cannot build kernel launchers, or None. Finds compilers as ``triton.runtime.build`` does."""
    if sys.platform != "linux" or _has_builder():  # Triton needs a compiler only on Linux
        return None
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "needs a C compiler, since Triton compiles kernel launchers: install gcc, or set CC to a compiler"
    scheme = sysconfig.get_default_scheme()
    headers = sysconfig.get_paths("posix_prefix" if scheme == "posix_local" else scheme)["include"]
    if not os.path.exists(os.path.join(headers, "Python.h")):
        return f"needs Python's headers, since Triton compiles kernel launchers, but {headers} has no Python.h"
    return None


def _has_builder() -> bool:
    """Returns True if a custom build function is set in Triton, which Triton supports since 3.4."""
    import triton

    knobs = getattr(triton, "knobs", None)
    return knobs is not None and knobs.build.impl is not None


# torch.compile treats the results of these two functions as constants.
_triton_version._dynamo_marked_constant = True  # type: ignore[attr-defined]
_gpu_unsupported_reason._dynamo_marked_constant = True  # type: ignore[attr-defined]


_why_absent = "is not installed"


@functools.cache
def _find_triton() -> tuple[int, int] | None:
    global _why_absent
    if importlib.util.find_spec("triton") is None:
        return None
    try:
        import triton
    except Exception as error:  # Triton is broken; reference implementations do not need Triton
        _why_absent = f"cannot be imported ({type(error).__name__}: {error})"
        return None
    major, minor = map(int, triton.__version__.split(".")[:2])
    if (major, minor) < OLDEST_TRITON and torch.cuda.is_available():
        _log.warning(
            "sam2fast's kernels and CUDA graphs need triton %d.%d or newer, but %s is installed. PyTorch operations "
            "run instead. Install a newer torch, which includes a newer triton.", *OLDEST_TRITON, triton.__version__,
        )  # fmt: skip
    return major, minor

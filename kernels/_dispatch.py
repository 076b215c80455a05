"""Chooses between an op's reference implementation in torch and its Triton kernel."""

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

from sam2fast.kernels import _custom_ops

_log = logging.getLogger(__name__)

BACKENDS = _custom_ops.BUILT_IN
OLDEST_TRITON = (3, 2)
OLDEST_GPU = (8, 0)  # compute capability
# AMD's architectures that `make aot` compiles for.
AMD_GPUS = ("gfx942",)
# Types of devices with kernels; the backend ``triton`` also interprets them on the CPU.
KERNEL_DEVICES = ("cuda",)
# Dtypes that the floating-point kernels support.
FLOATS = (torch.float32, torch.bfloat16, torch.float16)

# Op -> number of kernel launches in this process. Tests use it to prove that a kernel ran.
launches: Counter[str] = Counter()
_launches_lock = threading.Lock()
# Triton's interpreter treats the bits of bfloat16 as integers. Tests fix it and set this.
interpreter_supports_bfloat16 = False

_forced: ContextVar[str | None] = ContextVar("sam2fast_backend", default=None)


def _check_backend(name: str, source: str) -> str:
    if name not in BACKENDS and name not in _custom_ops.registered:
        raise ValueError(f"{source} is {name!r}; expected one of {', '.join((*BACKENDS, *_custom_ops.registered))}")
    return name


def current_backend() -> str:
    """The active backend: the innermost :func:`backend` block, else ``SAM2FAST_BACKEND``, else ``auto``.

    Raises:
        ValueError: ``SAM2FAST_BACKEND`` is none of ``auto``, ``torch``, ``triton`` and the registered ones.
    """
    forced = _forced.get()
    if forced is not None:
        return forced
    name = os.environ.get("SAM2FAST_BACKEND", "auto")
    return name if name in BACKENDS else _check_backend(name, "SAM2FAST_BACKEND")


def implementation_of(op: str) -> _custom_ops.Implementation | None:
    """The implementation of ``op`` that is registered for the active backend, or None."""
    if not _custom_ops.registered:
        return None
    return _custom_ops.registered.get(current_backend(), {}).get(op)


def backend_key() -> Hashable:
    """What recorded or compiled ops depend on: the active backend, and what is registered for it."""
    name = current_backend()
    return name, 0 if name in BACKENDS else _custom_ops.changes


# What torch.compiler.assume_constant_result does, without importing the compiler: a graph is made for the backend that
# is active while it is traced.
current_backend._dynamo_marked_constant = True  # type: ignore[attr-defined]


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Context manager that forces a backend in the calling thread.

    Raises:
        ValueError: ``name`` is none of ``auto``, ``torch``, ``triton`` and the registered ones.
    """
    token = _forced.set(_check_backend(name, "backend"))
    try:
        yield
    finally:
        _forced.reset(token)


def use_triton(op: str, *tensors: torch.Tensor, unsupported_reason: str | None = None) -> bool:
    """Whether the Triton kernel of ``op`` runs for these tensors.

    ``auto`` uses it wherever it can run, that is on GPUs; ``torch`` never. ``triton`` also uses it for CPU tensors
    under Triton's interpreter (``TRITON_INTERPRET=1``). A registered backend acts like ``auto`` for ops that it does
    not implement.

    Args:
        unsupported_reason: why the op's kernel does not support these inputs, such as "has no dropout", or None.

    Raises:
        RuntimeError: the backend is ``triton`` and the kernel cannot run; a forced backend never falls back.
    """
    name = current_backend()
    if name == "torch":
        return False
    reason = unsupported_reason or _unsupported_reason(tensors, interpreter=name == "triton" and interpreting())
    if reason and name == "triton":
        raise RuntimeError(f"the backend is forced to 'triton', but {op} {reason}; use 'auto' or 'torch'")
    return reason is None


def why_no_triton(device: torch.device) -> str | None:
    """Why Triton kernels cannot run on a CUDA device, including the active backend, or None."""
    if current_backend() == "torch":
        return "the backend in force is 'torch', whose connected components wait for the device"
    if too_old := _triton_unsupported_reason():
        return too_old
    return _gpu_unsupported_reason(device)


def interpreting() -> bool:
    """Whether Triton runs kernels in its interpreter, on CPU tensors, in this process."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def why_no_scans() -> str | None:
    """Why kernels that scan across a whole program are not used, or None: on AMD GPUs only with the backend ``triton``.

    Some builds of Triton for AMD scan wrongly across wavefronts (ROCm/triton#947).
    """
    if torch.version.hip is None or current_backend() == "triton":
        return None
    return "scans wrongly in some builds of Triton for AMD"


def count_launch(op: str) -> None:
    """Counts a launch of the kernel of ``op``; called by its launcher."""
    with _launches_lock:
        is_first = op not in launches
        launches[op] += 1
    if is_first and not interpreting():
        _log.info("Triton compiles the kernel of %s for this GPU, unless its cache has it", op)


def _unsupported_reason(tensors: tuple[torch.Tensor, ...], interpreter: bool) -> str | None:
    if missing := _triton_unsupported_reason():
        return missing
    if interpreter and all(tensor.is_cpu for tensor in tensors):
        if any(tensor.dtype == torch.bfloat16 for tensor in tensors) and not interpreter_supports_bfloat16:
            return "would compute nonsense: Triton's interpreter does not know bfloat16"
        return None
    if not all(tensor.is_cuda for tensor in tensors):
        found = ", ".join(str(tensor.device) for tensor in tensors)
        return f"needs CUDA tensors (or TRITON_INTERPRET=1 and CPU tensors), and got {found}"
    return _gpu_unsupported_reason(tensors[0].device)


def _triton_unsupported_reason() -> str | None:
    version = _triton_version()
    if version is None:
        return f"needs the package triton, which {_why_absent}"
    if version < OLDEST_TRITON:
        wanted, found = (".".join(map(str, v)) for v in (OLDEST_TRITON, version))
        return f"needs triton {wanted} or newer, and {found} is installed"
    return None


def _triton_version() -> tuple[int, int] | None:
    return _find_triton()


def _gpu_unsupported_reason(device: torch.device) -> str | None:
    if torch.version.hip is not None:
        name = torch.cuda.get_device_properties(device).gcnArchName.partition(":")[0]
        if name not in AMD_GPUS:
            return f"is compiled for {', '.join(AMD_GPUS)} of AMD's GPUs alone, and this one is {name}"
    elif (capability := torch.cuda.get_device_capability(device)) < OLDEST_GPU:
        return f"needs a GPU of compute capability 8.0 or newer, and this one has {capability[0]}.{capability[1]}"
    return _build_unsupported_reason()


@functools.cache
def _build_unsupported_reason() -> str | None:
    """What Triton lacks to build its kernel launchers, looked up as ``triton.runtime.build`` does; else None."""
    if sys.platform != "linux" or _has_builder():  # elsewhere Triton has its own compiler
        return None
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "needs a C compiler, with which Triton builds what starts kernels: install gcc, or name one in CC"
    scheme = sysconfig.get_default_scheme()
    headers = sysconfig.get_paths("posix_prefix" if scheme == "posix_local" else scheme)["include"]
    if not os.path.exists(os.path.join(headers, "Python.h")):
        return f"needs Python's headers, with which Triton builds what starts kernels; no Python.h in {headers}"
    return None


def _has_builder() -> bool:
    """Whether a custom build function is set in Triton, which takes one from 3.4 on."""
    import triton

    knobs = getattr(triton, "knobs", None)
    return knobs is not None and knobs.build.impl is not None


# Also constants of a graph.
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
    except Exception as error:  # of a broken installation; the reference implementations work without Triton
        _why_absent = f"cannot be imported ({type(error).__name__}: {error})"
        return None
    major, minor = map(int, triton.__version__.split(".")[:2])
    if (major, minor) < OLDEST_TRITON and torch.cuda.is_available():
        _log.warning(
            "sam2fast's kernels and CUDA graphs need triton %d.%d or newer, and %s is installed: PyTorch computes "
            "instead. Install a newer torch, which brings a newer triton.", *OLDEST_TRITON, triton.__version__,
        )  # fmt: skip
    return major, minor

"""Chooses between an op's torch twin and its Triton kernel."""

import contextlib
import functools
import importlib.util
import os
import shutil
import sys
import sysconfig
import threading
from collections import Counter
from collections.abc import Hashable, Iterator
from contextvars import ContextVar

import torch

from sam2fast.kernels import _own_ops

BACKENDS = _own_ops.BUILT_IN
OLDEST_TRITON = (3, 6)
OLDEST_GPU = (8, 0)  # compute capability
# Ops that have a Triton kernel; every other op runs its torch twin, whatever backend is asked for.
KERNELS = frozenset(
    {
        "connected_components",
        "layer_norm",
        "linear_gelu",
        "mask_statistics",
        "memory_attention",
        "nms",
        "pack_masks",
        "preprocess",
        "rope_attention",
        "run_lengths",
        "suppress_overlaps",
        "unpack_masks",
        "upsample_and_pack",
        "upsample_and_threshold",
        "window_attention",
    }
)

# What the kernels that compute in floats take.
FLOATS = (torch.float32, torch.bfloat16, torch.float16)

# Op -> how often its kernel was launched in this process. Each launcher counts, so that tests can prove one ran.
launches: Counter[str] = Counter()
_launches_lock = threading.Lock()
# Triton's interpreter computes on the bits of bfloat16 as if they were integers; tests repair it and say so here.
interpreter_knows_bfloat16 = False

_forced: ContextVar[str | None] = ContextVar("sam2fast_backend", default=None)


def _known(name: str, source: str) -> str:
    if name not in BACKENDS and name not in _own_ops.registered:
        raise ValueError(f"{source} is {name!r}; expected one of {', '.join((*BACKENDS, *_own_ops.registered))}")
    return name


def current_backend() -> str:
    """The backend in force: the innermost :func:`backend` block, else ``SAM2FAST_BACKEND``, else ``auto``.

    Raises:
        ValueError: ``SAM2FAST_BACKEND`` is none of ``auto``, ``torch``, ``triton`` and the registered ones.
    """
    forced = _forced.get()
    return forced if forced is not None else _known(os.environ.get("SAM2FAST_BACKEND", "auto"), "SAM2FAST_BACKEND")


def implementation_of(op: str) -> _own_ops.Implementation | None:
    """The implementation of ``op`` that is registered for the backend in force, or None."""
    if not _own_ops.registered:
        return None
    return _own_ops.registered.get(current_backend(), {}).get(op)


def backend_key() -> Hashable:
    """What a recording of ops hangs on: the backend in force, and what is registered for it."""
    name = current_backend()
    return name, 0 if name in BACKENDS else _own_ops.changes


# What torch.compiler.assume_constant_result does, which would import the compiler with this module: a graph is made for
# the backend in force while it is traced.
current_backend._dynamo_marked_constant = True  # type: ignore[attr-defined]


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Forces one backend inside a ``with`` block, for the calling thread only.

    Raises:
        ValueError: ``name`` is none of ``auto``, ``torch``, ``triton`` and the registered ones.
    """
    token = _forced.set(_known(name, "backend"))
    try:
        yield
    finally:
        _forced.reset(token)


def use_triton(op: str, *tensors: torch.Tensor, obstacle: str | None = None) -> bool:
    """Whether the Triton kernel of ``op`` runs for these tensors.

    ``auto`` takes it wherever it can run, which is on GPUs; ``torch`` never. ``triton`` takes it also for CPU tensors
    under Triton's interpreter (``TRITON_INTERPRET=1``). An op without a kernel always runs its twin. A registered
    backend is like ``auto`` to the ops that it leaves alone.

    Args:
        obstacle: what the op itself knows to stand in the way, such as "has no dropout".

    Raises:
        RuntimeError: the backend is ``triton`` and the kernel cannot run; a forced backend never falls back.
    """
    name = current_backend()
    if name == "torch" or op not in KERNELS:
        return False
    obstacle = obstacle or _obstacle(tensors, interpreter=name == "triton" and interpreting())
    if obstacle and name == "triton":
        raise RuntimeError(f"the backend is forced to 'triton', but {op} {obstacle}; use 'auto' or 'torch'")
    return obstacle is None


def kernel_pays(*tensors: torch.Tensor | None) -> bool:
    """Whether a kernel without a gradient of its own is worth it for these inputs.

    Its gradient takes the torch twin: where one is wanted, the twin may as well be taken at once, unless the kernel is
    asked for.
    """
    if current_backend() == "triton" or not torch.is_grad_enabled():
        return True
    return not any(x is not None and x.requires_grad for x in tensors)


def why_no_triton(device: torch.device) -> str | None:
    """What keeps Triton kernels from running on a CUDA device, the backend in force included, or None."""
    if current_backend() == "torch":
        return "the backend in force is 'torch', whose connected components wait for the device"
    if too_old := _triton_obstacle():
        return too_old
    return _gpu_obstacle(device)


def interpreting() -> bool:
    """Whether Triton runs kernels in its interpreter, on CPU tensors, in this process."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def count_launch(op: str) -> None:
    """Called by a launcher when it launches the kernel of ``op``."""
    with _launches_lock:
        launches[op] += 1


def _obstacle(tensors: tuple[torch.Tensor, ...], interpreter: bool) -> str | None:
    if missing := _triton_obstacle():
        return missing
    if interpreter and all(tensor.is_cpu for tensor in tensors):
        if any(tensor.dtype == torch.bfloat16 for tensor in tensors) and not interpreter_knows_bfloat16:
            return "would compute nonsense: Triton's interpreter does not know bfloat16"
        return None
    if not all(tensor.is_cuda for tensor in tensors):
        found = ", ".join(str(tensor.device) for tensor in tensors)
        return f"needs CUDA tensors (or TRITON_INTERPRET=1 and CPU tensors), and got {found}"
    for tensor in tensors:
        if too_old := _gpu_obstacle(tensor.device):
            return too_old
    return None


def _triton_obstacle() -> str | None:
    version = _triton_version()
    if version is None:
        return f"needs the package triton, which {_why_absent}"
    if version < OLDEST_TRITON:
        wanted, found = (".".join(map(str, v)) for v in (OLDEST_TRITON, version))
        return f"needs triton {wanted} or newer, and {found} is installed"
    return None


def _triton_version() -> tuple[int, int] | None:
    return _find_triton()


def _gpu_obstacle(device: torch.device) -> str | None:
    capability = torch.cuda.get_device_capability(device)
    if torch.version.hip is None and capability < OLDEST_GPU:
        return f"needs a GPU of compute capability 8.0 or newer, and this one has {capability[0]}.{capability[1]}"
    return _build_obstacle()


@functools.cache
def _build_obstacle() -> str | None:
    """What Triton lacks to build what starts its kernels, once for each machine; as ``triton.runtime.build`` looks."""
    if sys.platform != "linux" or _has_builder():  # elsewhere Triton brings a compiler of its own
        return None
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "needs a C compiler, with which Triton builds what starts kernels: install gcc, or name one in CC"
    scheme = sysconfig.get_default_scheme()
    headers = sysconfig.get_paths("posix_prefix" if scheme == "posix_local" else scheme)["include"]
    if not os.path.exists(os.path.join(headers, "Python.h")):
        return f"needs Python's headers, with which Triton builds what starts kernels; no Python.h in {headers}"
    return None


def _has_builder() -> bool:
    """Whether somebody has given Triton another way to build."""
    from triton import knobs

    return knobs.build.impl is not None


# Constants of a graph too.
_triton_version._dynamo_marked_constant = True  # type: ignore[attr-defined]
_gpu_obstacle._dynamo_marked_constant = True  # type: ignore[attr-defined]


_why_absent = "is not installed"


@functools.cache
def _find_triton() -> tuple[int, int] | None:
    global _why_absent
    if importlib.util.find_spec("triton") is None:
        return None
    try:
        import triton
    except Exception as error:  # whatever a broken installation comes to; the torch twins work without it
        _why_absent = f"cannot be imported ({type(error).__name__}: {error})"
        return None
    major, minor = triton.__version__.split(".")[:2]
    return int(major), int(minor)

"""Chooses between an op's torch twin and its Triton kernel."""

import contextlib
import functools
import importlib.util
import os
from collections.abc import Iterator
from contextvars import ContextVar

import torch

BACKENDS = ("auto", "torch", "triton")
OLDEST_TRITON = (3, 6)
# Ops that have a Triton kernel; every other op runs its torch twin.
KERNELS: frozenset[str] = frozenset()

_forced: ContextVar[str | None] = ContextVar("sam2fast_backend", default=None)


def _known(name: str, source: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{source} is {name!r}; expected one of {', '.join(BACKENDS)}")
    return name


def current_backend() -> str:
    """The backend in force: the innermost :func:`backend` block, else ``SAM2FAST_BACKEND``, else ``auto``.

    Raises:
        ValueError: ``SAM2FAST_BACKEND`` is none of ``auto``, ``torch``, ``triton``.
    """
    forced = _forced.get()
    return forced if forced is not None else _known(os.environ.get("SAM2FAST_BACKEND", "auto"), "SAM2FAST_BACKEND")


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Forces one backend inside a ``with`` block, for the calling thread only.

    Raises:
        ValueError: ``name`` is none of ``auto``, ``torch``, ``triton``.
    """
    token = _forced.set(_known(name, "backend"))
    try:
        yield
    finally:
        _forced.reset(token)


def use_triton(op: str, *tensors: torch.Tensor) -> bool:
    """Whether the Triton kernel of ``op`` runs for these tensors.

    ``auto`` takes it wherever it can run, ``torch`` never.

    Raises:
        RuntimeError: the backend is ``triton`` and the kernel cannot run; a forced backend never falls back.
    """
    name = current_backend()
    if name == "torch":
        return False
    obstacle = _obstacle(op, tensors)
    if obstacle and name == "triton":
        raise RuntimeError(f"the backend is forced to 'triton', but {op} {obstacle}; use 'auto' or 'torch'")
    return obstacle is None


def _obstacle(op: str, tensors: tuple[torch.Tensor, ...]) -> str | None:
    if op not in KERNELS:
        return "has no Triton kernel in this version"
    version = _triton_version()
    if version is None:
        return "needs the package triton, which is not installed"
    if version < OLDEST_TRITON:
        return (
            f"needs triton {'.'.join(map(str, OLDEST_TRITON))} or newer, and {'.'.join(map(str, version))} is installed"
        )
    if not all(tensor.is_cuda for tensor in tensors):
        return f"needs CUDA tensors, and got {', '.join(str(tensor.device) for tensor in tensors)}"
    return None


@functools.cache
def _triton_version() -> tuple[int, int] | None:
    if importlib.util.find_spec("triton") is None:
        return None
    import triton

    major, minor = triton.__version__.split(".")[:2]
    return int(major), int(minor)

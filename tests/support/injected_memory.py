"""Failures within calls: memory that runs out at the k-th operation of torch, Ctrl-C at the k-th call."""

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import sam2fast

PACKAGE = Path(sam2fast.__file__).parent
FOLDERS = tuple(str(folder) for folder in (PACKAGE, (PACKAGE / "kernels").resolve()))


class Mishap(Exception):
    """An exception of the caller's own code."""


FAILURES: dict[str, Callable[[], BaseException]] = {
    "out of memory": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "allocator": lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    "signal": KeyboardInterrupt,
}


class FailingOps(TorchDispatchMode):
    """Counts torch's operations in this thread, and fails at number ``at``, if any, by a key of :data:`FAILURES`."""

    def __init__(self, at: int | None = None, failure: str = "out of memory") -> None:
        super().__init__()
        self.at, self.count = at, 0
        self._error = FAILURES[failure]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        number, self.count = self.count, self.count + 1
        if number == self.at:
            raise self._error()
        return func(*args, **(kwargs or {}))


class Signalled:
    """Counts the places where Python checks for signals in this thread, and raises at number ``at``, if any.

    These are beginnings of functions and returns from functions in C: ``with lock:`` is not interrupted inside.
    """

    def __init__(self, at: int | None = None) -> None:
        self.at, self.count = at, 0
        self.where = ""

    def __enter__(self) -> "Signalled":
        self._before = sys.getprofile()
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(self._before)

    def _profile(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        # Generator expressions are also entered to be closed, where exceptions are dropped.
        if event in ("call", "c_return") and code.co_filename.startswith(FOLDERS) and code.co_name != "<genexpr>":
            number, self.count = self.count, self.count + 1
            if number == self.at:
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                raise KeyboardInterrupt


def tensor_bytes() -> int:
    """Bytes of all tensors that are still referenced."""
    gc.collect()
    storages = {}
    for x in gc.get_objects():
        # Other kinds, such as those of torch.export and torch.compile, have no storage.
        is_plain = type(x) in (torch.Tensor, torch.nn.Parameter) and x.layout == torch.strided
        if is_plain and x.device.type != "meta":
            storage = x.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@contextmanager
def failing(kind: str, at: int | None) -> Iterator[Any]:
    """Context manager in which one of :data:`FAILURES` occurs at the place ``at``."""
    with Signalled(at) if kind == "signal" else FailingOps(at, kind) as place:
        yield place

"""The same numbers again: seeds for everything, and algorithms that do not depend on chance.

What is reproducible, and what cannot be, is in docs/devices.md.
"""

import os
import random
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

# cuBLAS gives the same sums in the same order only with a workspace of fixed size.
WORKSPACE_VARIABLE, WORKSPACE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
_OPEN = 2**64  # seeds are below
_blocks: list["_Block"] = []  # of deterministic() that are open, in the order in which they were entered
_entering = threading.RLock()


def seed_everything(seed: int) -> None:
    """Starts the global generators of Python, NumPy and torch anew, torch's on all devices.

    Inference draws nothing: it is for training, augmentation and code of one's own. CUDA is not started for it.

    Raises:
        ValueError: ``seed`` is negative, or 2**64 or more.
    """
    if not 0 <= seed < _OPEN:
        raise ValueError(f"the seed is {seed}; expected 0 to 2**64 - 1")
    import numpy as np
    import torch

    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def deterministic(*, warn_only: bool = False) -> Iterator[None]:
    """Inside, the same inputs give the same bits on the same machine with the same number of threads.

    Torch takes deterministic algorithms and fp32 products without TF32, and cuDNN does not try out which algorithm is
    fastest. An operation that has no deterministic algorithm raises; by torch's list of them inference has none.
    Afterwards every switch is what it was, also after an exception. The switches are the process's: other threads see
    them too, and they stay until the last thread has left its block.

    ``CUBLAS_WORKSPACE_CONFIG`` is set as well, but cuBLAS reads it once. Where CUDA has begun without it, a warning
    says so: set ``CUBLAS_WORKSPACE_CONFIG=:4096:8`` before Python starts, or enter this block before CUDA is used.
    Processes of :mod:`sam2fast.deploy.parallel` that are made inside are deterministic too.

    Args:
        warn_only: warn, rather than raise, where an operation has no deterministic algorithm.
    """
    import torch
    import torch.utils.deterministic

    if torch.cuda.is_initialized() and WORKSPACE_VARIABLE not in os.environ:
        warnings.warn(
            f"CUDA has begun without {WORKSPACE_VARIABLE}: products of matrices may differ in their last bits from run "
            f"to run; set {WORKSPACE_VARIABLE}={WORKSPACE} before Python starts",
            stacklevel=3,
        )
    block = _Block()
    try:
        with _entering:
            _blocks.append(block)
            _set_all(block.after, torch, warn_only)
        yield
    finally:
        _leave(block)


def is_deterministic() -> bool:
    """Whether a block of :func:`deterministic` is open."""
    return bool(_blocks)


class _Block:
    """What will have to be restored when a block is left."""

    def __init__(self) -> None:
        self.after = ExitStack()


def _leave(block: _Block) -> None:
    """Restores what was before the block, or leaves that to the one entered next, which may be another thread's."""
    with _entering:
        if block not in _blocks:  # Ctrl-C came before it was entered
            return
        place = _blocks.index(block)
        if place + 1 == len(_blocks):
            block.after.close()
        else:
            _blocks[place + 1].after = block.after
        _blocks.remove(block)


def _set_all(after: ExitStack, torch: Any, warn_only: bool) -> None:
    _set_variable(after)
    _set_algorithms(after, warn_only)
    if _old_switches_hold(torch):  # not allow_tf32, which torch takes for the new switch
        after.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision("highest")
    for owner, name, value in list(_switches(torch)):
        after.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)


def _switches(torch: Any) -> Iterator[tuple[Any, str, Any]]:
    """Where a switch is, its name, and how it has to be."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    yield cudnn, "benchmark", False
    yield cudnn, "deterministic", True
    yield matmul, "allow_bf16_reduced_precision_reduction", False
    yield matmul, "allow_fp16_reduced_precision_reduction", False
    yield from _tf32_switches(torch)
    # What torch.empty gives is read by nobody; filling it would only take time.
    yield torch.utils.deterministic, "fill_uninitialized_memory", False


def _tf32_switches(torch: Any) -> Iterator[tuple[Any, str, Any]]:
    """TF32 off in cuDNN and, by its new switch if that is in use, in products of matrices."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    if _old_switches_hold(torch):
        yield cudnn, "allow_tf32", False
    else:
        yield matmul, "fp32_precision", "ieee"
        yield cudnn.conv, "fp32_precision", "ieee"


def _old_switches_hold(torch: Any) -> bool:
    """Newer torch refuses to read its old switches once a new one has been set."""
    try:
        torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return False
    return True


def _set_algorithms(after: ExitStack, warn_only: bool) -> None:
    import torch

    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    after.callback(torch.use_deterministic_algorithms, before[0], warn_only=before[1])
    torch.use_deterministic_algorithms(True, warn_only=warn_only)


def _set_variable(after: ExitStack) -> None:
    before = os.environ.get(WORKSPACE_VARIABLE)
    if before is None:
        after.callback(os.environ.pop, WORKSPACE_VARIABLE, None)
        os.environ[WORKSPACE_VARIABLE] = WORKSPACE

"""Reproducible results: seeds and deterministic algorithms.

docs/devices.md says what is reproducible.
"""

import os
import random
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

# cuBLAS is deterministic only with a workspace of fixed size.
WORKSPACE_VARIABLE, WORKSPACE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
_SEED_LIMIT = 2**64  # exclusive
_blocks: list["_Block"] = []  # active deterministic() blocks, in the order of entry
_entering = threading.RLock()


def seed_everything(seed: int) -> None:
    """Seeds the global generators of Python, NumPy and torch, the latter on all devices.

    Inference uses no random numbers; training and augmentation do. This does not initialise CUDA.

    Raises:
        ValueError: ``seed`` is negative, or 2**64 or more.
    """
    if not 0 <= seed < _SEED_LIMIT:
        raise ValueError(f"the seed is {seed}; expected 0 to 2**64 - 1")
    import numpy as np
    import torch

    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def deterministic(*, warn_only: bool = False) -> Iterator[None]:
    """Inside the block, equal inputs give bit-identical results on the same machine with the same number of threads.

    torch uses deterministic algorithms and no TF32, and cuDNN does not benchmark algorithms. An operation without a
    deterministic algorithm raises; inference has none on torch's list. The settings are restored at the end, also after
    an exception. They are global: other threads see them, and they last until the last thread has left its block.

    ``CUBLAS_WORKSPACE_CONFIG`` is set as well, but cuBLAS reads it only once. If CUDA is already initialised without
    it, a warning is issued: set ``CUBLAS_WORKSPACE_CONFIG=:4096:8`` before Python starts, or enter this block before
    CUDA is used. Processes that :mod:`sam2fast.deploy.parallel` starts inside the block are deterministic, too.

    Args:
        warn_only: warn instead of raising for an operation without a deterministic algorithm.
    """
    import torch
    import torch.utils.deterministic

    if torch.cuda.is_initialized() and WORKSPACE_VARIABLE not in os.environ:
        warnings.warn(
            f"CUDA was initialised without {WORKSPACE_VARIABLE}: matrix multiplications may differ in their last bits "
            f"between runs; set {WORKSPACE_VARIABLE}={WORKSPACE} before Python starts",
            stacklevel=3,
        )
    block = _Block()
    try:
        with _entering:
            _blocks.append(block)
            _set_all(block.after, torch, warn_only)
        yield
    finally:
        # Restores the settings, or hands them to the block that was entered next, perhaps by another thread.
        with _entering:
            if block in _blocks:  # otherwise it was interrupted before it was entered
                position = _blocks.index(block)
                if position + 1 == len(_blocks):
                    block.after.close()
                else:
                    _blocks[position + 1].after = block.after
                _blocks.remove(block)


def is_deterministic() -> bool:
    """Whether a :func:`deterministic` block is active."""
    return bool(_blocks)


class _Block:
    """The settings to restore when a block ends."""

    def __init__(self) -> None:
        self.after = ExitStack()


def _set_all(after: ExitStack, torch: Any, warn_only: bool) -> None:
    """Sets everything, and registers with ``after`` what restores it."""
    if WORKSPACE_VARIABLE not in os.environ:
        after.callback(os.environ.pop, WORKSPACE_VARIABLE, None)
        os.environ[WORKSPACE_VARIABLE] = WORKSPACE
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    after.callback(torch.use_deterministic_algorithms, before[0], warn_only=before[1])
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    if _old_switches_hold(torch):  # not allow_tf32, which sets the new switch
        after.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision("highest")
    for owner, name, value in list(_switches(torch)):
        after.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)


def _switches(torch: Any) -> Iterator[tuple[Any, str, Any]]:
    """Owner, name and deterministic value of each setting."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    yield cudnn, "benchmark", False
    yield cudnn, "deterministic", True
    yield matmul, "allow_bf16_reduced_precision_reduction", False
    yield matmul, "allow_fp16_reduced_precision_reduction", False
    if _old_switches_hold(torch):
        yield cudnn, "allow_tf32", False
    else:
        yield matmul, "fp32_precision", "ieee"
        yield cudnn.conv, "fp32_precision", "ieee"
    # No code reads uninitialised memory; filling it would only take time.
    yield torch.utils.deterministic, "fill_uninitialized_memory", False


def _old_switches_hold(torch: Any) -> bool:
    """Whether the old TF32 settings are usable; torch refuses to read them once a new one has been set."""
    try:
        torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return False
    return True

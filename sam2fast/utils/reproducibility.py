"""Sets seeds and deterministic algorithms. docs/devices.md describes which results are reproducible."""

import os
import random
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

# cuBLAS is deterministic only with a workspace of fixed size.
WORKSPACE_VARIABLE, WORKSPACE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
_SEED_LIMIT = 2**64  # seeds are less than this limit
_blocks: list["_Block"] = []  # active deterministic() blocks, in order of entry
_entering = threading.RLock()


def seed_everything(seed: int) -> None:
    """Seeds the global random number generators of Python, NumPy and torch (on all devices).

    Training and augmentation use random numbers, but inference does not. This function does not initialise CUDA.

    Raises:
        ValueError: If ``seed`` is not in [0, 2**64 - 1].
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
    """Context manager for reproducible results: bitwise equal for equal inputs, machine and number of threads.

    Torch uses deterministic algorithms and no TF32, and cuDNN does not benchmark algorithms. Operations without a
    deterministic algorithm raise an error. Inference uses no such operations of torch's list. The settings are restored
    at the end of the block, also after an exception. Settings are global: they apply to all threads until the last
    thread leaves its block.

    The block sets ``CUBLAS_WORKSPACE_CONFIG``, but cuBLAS reads this variable only once. If CUDA was initialised
    without this variable, a warning is issued: set ``CUBLAS_WORKSPACE_CONFIG=:4096:8`` before Python starts, or enter
    this block before CUDA is used. Processes that :mod:`sam2fast.deploy.parallel` starts inside the block are also
    deterministic.

    Args:
        warn_only: If True, operations without a deterministic algorithm warn instead of raising an error.
    """
    import torch
    import torch.utils.deterministic

    if torch.cuda.is_initialized() and WORKSPACE_VARIABLE not in os.environ:
        warnings.warn(
            f"CUDA was initialised without {WORKSPACE_VARIABLE}: the last bits of matrix multiplications may differ "
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
        # Restores the settings. If another block was entered later, the later block restores the settings instead.
        with _entering:
            if block in _blocks:  # if False, an exception interrupted the entry
                position = _blocks.index(block)
                if position + 1 == len(_blocks):
                    block.after.close()
                else:
                    _blocks[position + 1].after = block.after
                _blocks.remove(block)


def is_deterministic() -> bool:
    """Returns True if a :func:`deterministic` block is active."""
    return bool(_blocks)


class _Block:
    """Stores the settings that are restored when a block ends."""

    def __init__(self) -> None:
        self.after = ExitStack()


def _set_all(after: ExitStack, torch: Any, warn_only: bool) -> None:
    """Changes all settings, and registers callbacks with ``after`` that restore the settings."""
    if WORKSPACE_VARIABLE not in os.environ:
        after.callback(os.environ.pop, WORKSPACE_VARIABLE, None)
        os.environ[WORKSPACE_VARIABLE] = WORKSPACE
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    after.callback(torch.use_deterministic_algorithms, before[0], warn_only=before[1])
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    if _old_switches_hold(torch):  # allow_tf32 is not changed, since it would set the new setting
        after.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision("highest")
    for owner, name, value in list(_switches(torch)):
        after.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)


def _switches(torch: Any) -> Iterator[tuple[Any, str, Any]]:
    """Yields owner, name and deterministic value of each setting."""
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
    # No code reads uninitialised memory, so filling this memory would waste time.
    yield torch.utils.deterministic, "fill_uninitialized_memory", False


def _old_switches_hold(torch: Any) -> bool:
    """Returns True if torch's old TF32 settings are readable. After a change of a new setting, they are not."""
    try:
        torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return False
    return True

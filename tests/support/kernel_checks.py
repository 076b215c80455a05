"""Samples of all ops, and results of a kernel, compared with the reference implementation of its op."""

from typing import Any

import torch
from interpreter import shuffled_programs
from kernel_records import RECORDS
from torch.utils._pytree import tree_leaves, tree_map

from sam2fast.kernels._dispatch import backend, launches
from sam2fast.utils.testing import relative_error

# Small calls of all ops, by name.
SAMPLES = {name: sample for record in RECORDS.values() for name, sample in record.samples.items()}
# The first sample of each torch operator, by the operator's name.
FIRST = {sample.operator or sample.launches: sample for sample in reversed(SAMPLES.values())}


def by_kernel(op: Any, *arguments: Any, name: str = "", launched: int = 1) -> Any:
    """Returns the result of the op ``name``'s kernel, which was launched, with its programs in random order."""
    name = name or op.launches
    before = launches[name]
    with backend("triton"), shuffled_programs(2):
        found = op(*arguments)
    assert launches[name] == before + launched
    return found


def in_float64(arguments: Any) -> Any:
    """Returns the arguments with float64 in the place of other floating dtypes."""

    def widened(x: Any) -> Any:
        if isinstance(x, torch.dtype):
            return torch.float64
        return x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x

    return tree_map(widened, arguments)


def as_accurate(op: Any, *arguments: Any, least: float = 1e-5, exact: Any = None) -> Any:
    """Returns the kernel's result, at most twice as far from float64 as the reference implementation.

    A relative error of ``least`` is always allowed. By default the reference computes what is ``exact``.
    """
    found, reference = by_kernel(op, *arguments), op.reference(*arguments)
    exact = op.reference(*in_float64(arguments)) if exact is None else exact
    for right, expected, one in zip(*map(tree_leaves, (exact, reference, found)), strict=True):
        assert (one.shape, one.dtype) == (expected.shape, expected.dtype) and one.is_contiguous()
        if one.numel() > 1:  # the rounding of one number may be exact by chance
            assert relative_error(right, one) <= max(least, 2 * relative_error(right, expected))
    return found

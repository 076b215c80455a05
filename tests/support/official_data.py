"""The official training data sets, importable without pandas (test-only)."""

import importlib.util
import sys
import types
from typing import Any

import numpy as np
import oracle  # noqa: F401  makes the official package importable
import torch._dynamo  # noqa: F401  which looks for pandas, and must not find the replacement

# The official data sets import pandas for one function; it is not otherwise needed here.
_NO_PANDAS = importlib.util.find_spec("pandas") is None
if _NO_PANDAS:
    pandas: Any = types.ModuleType("pandas")
    pandas.unique = np.unique
    sys.modules["pandas"] = pandas

from training.dataset import sam2_datasets, utils, vos_dataset, vos_raw_dataset, vos_sampler  # noqa: E402

if _NO_PANDAS:
    del sys.modules["pandas"]

__all__ = ["official_clips", "sam2_datasets", "utils", "vos_dataset", "vos_raw_dataset", "vos_sampler"]


def official_clips(raw: Any) -> list[Any]:
    """All of each video, as the original's ``VideoDatapoint``; masks are uint8."""
    return list(vos_dataset.VOSDataset([], False, raw, vos_sampler.EvalSampler(), 1))

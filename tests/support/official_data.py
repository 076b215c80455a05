"""The official training package, imported at the first use: it imports tensordict, which takes a second (test-only)."""

import importlib
import importlib.util
import sys
import types
from typing import Any

import numpy as np
import oracle  # noqa: F401  makes the official package importable


def load(name: str) -> Any:
    """Imports a module of the official package without pandas, which it needs for one function only."""
    if name in sys.modules or importlib.util.find_spec("pandas") is not None:
        return importlib.import_module(name)
    import torch._dynamo  # noqa: F401  looks for pandas, and must not find the replacement

    pandas: Any = types.ModuleType("pandas")
    pandas.unique = np.unique
    sys.modules["pandas"] = pandas
    try:
        return importlib.import_module(name)
    finally:
        del sys.modules["pandas"]


class Official:
    """Module of the official package that is imported when an attribute is read."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "pytestmark":  # of pytest, which looks at the names of test files
            raise AttributeError(name)
        return getattr(load(self._name), name)


data_utils, loss_fns = Official("training.utils.data_utils"), Official("training.loss_fns")
sam2, transforms = Official("training.model.sam2"), Official("training.dataset.transforms")
sam2_datasets, utils = Official("training.dataset.sam2_datasets"), Official("training.dataset.utils")
vos_dataset, vos_sampler = Official("training.dataset.vos_dataset"), Official("training.dataset.vos_sampler")
vos_raw_dataset = Official("training.dataset.vos_raw_dataset")


def official_clips(raw: Any) -> list[Any]:
    """All of each video, as the official ``VideoDatapoint``; masks are uint8."""
    return list(vos_dataset.VOSDataset([], False, raw, vos_sampler.EvalSampler(), 1))

"""What scripts share that set one part beside the official package's: the pair of predictors, and when they agree.

Whole calls are timed by the suite: ``make bench``.
"""

from typing import Any

from suite.machine import machine
from suite.subjects import Setting, image_predictor

__all__ = ["ALLOWED", "DTYPES", "machine", "predictors"]

DTYPES = ("fp32", "bf16")
# How far the features of the two may differ for a timing to count.
ALLOWED = {"fp32": 1e-4, "bf16": 1.0}


def predictors(size: str, dtype: str) -> dict[str, tuple[Any, bool]]:
    """Both image predictors on the same tame weights, and whether each computes under autocast."""
    pair = {name: image_predictor(name, Setting(size, dtype, 1024)) for name in ("official", "sam2fast")}
    return {name: (built.predictor, built.autocast) for name, built in pair.items()}

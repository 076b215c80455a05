"""Runs groups of rows and saves each as it comes."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from suite.plans import Group
from suite.schema import validate_row
from suite.timing import described, measure, opened


def run(groups: Sequence[Group], save: Callable[[dict[str, Any]], None] = lambda row: None) -> bool:
    """Measures the groups in turn.

    Args:
        save: is given each row as it comes, of the form that :mod:`suite.schema` describes.

    Returns:
        Whether all were measured, and no result was wrong and no subject failed.
    """
    right = True
    for group in groups:
        right &= _run_group(group, save)
        gc.collect()  # compiled functions refer to their models in circles
        if group.setting.device.startswith("cuda"):
            torch.cuda.empty_cache()
    return right


def _run_group(group: Group, save: Callable[[dict[str, Any]], None]) -> bool:
    # Least history first, so that each row has no more than it says; seven frames are tracked in any case.
    at = sorted(group.at, key=lambda pair: (pair[1] or 11, pair[0] or 0))
    right = True
    with opened(group.case, group.setting, group.subjects) as sessions:
        for objects, history in at:
            setting = replace(group.setting, objects=objects, history=history)
            row = measure(group.case, setting, group.runs, sessions, patience_s=group.patience_s)
            described(row)
            validate_row(row)
            save(row)
            notes = [subject["note"] for subject in row["subjects"].values()]
            right &= not any(note.startswith(("WRONG", "FAILED")) for note in notes)
            right &= "sam2fast" not in group.subjects or bool(row["subjects"]["sam2fast"]["samples_s"])
    return right

"""Runs groups of rows and saves each as it comes."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from suite.plans import Group
from suite.results import Results
from suite.schema import validate_row
from suite.timing import described, measure, opened


def run(
    groups: Sequence[Group],
    results: Results | None,
    limit_s: float = float("inf"),
    save: Callable[[dict[str, Any]], None] | None = None,
) -> bool:
    """Measures the groups in turn.

    Args:
        results: a file that rows go into; None for none.
        limit_s: after so many seconds no further group is begun; those left out are named.
        save: is given each row as it comes, of the form that :mod:`suite.schema` describes.

    Returns:
        Whether all were measured, and no result was wrong and no subject failed.
    """
    keepers = [keep for keep in (results and results.add, save) if keep is not None]
    start, right = time.perf_counter(), True
    for group in groups:
        if time.perf_counter() - start > limit_s:
            print(f"left out after {limit_s:.0f} s: {group.name}", flush=True)
            right = False
            continue
        right &= _run_group(group, keepers)
        gc.collect()  # compiled functions refer to their models in circles
        if group.setting.device.startswith("cuda"):
            torch.cuda.empty_cache()
    return right


def _run_group(group: Group, keepers: Sequence[Callable[[dict[str, Any]], None]]) -> bool:
    # Least history first, so that each row has no more than it says; seven frames are tracked in any case.
    at = sorted(group.at, key=lambda pair: (pair[1] or 11, pair[0] or 0))
    right = True
    with opened(group.case, group.setting, group.subjects) as sessions:
        for objects, history in at:
            setting = replace(group.setting, objects=objects, history=history)
            row = measure(group.case, setting, group.runs, sessions, patience_s=group.patience_s)
            described(row, lambda line: print(line, flush=True))
            validate_row(row)
            for keep in keepers:
                keep(row)
            notes = [subject["note"] for subject in row["subjects"].values()]
            right &= not any(note.startswith(("WRONG", "FAILED")) for note in notes)
            right &= "sam2fast" not in group.subjects or bool(row["subjects"]["sam2fast"]["samples_s"])
    return right

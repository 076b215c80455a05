"""Runs groups of rows and saves each as it comes."""

import gc
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from suite.plans import Group
from suite.results import Results
from suite.timing import described, measure, opened


def run(groups: Sequence[Group], results: Results | None, limit_s: float = float("inf")) -> bool:
    """Measures the groups in turn.

    Args:
        results: where rows go; none for printing only.
        limit_s: after so many seconds no further group is begun; those left out are named.

    Returns:
        Whether all were measured, and no result was wrong and no subject failed.
    """
    start, right = time.perf_counter(), True
    for group in groups:
        if time.perf_counter() - start > limit_s:
            print(f"left out after {limit_s:.0f} s: {group.name}", flush=True)
            right = False
            continue
        right &= _run_group(group, results)
        gc.collect()  # compiled functions refer to their models in circles
        if group.setting.device.startswith("cuda"):
            torch.cuda.empty_cache()
    return right


def _run_group(group: Group, results: Results | None) -> bool:
    # Least history first, so that each row has no more than it says; seven frames are tracked in any case.
    at = sorted(group.at, key=lambda pair: (pair[1] or 11, pair[0] or 0))
    right = True
    with opened(group.case, group.setting, group.subjects) as sessions:
        for objects, history in at:
            setting = replace(group.setting, objects=objects, history=history)
            row = measure(group.case, setting, group.runs, sessions, patience_s=group.patience_s)
            described(row, lambda line: print(line, flush=True))
            if results is not None:
                results.add(row)
            notes = [subject["note"] for subject in row["subjects"].values()]
            right &= not any(note.startswith(("WRONG", "FAILED")) for note in notes)
            right &= "sam2fast" not in group.subjects or bool(row["subjects"]["sam2fast"]["samples_s"])
    return right

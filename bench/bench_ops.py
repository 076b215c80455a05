"""Microbenchmarks of the ops under pytest-benchmark, one group per case of a kernel's record.

    pytest bench --benchmark-only

The ratio in brackets compares the subjects. Results are compared before they are timed.
"""

import pytest
import torch
from kernel_records import cases
from registry import check

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Minutes of torch's reference implementation on the CPU.
TOO_LONG = {"connected_components 1x1080x1920 bool", "connected_components 64x256x256 bool"}


def subjects():
    """Cases and the names of what is timed: inputs are made once more when a case runs."""
    for case in cases():
        if case.runs_on(DEVICE) and (case.name not in TOO_LONG or DEVICE.type == "cuda"):
            for subject in case.prepare(DEVICE):
                yield pytest.param(case, subject, id=f"{case.name}-{subject}")


def pytest_generate_tests(metafunc):
    metafunc.parametrize(("case", "subject"), list(subjects()))


def test_op(benchmark, case, subject):
    benchmark.group = case.name
    with torch.no_grad():
        calls = dict(case.prepare(DEVICE))
        # Whatever is timed, and what it is compared with.
        wanted = {name: call for name, call in calls.items() if name in (subject, next(iter(calls)))}
        calls = check(case, wanted, DEVICE)
        if subject not in calls:
            pytest.skip("does not take this shape here")

        def timed():
            calls[subject]()
            if DEVICE.type == "cuda":
                torch.cuda.synchronize()

        benchmark(timed)

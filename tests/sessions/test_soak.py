"""A short run of the soak: what a stream holds and answers does not depend on what went before; and its verdict."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from checkout import ROOT
from mini_model import mini_predictor

sys.path.append(str(ROOT / "tests" / "faults"))

from soak import Soak, complaints  # noqa: E402


@pytest.fixture(scope="module")
def soak() -> Iterator[Soak]:
    with mini_predictor(("++model.image_size=64",)).open_stream() as stream:
        run = Soak(stream, period=50, block=50)
        run.run(150)
        yield run


@pytest.mark.long
def test_every_period_has_the_same_answers(soak: Soak) -> None:
    assert len(soak.answers) == 3
    assert len(set(soak.answers)) == 1


@pytest.mark.long
def test_nothing_is_left_of_objects_that_went(soak: Soak) -> None:
    # The first period also fills caches.
    second, last = soak.blocks[1:]
    assert last["tensors"] == second["tensors"]
    assert last["tensors_mib"] == second["tensors_mib"]


FLAT = {
    "resident_mib": 477.0, "tensors": 447, "tensors_mib": 19.35, "processor_p50_ms": 30.0, "processor_p99_ms": 45.0
}  # fmt: skip


def blocks(**last: Any) -> list[dict[str, Any]]:
    """Synthetic: the first fills caches, and only the last may differ from the others."""
    first = FLAT | {"resident_mib": 400.0, "tensors": 440, "processor_p99_ms": 450.0}
    return [first, *[dict(FLAT)] * 3, FLAT | last]


def test_what_is_flat_is_not_complained_of() -> None:
    assert complaints(1, blocks()) == []
    # Others at work on the machine, and memory that was given back.
    assert complaints(1, blocks(processor_p50_ms=36.0, processor_p99_ms=80.0, resident_mib=480.5)) == []
    assert complaints(1, blocks(processor_p50_ms=3.0, resident_mib=300.0)) == []


def test_the_runs_that_were_kept_are_flat() -> None:
    paths = sorted((ROOT / "bench" / "results").glob("soak-cpu-*.json"))
    assert paths
    for path in paths:
        report = json.loads(path.read_text(encoding="utf-8"))
        assert complaints(report["different_answers"], report["blocks"]) == []


@pytest.mark.parametrize(
    ("answers", "last", "said"),
    [
        (2, {}, "2 different answers"),
        (1, {"tensors": 448}, "tensors is not the same"),
        (1, {"tensors_mib": 19.36}, "tensors_mib is not the same"),
        (1, {"resident_mib": 482.0}, "grew by 5.0 MiB"),
        (1, {"processor_p50_ms": 40.0}, "processor_p50_ms is 40.0"),
        (1, {"processor_p99_ms": 99.0}, "processor_p99_ms is 99.0"),
    ],
)
def test_what_is_not_flat_is_said(answers: int, last: dict[str, Any], said: str) -> None:
    (line,) = complaints(answers, blocks(**last))
    assert said in line


def test_tensors_that_come_back_to_their_number_are_seen_between() -> None:
    records = blocks()
    records[2] = FLAT | {"tensors": 500}
    assert complaints(1, records)

"""A short run of the soak: what a stream holds and answers does not depend on what went before; and its verdict."""

import sys
from typing import Any

import pytest
from checkout import ROOT
from mini_model import mini_predictor

sys.path.append(str(ROOT / "tests" / "faults"))

from soak import Soak, complaints  # noqa: E402


def test_every_period_has_the_same_answers_and_leaves_nothing() -> None:
    with mini_predictor(("++model.image_size=64",)).open_stream() as stream:
        soak = Soak(stream, period=50, block=50)
        soak.run(150)
    assert len(soak.answers) == 3 and len(set(soak.answers)) == 1
    # The first period also fills caches.
    second, last = soak.blocks[1:]
    assert [last[name] for name in ("tensors", "tensors_mib")] == [second[name] for name in ("tensors", "tensors_mib")]


FLAT = {
    "resident_mib": 477.0, "tensors": 447, "tensors_mib": 19.35, "processor_p50_ms": 30.0, "processor_p99_ms": 45.0
}  # fmt: skip


@pytest.mark.parametrize(
    ("answers", "last", "said"),
    [
        # Others at work on the machine, and memory that was given back.
        (1, {"processor_p50_ms": 36.0, "processor_p99_ms": 80.0, "resident_mib": 480.5}, None),
        (2, {}, "2 different answers"),
        (1, {"tensors": 448}, "tensors is not the same"),
        (1, {"resident_mib": 482.0}, "grew by 5.0 MiB"),
        (1, {"processor_p50_ms": 40.0}, "processor_p50_ms is 40.0"),
    ],
)
def test_what_is_not_flat_is_reported(answers: int, last: dict[str, Any], said: str | None) -> None:
    """Of blocks of which the first fills caches, and only the last may differ from the others."""
    first = FLAT | {"resident_mib": 400.0, "tensors": 440, "processor_p99_ms": 450.0}
    found = complaints(answers, [first, *[dict(FLAT)] * 3, FLAT | last])
    assert (said in found[0] and len(found) == 1) if said else found == []

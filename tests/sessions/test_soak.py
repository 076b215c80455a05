"""A short run of the soak: what a stream holds and answers does not depend on what went before; and its verdict."""

import sys

import pytest
from checkout import ROOT
from mini_model import mini_predictor

sys.path.append(str(ROOT / "tests" / "faults"))

from soak import Soak  # noqa: E402


@pytest.mark.long
def test_every_period_has_the_same_answers_and_leaves_nothing() -> None:
    with mini_predictor(("++model.image_size=64",)).open_stream() as stream:
        soak = Soak(stream, period=50, block=50)
        soak.run(150)
    assert len(soak.answers) == 3 and len(set(soak.answers)) == 1
    # The first period also fills caches.
    second, last = soak.blocks[1:]
    assert [last[name] for name in ("tensors", "tensors_mib")] == [second[name] for name in ("tensors", "tensors_mib")]

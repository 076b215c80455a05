"""A short run of the soak: what a stream holds and answers does not depend on what went before."""

from collections.abc import Iterator

import pytest
from mini_model import mini_predictor
from soak import Soak


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

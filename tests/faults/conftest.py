"""What several tests of threads begin with."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from mini_model import mini_model, mini_predictor


@pytest.fixture(scope="module")
def image_model() -> Any:
    return mini_model()


@pytest.fixture(scope="module")
def video_predictor() -> Any:
    return mini_predictor()


@pytest.fixture
def often() -> Iterator[None]:
    """Threads take turns a thousand times as often as usually."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)

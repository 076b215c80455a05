"""Fixtures of the tests of threads and of commands."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mini_model import mini_model, mini_predictor


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The folder that a command writes; it does not exist yet."""
    return tmp_path / "out"


@pytest.fixture(scope="module")
def image_model() -> Any:
    return mini_model()


@pytest.fixture(scope="module")
def video_predictor() -> Any:
    return mini_predictor()


@pytest.fixture
def often() -> Iterator[None]:
    """Threads switch a thousand times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)

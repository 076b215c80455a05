"""What tests of benchmarks begin with."""

import gc
import shutil

import pytest
from figure_results import RESULTS


@pytest.fixture(autouse=True)
def no_collections(monkeypatch):
    """Benchmarks free models before they go on; to visit all of pytest's objects takes half a second."""
    monkeypatch.setattr(gc, "collect", lambda generation=2: 0)


@pytest.fixture
def folder(tmp_path):
    """A copy of the result files, which a test may change."""
    return shutil.copytree(RESULTS, tmp_path / "results")

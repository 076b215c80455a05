"""What every test of figures begins with."""

import shutil

import pytest
from figure_results import RESULTS


@pytest.fixture
def folder(tmp_path):
    """A copy of the result files, which a test may change."""
    return shutil.copytree(RESULTS, tmp_path / "results")

"""What every test of figures begins with."""

import re
import shutil

import pytest
from figure_results import RESULTS
from figures.results import KINDS


@pytest.fixture
def folder(tmp_path):
    """A copy of the result files, to which others can be added; none of what has no file at first."""
    optional = [
        re.compile(KINDS[kind][0]) for kind in ("suite", "curves", "compile-modes", "transformers", "suite-gpu")
    ]
    (tmp_path / "results").mkdir()
    for path in RESULTS.glob("*.json"):
        if not any(pattern.match(path.name) for pattern in optional):
            shutil.copy(path, tmp_path / "results")
    return tmp_path / "results"

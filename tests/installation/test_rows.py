"""The matrix itself: its names exist, and errors of a row are reported and do not end the others."""

import sys
from pathlib import Path

import pytest
from checkout import ROOT

sys.path.append(str(Path(__file__).parent))  # whose modules are scripts

import rows_versions  # noqa: E402


@pytest.mark.parametrize("name", (*rows_versions.TESTS, *rows_versions.COPIED))
def test_tests_for_other_pythons_exist(name: str) -> None:
    assert (ROOT / name).exists()

"""The matrix itself: its names exist, and errors of a row are reported and do not end the others."""

import sys
from pathlib import Path

import pytest
from checkout import ROOT

sys.path.append(str(Path(__file__).parent))  # whose modules are scripts

import matrix  # noqa: E402
import places  # noqa: E402
import rows_versions  # noqa: E402


@pytest.mark.parametrize("name", (*rows_versions.TESTS, *rows_versions.COPIED))
def test_tests_for_other_pythons_exist(name: str) -> None:
    assert (ROOT / name).exists()


@pytest.mark.parametrize(
    ("error", "verdict", "code"),
    [
        (places.Unavailable("no setpriv"), matrix.ABSENT, 1),
        (places.Failure("smoke: no masks"), matrix.FAILED, 1),
        (ValueError("max() of nothing"), matrix.FAILED, 1),
        (None, matrix.OK, 0),
    ],
)
def test_any_exception_of_a_row_is_its_verdict(error, verdict, code, monkeypatch) -> None:
    def row(_: places.Place) -> str:
        if error:
            raise error
        return "well"

    monkeypatch.setitem(matrix.ROWS, "x", row)
    result = matrix.run_row("x", places.Place(Path("nowhere"), {}))
    assert result["verdict"] == verdict and str(error or "well") in result["said"]
    assert matrix.exit_code({"tested": matrix.OK, "x": verdict}, allow_absent=False) == code
    assert matrix.exit_code({"x": verdict}, allow_absent=True) == (verdict == matrix.FAILED)
    assert matrix.exit_code({"no-network": verdict}, allow_absent=False) == (verdict == matrix.FAILED)
    assert matrix.ROWS.keys() >= matrix.OPTIONAL

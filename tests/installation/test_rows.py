"""The matrix itself: its names exist, and errors of a row are reported and do not end the others."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT

sys.path.append(str(Path(__file__).parent))  # whose modules are scripts

import matrix  # noqa: E402
import places  # noqa: E402
import rows_versions  # noqa: E402


def place(*versions: str) -> places.Place:
    return places.Place(Path("nowhere"), {version: Path(sys.executable) for version in versions})


@pytest.mark.parametrize("name", (*rows_versions.TESTS, *rows_versions.COPIED))
def test_tests_for_other_pythons_exist(name: str) -> None:
    assert (ROOT / name).exists()


def test_python_3_11_is_taken_and_otherwise_the_newest() -> None:
    assert place("3.10", "3.11", "3.13").default_python == "3.11"
    assert place("3.9", "3.10", "3.12", "3.14").default_python == "3.12"
    assert place("3.10").newest_python == "3.10"
    for versions in ((), ("3.9", "3.14")):
        with pytest.raises(places.Unavailable, match=r"no Python 3\.10 to 3\.13"):
            _ = place(*versions).default_python


def test_the_supported_pythons_are_those_that_setup_allows() -> None:
    assert f'python_requires=">={places.SUPPORTED[0]}"' in (ROOT / "setup.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("error", "verdict", "said"),
    [
        (places.Unavailable("no setpriv"), matrix.ABSENT, "no setpriv"),
        (places.Failure("smoke: no masks"), matrix.FAILED, "smoke: no masks"),
        (subprocess.TimeoutExpired("pip", 1800), matrix.FAILED, "timed out after 1800 seconds"),
        (ValueError("max() of nothing"), matrix.FAILED, "ValueError: max() of nothing"),
    ],
)
def test_any_exception_of_a_row_is_its_verdict(
    error: Exception, verdict: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def row(_: places.Place) -> str:
        raise error

    monkeypatch.setitem(matrix.ROWS, "x", row)
    result = matrix.run_row("x", place())
    assert result["verdict"] == verdict and said in result["said"]


def rows(**verdicts: str) -> list[dict[str, Any]]:
    return [{"row": name.replace("_", "-"), "verdict": verdict} for name, verdict in verdicts.items()]


def test_rows_that_could_not_be_run_are_a_failure() -> None:
    assert matrix.exit_code(rows(tested=matrix.OK, no_network=matrix.ABSENT), allow_absent=False) == 0
    assert matrix.exit_code(rows(tested=matrix.OK, oldest=matrix.ABSENT), allow_absent=False) == 1
    assert matrix.exit_code(rows(tested=matrix.OK, oldest=matrix.ABSENT), allow_absent=True) == 0
    assert matrix.exit_code(rows(tested=matrix.FAILED, oldest=matrix.OK), allow_absent=True) == 1
    assert matrix.ROWS.keys() >= matrix.OPTIONAL


def test_without_any_python_every_row_says_so() -> None:
    for name in ("newest", "tested", "no-extras", "import-time"):
        assert matrix.run_row(name, place())["verdict"] == matrix.ABSENT

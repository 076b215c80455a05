"""The installed package under other conditions: rights, home, network, locale, flags. ``make matrix`` runs them.

Run in a folder with the scripts of this folder, by the Python of the environment. What needs rights or programs that
the machine lacks is skipped.
"""

import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = ("smoke.py", "foreign_words.py")
NO_RIGHTS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
STRANGER = ("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups")
OFFLINE = ("unshare", "--net")
# No variables for a home or a cache.
HOMELESS = {"HOME": None, "XDG_CACHE_HOME": None, "HF_HOME": None, "USER": None, "LOGNAME": None}
# The locale C without Python's help.
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
LATIN = "en_US.ISO-8859-1"
LIGHT = 60  # modules: some of Python's own, no numpy and no torch
IMPORT_RATIO = 1.5  # the import of a predictor may take so many times as long as that of torch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="setpriv and unshare are Linux's")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    for script in SCRIPTS:
        shutil.copy(script, tmp_path)
    return tmp_path


def run(
    work: Path, *arguments: str, env: dict[str, str | None] | None = None, prefix: Sequence[str] = ()
) -> "subprocess.CompletedProcess[str]":
    """Runs this Python; variables that are None are removed."""
    variables = {**os.environ, **(env or {})}
    return subprocess.run(
        [*prefix, sys.executable, *arguments],
        cwd=work,
        env={name: value for name, value in variables.items() if value is not None},
        capture_output=True,
        encoding="utf-8",
        errors="backslashreplace",
    )


def check(work: Path, *arguments: str, **conditions: Any) -> str:
    """The last line of the output of a script, which must succeed."""
    done = run(work, *arguments, **conditions)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1] if done.stdout else ""


def needs(*command: str) -> None:
    if shutil.which(command[0]) is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip(f"{' '.join(command)} does not work here")


def test_read_only(work: Path) -> None:
    """The environment is read-only, bytecode included."""
    needs(*NO_RIGHTS, "true")
    packages = Path(sys.prefix, "lib")
    before = sorted(map(str, packages.rglob("*")))
    subprocess.run(["chmod", "-R", "a-w", packages], check=True)
    try:
        check(work, "smoke.py", prefix=NO_RIGHTS)
    finally:
        subprocess.run(["chmod", "-R", "u+w", packages], check=True)
    assert sorted(map(str, packages.rglob("*"))) == before


@pytest.mark.parametrize("home", [None, "/nonexistent/home"])
def test_no_home(work: Path, home: str | None) -> None:
    check(work, "smoke.py", env={**HOMELESS, "HOME": home})


def test_unknown_user(work: Path) -> None:
    """A user of whom the system knows nothing."""
    needs(*STRANGER, "true")
    for folder in (work, *work.parents):  # pytest's folders are for one user
        if folder.name.startswith(("pytest-", "test_")):
            folder.chmod(0o777)
    nested = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import sam2fast'], check=True)"
    if "Permission denied" in run(work, "-c", nested, env=HOMELESS, prefix=STRANGER).stderr:
        pytest.skip("another user may not run this Python")
    check(work, "smoke.py", env=HOMELESS, prefix=STRANGER)


def test_no_network(work: Path) -> None:
    """A download reports its error in one line."""
    needs(*OFFLINE, "true")
    offline = {"env": {"HF_HOME": str(work / "hub"), "SAM2FAST_CACHE": str(work / "cache")}, "prefix": OFFLINE}
    check(work, "smoke.py", **offline)
    done = run(work, "-m", "sam2fast", "download", "tiny", "--quiet", **offline)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize("streams", [None, "ascii:strict"])
def test_ascii_locale(work: Path, streams: str | None) -> None:
    """Names of files and objects in other scripts, encoded as UTF-8 on the disk."""
    for script in SCRIPTS:
        check(work, script, env={**ASCII, "PYTHONIOENCODING": streams})


def test_latin_locale(work: Path) -> None:
    """A locale of ISO 8859-1, as old systems have it."""
    if shutil.which("localedef") is None:
        pytest.skip("no localedef")
    made = subprocess.run(["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(work / LATIN)], capture_output=True)
    if made.returncode > 1:
        pytest.skip("localedef cannot make the locale")
    for script in SCRIPTS:
        check(work, script, env={"LOCPATH": str(work), "LC_ALL": LATIN, "PYTHONUTF8": "0"})


def test_optimized(work: Path) -> None:
    """No asserts, no docstrings; and bad input is still refused."""
    check(work, "smoke.py", env={"PYTHONOPTIMIZE": "2"})


def test_warnings_are_errors_at_import(work: Path) -> None:
    modules = "sam2fast.build_sam, sam2fast.sam2_image_predictor, sam2fast.sam2_video_predictor, sam2fast.cli"
    check(work, "-W", "error", "-X", "dev", "-c", f"import {modules}")


def test_isolated(work: Path) -> None:
    """Neither the folder nor the user's packages nor PYTHON variables."""
    (work / "torch.py").write_text("raise ImportError('of the folder')\n", encoding="utf-8")
    check(work, "-I", "smoke.py")


def test_import_time(work: Path) -> None:
    """The package alone is light, and a predictor takes little more time than torch; by medians of five."""

    def imported(statement: str) -> tuple[float, int]:
        """Milliseconds and number of the modules after those of Python's own start."""
        lines = run(work, "-X", "importtime", "-c", statement).stderr.splitlines()
        rows = [line.split("|") for line in lines if re.match(r"import time: +\d", line)]
        rows = rows[[row[2].strip() for row in rows].index("site") + 1 :]
        return sum(int(row[0].removeprefix("import time:")) for row in rows) / 1e3, len(rows)

    assert imported("import sam2fast")[1] < LIGHT
    statements = ("import torch", "from sam2fast import SAM2ImagePredictor")
    torch, predictor = (statistics.median(imported(s)[0] for _ in range(5)) for s in statements)
    assert predictor < IMPORT_RATIO * torch

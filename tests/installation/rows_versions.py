"""Rows about versions of Python and of the dependencies, and about missing packages."""

import shutil
from functools import partial
from pathlib import Path

from places import HERE, OLDEST, TESTED, Environment, Place, checked, expect, told

EVERYTHING = "hub,video,train,adapters,profile,cluster,eval,serve"
TEST_TOOLS = ("pytest", "pytest-xdist", "hypothesis", "wheel", "build")
# A part of the suite that covers every layer and every fast kind of test, in a minute or two.
TESTS = (
    *("tests/kernels/test_connected_components.py", "tests/kernels/test_mask_ops.py", "tests/test_transforms.py"),
    *("tests/predictors/test_image_parity.py", "tests/predictors/test_video_state.py", "tests/io/test_rle.py"),
    *("tests/checkpoints/test_loading.py", "tests/io/test_overlay.py", "tests/cli/test_env.py"),
    *("tests/video_io/test_reading.py", "tests/api", "tests/sessions/test_wrong_calls.py"),
    *("tests/properties/test_run_lengths.py", "tests/security/test_hostile_files.py"),
    "tests/faults/test_concurrent_use.py",
)
# Files that these tests need besides the installed package.
COPIED = ("tests", "bench", "docs", "README.md", "pyproject.toml")
OLDEST_PYTHON = "3.10"


def tested(place: Place) -> str:
    """The versions of constraints.txt."""
    return told(place.tested.smoke(place.work("tested")))


def on_python(name: str, python: str | None, constraints: Path | None, place: Place) -> str:
    """All extras and a slice of the tests on this Python, by default the newest supported one of this machine."""
    with place.environment(name, python or place.newest_python, EVERYTHING, constraints) as environment:
        facts = environment.smoke(place.work(name))
        return f"{told(facts)}; {_tests(place, environment, name, constraints)}"


def _tests(place: Place, environment: Environment, name: str, constraints: Path | None) -> str:
    """A slice of the tests against the installed wheel: the copy that they lie in has no package of its own."""
    environment.pip("install", *TEST_TOOLS, constraints=constraints)
    environment.pip("install", "--no-deps", "--no-build-isolation", "-r", HERE.parent / "oracle.txt")
    copy = place.work(f"{name}-tests")
    for name in COPIED:
        source = place.checkout / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
    options = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=short", "--capture=sys")
    return checked(environment.run(*options, *TESTS, cwd=copy)).splitlines()[-1].strip("= ")


def no_triton(place: Place) -> str:
    """Without Triton, as on Windows, macOS and ARM; then with a Triton that fails to import."""
    with place.environment("no-triton", constraints=TESTED) as environment:
        environment.pip("uninstall", "--yes", "triton")
        absent = environment.smoke(place.work("no-triton"))
        expect(absent["triton"] is False, "triton is still there")
        broken = next((environment.folder / "lib").glob("python3.*")) / "site-packages" / "triton"
        broken.mkdir()
        (broken / "__init__.py").write_text("raise ImportError('this triton cannot be imported')\n", encoding="utf-8")
        present = environment.smoke(place.work("no-triton"))
        return f"absent: {absent['backend']}; broken: {present['backend']}"


def no_extras(place: Place) -> str:
    """The core only: each feature that needs an extra names it in one line."""
    with place.environment("no-extras", constraints=TESTED) as environment:
        facts = environment.smoke(place.work("no-extras"))
        return f"{told(facts)}; {environment.script('missing_extras.py', place.work('no-extras'))}"


ROWS = {
    "tested": tested,
    "newest": partial(on_python, "newest", None, None),  # the newest releases of everything
    "oldest": partial(on_python, "oldest", OLDEST_PYTHON, OLDEST),
    **{f"python-{v}": partial(on_python, f"python-{v}", v, TESTED) for v in ("3.10", "3.12", "3.13")},
    "no-triton": no_triton,
    "no-extras": no_extras,
}

"""Installs the wheel in many environments and checks that it works in each: ``make matrix ROWS="oldest no-extras"``."""

import shutil
import sys
from pathlib import Path
from zipfile import ZipFile

import nox

ROOT = Path(__file__).parent
sys.path.append(str(ROOT / "tests" / "support"))

from checkout import copy_checkout  # noqa: E402

CHECKS = ROOT / "tests" / "installation"
DIST = ROOT / "out" / "matrix"
TESTED, OLDEST = ROOT / "constraints.txt", CHECKS / "oldest.txt"
EXTRAS = "hub,video,images,train,adapters,polygons,detections,cluster,onnx,eval,serve,medical,cvat,label-studio,mcp"
# Tests of every layer, which take a minute or two, and what they need besides the installed package.
TESTS = (
    *("tests/kernels/test_connected_components.py", "tests/kernels/test_mask_ops.py", "tests/test_transforms.py"),
    *("tests/predictors/test_image_parity.py", "tests/predictors/test_video_state.py", "tests/io/test_rle.py"),
    *("tests/checkpoints/test_loading.py", "tests/io/test_overlay.py", "tests/cli/test_env.py"),
    *("tests/video_io/test_reading.py", "tests/api", "tests/sessions/test_wrong_calls.py"),
    *("tests/properties/test_run_lengths.py", "tests/security/test_hostile_files.py"),
    "tests/faults/test_concurrent_use.py",
)
COPIED = ("tests", "bench", "docs", "README.md", "pyproject.toml")

nox.needs_version = ">=2024.4"
nox.options.default_venv_backend = "venv"


@nox.session
def wheel(session: nox.Session) -> None:
    """The wheel of the other sessions, and an sdist that makes the same wheel; twine accepts both."""
    shutil.rmtree(DIST, ignore_errors=True)
    session.install("build", "twine")
    session.run("python", "-m", "build", "--outdir", DIST, ROOT)  # the wheel is made of the sdist
    session.run("python", "-m", "build", "--wheel", "--outdir", DIST / "of_checkout", ROOT)
    session.run("twine", "check", "--strict", *DIST.glob("sam2fast-*"))
    ours, theirs = ({(f.filename, f.CRC) for f in ZipFile(path).infolist()} for path in DIST.rglob("*.whl"))
    if differing := {name for name, _ in ours ^ theirs if not name.endswith(("RECORD", "WHEEL"))}:
        session.error(f"the wheels of the sdist and of the checkout differ in {sorted(differing)}")


@nox.session(requires=["wheel"])
def surroundings(session: nox.Session) -> None:
    """Without rights, home or network; in other locales; with Python's flags; without symbolic links."""
    install(session, "video", TESTED)
    session.install("pytest")
    run_alone(session, "-m", "pytest", "-p", "no:cacheprovider", "surroundings.py", "-rs")


@nox.session(requires=["wheel"])
def newest(session: nox.Session) -> None:
    """The newest releases of everything that pyproject.toml and setup.py allow."""
    install_and_test(session)


@nox.session(requires=["wheel"], python="3.10")
def oldest(session: nox.Session) -> None:
    """The oldest releases of everything that pyproject.toml and setup.py allow."""
    install_and_test(session, OLDEST)


@nox.session(requires=["wheel"], python=["3.10", "3.12", "3.13"])
def python(session: nox.Session) -> None:
    """The versions of constraints.txt on other Pythons."""
    install_and_test(session, TESTED)


@nox.session(name="no-triton", requires=["wheel"])
def no_triton(session: nox.Session) -> None:
    """Without Triton, as on Windows, macOS and ARM, and with a Triton that cannot be imported."""
    install(session, "", TESTED)
    session.run("pip", "uninstall", "--yes", "triton")
    run_alone(session, "smoke.py")
    (broken,) = Path(session.virtualenv.location).glob("lib/python3.*/site-packages")
    (broken / "triton").mkdir()
    (broken / "triton/__init__.py").write_text("raise ImportError('this triton cannot be imported')\n")
    run_alone(session, "smoke.py")


@nox.session(name="no-extras", requires=["wheel"])
def no_extras(session: nox.Session) -> None:
    """The core alone: each feature that needs an extra names it in one line."""
    install(session, "", TESTED)
    run_alone(session, "missing_extras.py")


@nox.session(name="no-symlinks", requires=["wheel"])
def no_symlinks(session: nox.Session) -> None:
    """A clone with core.symlinks=false: installed, installed as editable, and imported where it lies."""
    copy = Path(session.create_tmp()).resolve() / "clone"
    shutil.rmtree(copy, ignore_errors=True)
    if not copy_checkout(copy, symlinks=False):
        session.error("this needs a checkout of git")
    build = "from sam2fast import build_sam2; build_sam2('sam2fast_nano', None, device='cpu')"
    session.install("-c", TESTED, copy)
    run_alone(session, "smoke.py")
    session.install("--no-deps", "-e", copy)
    run_alone(session, "-c", build)
    session.run("pip", "uninstall", "--yes", "sam2fast")
    run_alone(session, "-c", f"import sys; sys.path.insert(0, {str(copy)!r}); {build}")


def install(session: nox.Session, extras: str, constraints: Path | None) -> None:
    """Installs the wheel."""
    (file,) = DIST.glob("*.whl")
    bounds = ("-c", constraints) if constraints else ()
    session.install("--no-compile", *bounds, f"{file}[{extras}]" if extras else file)


def run_alone(session: nox.Session, *arguments: str | Path) -> None:
    """Runs Python in an empty folder with the scripts of tests/installation, so that it finds the installed package."""
    folder = Path(session.create_tmp()) / "alone"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for script in ("smoke.py", "missing_extras.py", "foreign_words.py", "surroundings.py"):
        shutil.copy(CHECKS / script, folder)
    with session.chdir(folder):
        session.run("python", *arguments, env={"OMP_NUM_THREADS": "1", "PYTHONPATH": None})


def install_and_test(session: nox.Session, constraints: Path | None = None) -> None:
    """All extras, and a part of the tests against the installed wheel."""
    install(session, EXTRAS, constraints)
    run_alone(session, "smoke.py")
    bounds = ("-c", constraints) if constraints else ()
    session.install(
        *bounds, "pytest", "pytest-xdist", "hypothesis", "opencv-python-headless", "wheel", "build", "setuptools"
    )
    session.install("--no-deps", "--no-build-isolation", "-r", ROOT / "tests/oracle.txt", env={"SAM2_BUILD_CUDA": "0"})
    folder = Path(session.create_tmp()) / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    for name in COPIED:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    with session.chdir(folder):
        session.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS, env={"OMP_NUM_THREADS": "1"})


if __name__ == "__main__":
    sys.exit(nox.main())

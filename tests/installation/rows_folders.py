"""Rows about the package's location and installation: unusual paths, missing symlinks, sdist and wheel."""

import shutil
import tarfile
import zipfile
from pathlib import Path

from places import LINKS, TESTED, Environment, Place, checked, copy_checkout, expect, run, told

ODD = "some Ünusual folder, пример"


def odd_path(place: Place) -> str:
    """Environment, inputs and outputs in a folder with spaces and other scripts."""
    with place.environment(f"{ODD}/environment", constraints=TESTED) as environment:
        return told(environment.smoke(place.work(ODD)))


def odd_checkout(place: Place) -> str:
    """``make demo`` in such a folder."""
    copy = place.work(f"make {ODD}")
    copy_checkout(copy)
    printed = checked(run("make", "demo", f"PYTHON={place.tested.folder / 'bin' / 'python'}", cwd=copy))
    written = sorted(path.name for path in (copy / "out" / "demo").iterdir())
    expect("tracked.json" in written, f"make demo wrote {written}")
    shutil.rmtree(copy)
    return printed.splitlines()[-1]


def no_symlinks(place: Place) -> str:
    """A clone with core.symlinks=false: installed, installed as editable, and imported where it lies."""
    copy = place.work("no-symlinks-clone")
    copy_checkout(copy, symlinks=False)
    expect(all((copy / "sam2fast" / name).is_file() for name in LINKS), "the links are still there")
    environment, work, said = place.tested, place.work("no-symlinks"), []
    environment.pip("uninstall", "--yes", "sam2fast")
    try:
        environment.pip("install", "--no-deps", copy)
        said.append(f"wheel: image {environment.smoke(work)['image']}")
        environment.pip("uninstall", "--yes", "sam2fast")
        environment.pip("install", "--no-deps", "-e", copy)
        said.append(f"editable: {_loads(environment, work)}")
        environment.pip("uninstall", "--yes", "sam2fast")
        said.append(f"bare: {_loads(environment, work, PYTHONPATH=str(copy))}")
    finally:
        environment.pip("install", "--no-deps", "--force-reinstall", place.wheel)
    return ", ".join(said)


def _loads(environment: Environment, work: Path, **variables: str) -> str:
    script = "from sam2fast import build_sam2; print(type(build_sam2('sam2fast_nano', None, device='cpu')).__name__)"
    return checked(environment.run("-c", script, cwd=work, env=variables)).strip()


def sdist(place: Place) -> str:
    """The wheel of the sdist holds what the wheel of the checkout holds, byte for byte; twine accepts both."""
    out = place.work("sdist-out")
    environment = place.tested
    environment.pip("install", "build", "setuptools")
    copy = place.work("sdist") / "checkout"
    shutil.copytree(place.checkout, copy, symlinks=True)  # the one that the wheel is of
    checked(environment.run("-m", "build", "--sdist", "--no-isolation", "--outdir", out, copy, cwd=out))
    (archive,) = out.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(out / "source", filter="data")
    (source,) = (out / "source").iterdir()
    environment.pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, source)
    (made,) = out.glob("*.whl")
    with zipfile.ZipFile(made) as first, zipfile.ZipFile(place.wheel) as second:
        ours, theirs = ({(file.filename, file.CRC) for file in wheel.infolist()} for wheel in (first, second))
    differing = {name for name, _ in ours ^ theirs if not name.endswith(("RECORD", "WHEEL"))}
    expect(not differing, f"the wheels differ in {sorted(differing)}")
    # Whether an index would accept them: complete metadata, and a description that renders.
    with place.environment("checker", install=False) as checker:
        checker.pip("install", "twine")
        said = checked(checker.run("-m", "twine", "check", "--strict", archive, made, cwd=out))
    expect(said.count("PASSED") == 2, f"twine check: {said}")
    return f"{len(ours)} files, {made.stat().st_size / 1e6:.1f} MB; twine check passed for both"


ROWS = {"odd-path": odd_path, "odd-checkout": odd_checkout, "no-symlinks": no_symlinks, "sdist": sdist}

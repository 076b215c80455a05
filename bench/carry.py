"""Fetches what a CUDA machine without a network may lack into ``.carry``, where ``bench/gpu.py`` finds it uninstalled.

    make carry

Packages of Python alone, unpacked: what reads configurations, and the official package without its CUDA extension. The
folder is ignored by git. Everything that travels, the files of the repository included, should stay below 64 MiB.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CARRIED = ROOT / ".carry"
MOST_MIB = 64.0
# The official package is the one that the tests compare with.
NAMES = ("hydra-core", "omegaconf", "antlr4-python3-runtime", "iopath", "portalocker", "sam2")


def main() -> int:
    pinned = _installed()
    CARRIED.mkdir(exist_ok=True)
    site = CARRIED / "site"
    shutil.rmtree(site, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run(
            [*command, "--wheel-dir", folder, *pinned], check=True, env={**os.environ, "SAM2_BUILD_CUDA": "0"}
        )
        for wheel in sorted(Path(folder).glob("*.whl")):
            if not wheel.stem.endswith("-none-any"):
                raise SystemExit(f"{wheel.name} is not of Python alone; it would not run on every machine")
            with zipfile.ZipFile(wheel) as file:
                file.extractall(site)
            print(f"{wheel.stat().st_size / 2**20:7.2f} MiB  {wheel.name}")
    carried, tree = _size(site), _tree()
    print(f"{carried:7.2f} MiB  {site.relative_to(ROOT)}, unpacked\n{tree:7.2f} MiB  the files of the repository")
    total = carried + tree
    print(f"{total:7.2f} MiB  altogether, of {MOST_MIB:.0f}")
    return 0 if total <= MOST_MIB else 1


def _installed() -> list[str]:
    """The packages at the versions that are installed here, which are those that the tests ran with."""
    from importlib.metadata import version

    return [f"{name}=={version(name)}" for name in NAMES]


def _size(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


def _tree() -> float:
    """MiB of what git does not ignore."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
    return sum((ROOT / name).lstat().st_size for name in listed if name and (ROOT / name).exists()) / 2**20


if __name__ == "__main__":
    sys.exit(main())

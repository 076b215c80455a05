"""Fetches what a CUDA machine without a network may lack into ``.carry``, where ``bench/gpu`` finds it uninstalled.

    make carry

The folder gets packages that read configurations, and the official package without its CUDA extension, all unpacked and
of Python alone. PyAV stays a wheel, a third of its unpacked size, which a visit unpacks. It is for Linux on x86-64 and
Python 3.12. The folder is ignored by git.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

CARRY = Path(__file__).resolve().parents[2] / ".carry"
SITE = CARRY / "site"
# The official package is the one that the tests compare with.
VIDEO, ITS_MACHINE = "av", ("--python-version", "3.12", "--platform", "manylinux_2_28_x86_64")
NAMES = ("hydra-core", "omegaconf", "antlr4-python3-runtime", "iopath", "portalocker", "sam2")


def main() -> None:
    pinned = [f"{name}=={version(name)}" for name in NAMES]  # what the tests ran with
    shutil.rmtree(CARRY, ignore_errors=True)
    CARRY.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", *ITS_MACHINE]
    subprocess.run([*command, "--dest", str(CARRY), f"{VIDEO}=={version(VIDEO)}"], check=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run(
            [*command, "--wheel-dir", folder, *pinned], check=True, env={**os.environ, "SAM2_BUILD_CUDA": "0"}
        )
        for wheel in sorted(Path(folder).glob("*.whl")):
            if not wheel.stem.endswith("-none-any"):
                raise SystemExit(f"{wheel.name} is not of Python alone; it would not run on every machine")
            with zipfile.ZipFile(wheel) as file:
                file.extractall(SITE)
            print(f"{wheel.stat().st_size / 2**20:7.2f} MiB  {wheel.name}")
    for wheel in CARRY.glob("*.whl"):
        print(f"{wheel.stat().st_size / 2**20:7.2f} MiB  {wheel.name}, packed")


if __name__ == "__main__":
    main()

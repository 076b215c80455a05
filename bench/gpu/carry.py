"""Fetches what a CUDA machine without a network may lack into ``.carry``, where ``bench/gpu`` finds it uninstalled.

    make carry

The folder gets packages that read configurations, and the official package without its CUDA extension, all unpacked and
of Python alone. A visit unpacks the wheel of PyAV, which is for Linux on x86-64 and takes 34 MiB. If this is too much
for the way to the machine, delete the wheel: steps that read files then read folders of JPEG files only. The folder is
ignored by git.
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
VIDEO, ITS_MACHINE = "av", ("--python-version", "3.11", "--platform", "manylinux_2_28_x86_64")
# The official package is the one that the tests compare with.
NAMES = ("hydra-core", "omegaconf", "antlr4-python3-runtime", "iopath", "portalocker", "sam2")


def main() -> None:
    pip = [sys.executable, "-m", "pip"]
    with tempfile.TemporaryDirectory() as folder:
        pinned = [f"{name}=={version(name)}" for name in NAMES]  # the versions of the tests
        command = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, *pinned]
        subprocess.run(command, check=True, env={**os.environ, "SAM2_BUILD_CUDA": "0"})
        command = [*pip, "download", "--quiet", "--no-deps", "--only-binary", ":all:", *ITS_MACHINE, "--dest", folder]
        subprocess.run([*command, f"{VIDEO}=={version(VIDEO)}"], check=True)
        shutil.rmtree(CARRY, ignore_errors=True)
        SITE.mkdir(parents=True)
        for wheel in sorted(Path(folder).glob("*.whl")):
            print(f"{wheel.stat().st_size / 2**20:7.2f} MiB  {wheel.name}")
            if wheel.name.startswith(f"{VIDEO}-"):
                shutil.move(wheel, CARRY)
            elif not wheel.stem.endswith("-none-any"):
                raise SystemExit(f"{wheel.name} is not of Python alone; it would not run on every machine")
            else:
                with zipfile.ZipFile(wheel) as file:
                    file.extractall(SITE)


if __name__ == "__main__":
    main()

"""Checks a user's typed script against the installed package. ``make lint`` runs this, since mypy is slow.

The package is copied into the site-packages of an environment without anything else of ours, beside links to its
dependencies; mypy uses its annotations because of ``py.typed``. The script passes ``--strict``, every type
that it reveals is the expected one, and names that do not exist are errors.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
SCRIPT = HERE / "typed_user.py"
WRONG = """
from sam2fast import build_sam3
from sam2fast.deploy.parallel import nothing
from sam2fast.datasets import nothing
from sam2fast.profiling import nothing
from sam2fast.build_sam import build_sam2, build_sam2_video_predictor
from sam2fast.sam2_image_predictor import SAM2ImagePredictor

build_sam2("x", devise=3, ckpt_path=4)
SAM2ImagePredictor(build_sam2("x")).predict(point_coords=open)
predictor = build_sam2_video_predictor("x")
predictor.propagate_in_video(3)
for a, b, c, d in predictor.propagate_in_video(predictor.init_state("x")): ...
"""
EXPECTED_ERRORS = (
    r'has no attribute "build_sam3"',
    *[r'has no attribute "nothing"'] * 3,
    r'"ckpt_path" to "build_sam2" has incompatible type "int"',
    r'"point_coords" to "predict"',
    r"propagate_in_video",
    r"values to unpack",
)
REVEAL = re.compile(r"reveal_type\(.*\)  # reveal: (.+)$")


def installed(folder: Path) -> Path:
    """A Python with the package and its dependencies."""
    venv.create(folder, symlinks=True)
    python = folder / "bin/python"
    asked = [str(python), "-c", "import site; print(site.getsitepackages()[0])"]
    site = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    import torch

    for entry in Path(torch.__file__).parents[1].iterdir():
        if not entry.name.startswith(("__editable__", "sam2")) and entry.suffix != ".pth":
            (site / entry.name).symlink_to(entry)
    shutil.copytree(ROOT / "sam2fast", site / "sam2fast", ignore=shutil.ignore_patterns("frontend", "__pycache__"))
    return python


def checked(python: Path, script: Path) -> list[str]:
    """mypy's output for a script."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--python-executable={python}"]
    cache = f"--cache-dir={ROOT / '.mypy_cache' / 'user'}"
    done = subprocess.run([*command, cache, script.name], capture_output=True, text=True, cwd=script.parent)
    return [line for line in done.stdout.splitlines() if line.startswith(script.name)]


def problems(told: list[str], text: str) -> list[str]:
    """Errors, and types that differ from those in the script."""
    found = [line for line in told if ": error:" in line]
    revealed = {int(line.split(":")[1]): line for line in told if "Revealed type is" in line}
    for number, line in enumerate(text.splitlines(), 1):
        if expected := REVEAL.search(line):
            actual = revealed.get(number, "nothing")
            if expected[1] not in actual:
                found.append(f"line {number}: expected {expected[1]}, mypy finds {actual}")
    return found


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = installed(folder / "environment")
        for script, text in (("user.py", SCRIPT.read_text(encoding="utf-8")), ("wrong.py", WRONG)):
            (folder / script).write_text(text, encoding="utf-8")
        wrong = problems(checked(python, folder / "user.py"), SCRIPT.read_text(encoding="utf-8"))
        errors = "\n".join(line for line in checked(python, folder / "wrong.py") if ": error:" in line)
        for pattern in set(EXPECTED_ERRORS):
            if len(re.findall(pattern, errors)) < EXPECTED_ERRORS.count(pattern):
                wrong.append(f"no error like {pattern!r} in a script that deserves it; there are:\n{errors}")
    print(*wrong, sep="\n") if wrong else print("a user's typed script passes mypy --strict")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())

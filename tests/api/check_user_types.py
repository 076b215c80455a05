"""Checks a user's typed script with ``mypy --strict`` against the installed package; ``make lint`` runs this.

The package is copied into the site-packages of an environment without anything else of ours, beside its dependencies.
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
# Parts of torch that no type of ours comes from, and that take mypy a third of its time.
CONFIG = """[mypy]
[mypy-torch._inductor.*,torch._dynamo.*,torch._functorch.*,torch._higher_order_ops.*,torch.ao.*,torch.onnx.*,torch.fx.*]
follow_imports = skip
"""
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
    shutil.copytree(ROOT / "sam2fast", site / "sam2fast", ignore=shutil.ignore_patterns("__pycache__"))
    return python


def checked(python: Path, script: Path) -> list[str]:
    """mypy's output for a script."""
    (script.parent / "mypy.ini").write_text(CONFIG, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", f"--python-executable={python}"]
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
        shutil.copy(SCRIPT, folder)
        wrong = problems(checked(python, folder / SCRIPT.name), SCRIPT.read_text(encoding="utf-8"))
    print(*wrong, sep="\n") if wrong else print("a user's typed script passes mypy --strict")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())

"""Every script of the benchmarks starts by itself, with nothing on Python's path but its own folder."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# PYTHONPATH hides what is missing, and aot.py wants the compiler.
SETTINGS = ("PYTHONPATH", "TRITON_INTERPRET")

# All in one interpreter, which forgets their modules in between: to load torch for each would take minutes.
PROGRAM = """
import runpy, sys
from pathlib import Path

own = [str(Path(folder).resolve()) for folder in ("bench", "examples", "tests")]
for script in map(Path, sys.argv[1:]):
    path = list(sys.path)
    sys.path[0] = str(script.parent.resolve())
    try:
        runpy.run_path(str(script))
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            print(f"{script}: {error}")
    except ImportError as error:
        print(f"{script}: {error}")
    sys.path[:] = path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(tuple(own)):
            del sys.modules[name]
"""


def test_every_script_finds_what_it_imports():
    folders = "bench", "bench/kernels", "bench/candidates", "examples", "examples/make_models"
    scripts = [str(file.relative_to(ROOT)) for folder in folders for file in sorted((ROOT / folder).glob("*.py"))]
    assert len(scripts) > 25
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    command = [sys.executable, "-c", PROGRAM, *scripts]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert (done.stdout, done.returncode) == ("", 0), done.stdout + done.stderr

"""Help and usage errors are quick: they need neither torch nor numpy."""

import subprocess
import sys

from sam2fast import __version__

# Command lines and exit codes.
CALLS = (
    ("--help", 0),
    ("--version", 0),
    ("segment --help", 0),
    ("segment x.png", 2),
    ("masks --help", 0),
    ("masks . --format x", 2),
    ("masks nowhere.png", 1),
    ("track --help", 0),
    ("track video.mp4", 2),
    ("track video.mp4 --format x", 2),
    ("track nowhere.mp4 --point 0,1,2,3", 1),
    ("vos --help", 0),
    ("evaluate-images --help", 0),
    ("evaluate-images . --clicks x", 2),
    ("evaluate-images nowhere", 1),
    ("demo --help", 0),
    ("demo --model large", 3),
    ("dataset --help", 0),
    ("env --help", 0),
)
CODE = """
import sys
from sam2fast.cli import main
for line in sys.argv[1:]:
    try:
        main(line.split(), prog_name="sam2fast")
    except SystemExit as stop:
        print("exit", stop.code, line)
    loaded = {"torch", "numpy"} & set(sys.modules)
    assert not loaded, (line, loaded)
"""


def test_help_and_usage_errors_need_no_torch(tmp_path):
    (tmp_path / "video.mp4").write_text("no video")
    command = [sys.executable, "-c", CODE, *(line for line, _ in CALLS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    exits = [line for line in done.stdout.splitlines() if line.startswith("exit ")]
    assert exits == [f"exit {code} {line}" for line, code in CALLS]
    assert f"sam2fast, version {__version__}" in done.stdout
    assert all(name in done.stdout for name in ("segment", "demo", "masks.json", "masks.jsonl", "extract", "--json"))

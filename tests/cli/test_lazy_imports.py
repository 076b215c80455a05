"""Help and usage errors need neither torch nor numpy. Choices written in the commands match the libraries."""

import subprocess
import sys
from importlib import import_module

import click

from sam2fast import __version__
from sam2fast.checkpoints import converting
from sam2fast.cli.convert import convert as convert_checkpoint
from sam2fast.cli.dataset import convert as convert_data_set
from sam2fast.cli.evaluate_images import evaluate_images
from sam2fast.datasets import conversion, layout, layout_registry, palette_masks
from sam2fast.evaluation.clicks import sources
from sam2fast.results.formats import FILES
from sam2fast.results.image_writers import FORMATS

track = import_module("sam2fast.cli.track")

# Command lines and exit codes. The first one imports every command.
CALLS = {
    "--help": 0,
    "--version": 0,
    "masks --help": 0,
    "track --help": 0,
    "segment x.png": 2,
    "masks . --format x": 2,
    "masks nowhere.png": 1,
    "find x.png --reference x.png": 2,
    "track video.mp4": 2,
    "track video.mp4 --format x": 2,
    "track nowhere.mp4 --point 0,1,2,3": 1,
    "evaluate-images . --clicks x": 2,
    "evaluate-images nowhere": 1,
    "demo --model large": 3,
    "dataset --help": 0,
    "download --list": 0,
}
CODE = """
import sys
from sam2fast.cli import main
for line in sys.argv[1:]:
    try:
        main(line.split(), prog_name="sam2fast")
    except SystemExit as stop:
        print("exit", stop.code, line)
    loaded = {"torch", "numpy", "ray", "flask", "gunicorn", "strawberry"} & set(sys.modules)
    assert not loaded, (line, loaded)
"""


def test_help_and_usage_errors_need_no_torch(tmp_path):
    (tmp_path / "video.mp4").write_text("no video")
    command = [sys.executable, "-c", CODE, *CALLS]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    exits = [line for line in done.stdout.splitlines() if line.startswith("exit ")]
    assert exits == [f"exit {code} {line}" for line, code in CALLS.items()]
    assert f"sam2fast, version {__version__}" in done.stdout
    assert all(name in done.stdout for name in ("segment", "demo", "masks.json", "masks.jsonl", "extract"))


def choices_of(command: click.Command) -> dict[str, tuple[str, ...]]:
    return {str(p.name): tuple(p.type.choices) for p in command.params if isinstance(p.type, click.Choice)}


def test_choices_match_the_libraries():
    assert choices_of(convert_data_set) == {
        "to": tuple(layout_registry.BY_NAME),
        "layout": tuple(layout_registry.BY_NAME),
        "masklets": layout.MASKLETS,
        "images": conversion.IMAGES,
        "overlaps": palette_masks.OVERLAPS,
    }
    assert choices_of(convert_checkpoint)["layout"] == converting.LAYOUTS
    assert {"coco", *FILES} == set(FORMATS)
    assert choices_of(evaluate_images)["format"] == ("auto", *sources.FORMATS)

"""``--jsonl``, ``--quiet`` and ``--progress`` in every command."""

import json
import re
import shlex
from pathlib import Path

import click
import moving_shapes
import numpy as np
import pytest
from PIL import Image

from sam2fast import nano
from sam2fast.cli import main

NANO = "--model nano --device cpu"
DOCUMENT = Path(__file__).parents[2] / "docs/commands.md"
ROW = re.compile(r"^\| `([a-z][a-z -]*)` \| [^|]+ \| ([^|]+?)(?:[;:,].*)? \|$", re.MULTILINE)
KEYS = {name: set(re.findall(r"`([^`]+)`", keys)) for name, keys in ROW.findall(DOCUMENT.read_text(encoding="utf-8"))}
# Command lines, and whether they have a progress bar.
LINES = [
    (f"segment image.png --point 5,5 {NANO}", True),
    (f"masks image.png --points-per-side 1 --pred-iou-thresh 0 --stability-score-thresh 0 {NANO}", True),
    (f"find image.png --reference image.png --mask labels/a.png {NANO}", True),
    (f"track frames --point 0,1,5,5 --format json,png {NANO}", True),
    (f"vos --videos videos --masks masks --out out {NANO}", True),
    ("evaluate --gt masks --pred masks --processes 1 --keep-first-and-last --csv scores.csv", False),
    (f"evaluate-images images --masks labels --clicks 1 {NANO}", True),
    ("synthesize --clips 1 --frames 1 --size 64 --out out", True),
    ("download nano", False),
    pytest.param(f"convert {shlex.quote(str(nano.WEIGHTS))} out.pt --overwrite", False, id="convert"),
    (f"compare image.png --point 5,5 --with dtype=bfloat16 --out out {NANO}", False),
    ("dataset show davis", False),
    ("dataset convert davis out --to ytvos", True),
    ("dataset extract --videos clips --out out", True),
    ("env", False),
    (f"export {NANO} --out out", False),
    (f"demo {NANO}", False),
]
ALWAYS_PRINTED = {"download"}


def commands_of(group: click.Group, before: str = "") -> dict[str, click.Command]:
    found = {}
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            found |= commands_of(command, f"{before}{name} ")
        else:
            found[f"{before}{name}"] = command
    return found


def test_every_command_has_the_options_and_documented_keys():
    commands = commands_of(main)
    commands.pop("mcp")  # its stdout is the protocol's
    for name, command in commands.items():
        assert {"--jsonl", "--quiet"} <= {flag for option in command.params for flag in option.opts}, name
    assert set(KEYS) == set(commands)


@pytest.mark.parametrize(("line", "has_bar"), LINES)
def test_outputs(run, inputs, line, has_bar, monkeypatch):
    monkeypatch.setattr("sam2fast.cli.demo_run.EVERY", 25)
    for name in ("encoder", "decoder"):
        monkeypatch.setattr(f"sam2fast.deploy.exported.artifact.export_{name}", lambda *_: None)
    save = lambda program, path: path.write_bytes(b"program")  # noqa: E731
    monkeypatch.setattr("sam2fast.deploy.exported.artifact.save_program", save)
    (inputs / "clips").mkdir()
    moving_shapes.write_video(inputs / "clips/a.mp4", moving_shapes.make_frames(2))
    words = shlex.split(line)
    name = next(name for name in sorted(KEYS, key=len, reverse=True) if line.startswith(f"{name} ") or line == name)
    quiet = run(*words, "--quiet")
    assert quiet.exit_code == 0 and quiet.stderr == "" and bool(quiet.stdout) == (name in ALWAYS_PRINTED)
    if (inputs / "out").exists():  # else some commands have nothing left to do
        (inputs / "out").rename(inputs / "before")
    lines = run(*words, "--jsonl", *(["--progress"] if has_bar else []))
    assert lines.exit_code == 0 and ("%|" in lines.stderr and "/s" in lines.stderr) == has_bar, lines.stderr
    records = [json.loads(text) for text in lines.stdout.splitlines()]
    keys = KEYS["segment"] - {"made_from"} | {"object"} if name == "demo" else KEYS[name]
    assert records and set(records[0]) == keys


def test_failures_are_lines_too(run, inputs):
    result = run("segment", "image.png", "nowhere.png", "--point", "5,5", "--jsonl", *NANO.split())
    failed, done = map(json.loads, result.stdout.splitlines())
    assert result.exit_code == 1 and failed == {"input": "nowhere.png", "error": "no file 'nowhere.png'"}
    assert done["image"] == "image.png"


def test_warnings_are_notes(run, inputs):
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(inputs / "dark.png")
    words = "segment", "dark.png", "--point", "3,3", *NANO.split()
    told = run(*words)
    assert told.stderr.count("sam2fast: note: the image is almost black") == 1 and "Warning" not in told.stderr
    assert run(*words, "--quiet").stderr == ""


def test_scores_have_the_digits_of_the_file(run, inputs):
    thresholds = "--points-per-side 2 --pred-iou-thresh 0 --stability-score-thresh 0"
    result = run("masks", "image.png", "--jsonl", *thresholds.split(), *NANO.split())
    annotations = json.loads((inputs / "out/masks.json").read_text())["annotations"]
    assert json.loads(result.stdout)["score"] == max(annotation["predicted_iou"] for annotation in annotations)


def test_the_warning_of_a_fallback_is_never_quiet(run, inputs):
    result = run("segment", "image.png", "--point", "5,5", "--quiet", "--device", "cpu", "--image-size", 256)
    assert result.exit_code == 0 and "THIS IS NOT SAM 2" in result.stderr and result.stdout == ""

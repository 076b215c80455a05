"""Commands with SAM 3: a small one, whose configuration and weights are files."""

import json

import pytest
from commands import invoke, ok
from PIL import Image
from profiled import LIMITS
from small_sam3 import CONFIG, write_small_sam3
from video import clip, jpeg_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sam3")
    write_small_sam3(path / "small_sam3.pt")
    jpeg_folder(path / "frames", clip(3))
    Image.fromarray(clip(1)[0]).save(path / "photo.png")
    return path


COMMANDS = {
    "segment": "photo.png --point 60,40",
    "masks": "photo.png --points-per-side 2",
    "track": "frames --point 0,1,60,40 --format json",
    "compare": "frames --point 0,1,60,40 --with strategy=samurai",
    "profile": "frames --frames 1 --depth 1",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sam2fast.profiling.run.measure_limits", lambda device, dtypes: LIMITS)
    out = [] if command == "profile" else ["--out", tmp_path / "out"]
    model = ["--model", CONFIG, "--checkpoint", "small_sam3.pt"]
    done = ok(invoke(command, *COMMANDS[command].split(), *model, *out, "--jsonl"))
    assert json.loads(done.stdout.splitlines()[0])["model"]["config"] == str(CONFIG)

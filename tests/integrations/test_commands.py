"""The commands that serve the adapters: what they refuse, and that Label Studio gets answers from a process."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import urllib.request

import pytest
from click.testing import CliRunner
from PIL import Image
from small_video import video_frames

from sam2fast.cli import main


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["label-studio", "--model", "nano", "--url", "localhost:8080"],
            1,
            "expected one such as http://localhost:8080",
        ),
        (["label-studio", "--model", "nano", "--images", "0"], 2, "--images"),
        (["mcp", "--model", "nano"], 2, "--root"),
        (["mcp", "--model", "nano", "--root", "missing"], 2, "does not exist"),
    ],
)
def test_what_cannot_be_used(arguments, code, message):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code and message in result.output


@pytest.mark.parametrize(("arguments", "package"), [(["label-studio"], "flask"), (["mcp", "--root", "."], "mcp")])
def test_a_missing_extra(arguments, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "sam2fast.integrations.mcp", raising=False)
    monkeypatch.setattr("sam2fast.cli.label_studio.find_spec", lambda name: None)
    result = CliRunner().invoke(main, [*arguments, "--model", "nano"])
    assert result.exit_code == 1 and f"pip install 'sam2fast[{arguments[0]}]'" in result.output


def test_label_studio_is_answered():
    code = "from sam2fast.cli import main; main()"
    options = ["--model", "nano", "--device", "cpu", "--port", "0", "--jsonl"]
    command = [sys.executable, "-c", code, "label-studio", *options]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        address = json.loads(server.stdout.readline())["address"]
        assert json.load(urllib.request.urlopen(f"{address}/health", timeout=60))["status"] == "UP"
        Image.fromarray(video_frames(1)[0]).save(file := io.BytesIO(), "png")
        image = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        tag = "BrushLabels"
        interface = f"<View><Image name='i' value='$i'/><{tag} name='m' toName='i'><Label value='disc'/></{tag}></View>"
        click = {"type": "keypointlabels", "to_name": "i", "value": {"x": 23, "y": 31, "keypointlabels": ["disc"]}}
        task = {"tasks": [{"data": {"i": image}}], "label_config": interface}
        body = json.dumps(task | {"params": {"context": {"result": [click]}}}).encode()
        asked = urllib.request.Request(f"{address}/predict", body, {"Content-Type": "application/json"})
        (found,) = json.load(urllib.request.urlopen(asked, timeout=60))["results"]
        assert found["result"][0]["value"]["rle"]
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) in (0, 143)
        server.stdout.close()

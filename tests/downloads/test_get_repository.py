"""Models of the Hugging Face hub, by huggingface_hub, from a server that imitates the hub."""

import json
import os
import subprocess
import sys

import pytest
from checkpoint_server import COMMIT, make_checkpoint

from sam2fast.build_sam import build_sam2_hf
from sam2fast.downloads import get_repository

DATA = make_checkpoint()
CONFIG = json.dumps({"model_type": "sam2_video"}).encode()


def get(repo, **environment):
    """Runs in a new process, which reads the environment; returns the last line of its output or error."""
    script = f"from sam2fast.downloads import get_repository; print(get_repository({repo!r}, quiet=True))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", **environment},
    )
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return lines[-1]


def test_weights_and_configuration(server, machine):
    for name, data in (("config.json", CONFIG), ("model.pt", DATA), ("README.md", b"hello"), ("more/x.pt", DATA)):
        server.add_to_hub("someone/fine-tune", name, data)
    folder = machine / "hugging/hub/models--someone--fine-tune/snapshots" / COMMIT
    assert get("someone/fine-tune") == str(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.pt"]
    assert (folder / "model.pt").read_bytes() == DATA and (folder / "config.json").read_bytes() == CONFIG
    for there in ({"SAM2FAST_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        assert get("someone/fine-tune", **there) == str(folder)


def test_safetensors_first(server, machine):
    for name in ("model.safetensors", "model.pt"):
        server.add_to_hub("someone/both", name, DATA)
    folder = machine / "hugging/hub/models--someone--both/snapshots" / COMMIT
    assert get("someone/both") == str(folder)
    assert [path.name for path in folder.iterdir()] == ["model.safetensors"]


def test_errors(server):
    server.add_to_hub("someone/empty", "README.md", b"hello")
    assert "DownloadError: the model someone/empty has no weights" in get("someone/empty")
    assert "DownloadError: the model someone/else could not be downloaded: " in get("someone/else")
    message = get("someone/x", SAM2FAST_OFFLINE="1")
    assert "DownloadError: the model someone/x is not in the cache of the Hugging Face hub, and downloads" in message
    assert message.endswith("SAM2FAST_OFFLINE is set, or --offline was given")


@pytest.mark.parametrize("repo", ["tiny", "a/b/c", "../x", "a/..", "a/b--c", ""])
def test_no_ids(repo):
    with pytest.raises(ValueError, match="expected 'owner/name'"):
        get_repository(repo)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (get_repository, build_sam2_hf):
        with pytest.raises(ImportError, match=r'someone/model is no official model, .*: pip install "sam2fast\[hub\]"'):
            call("someone/model")

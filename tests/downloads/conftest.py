from pathlib import Path

import huggingface_hub
import pytest
from checkpoint_server import CheckpointServer

from sam2fast.downloads import catalog, transfer


@pytest.fixture
def server():
    with CheckpointServer().running() as running:
        yield running


def _unreachable(**_):
    raise ConnectionError("no hub in tests")


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch, server) -> Path:
    """No checkpoints, an empty working folder, and the test server instead of Meta's server and the hub."""
    for name in (
        "SAM2FAST_CHECKPOINTS", "SAM2FAST_MIRROR", "SAM2FAST_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE",
        "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hugging"))
    monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/hub")
    monkeypatch.setenv("SAM2FAST_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("NO_PROXY", "*")
    for hub_id, release in list(catalog.RELEASES.items()):
        monkeypatch.setitem(catalog.RELEASES, hub_id, release._replace(url=f"{server.url}/meta/{release.checkpoint}"))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", _unreachable)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """Records the waits between attempts instead of sleeping."""
    waits: list[float] = []
    monkeypatch.setattr(transfer.time, "sleep", waits.append)
    return waits

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checkpoint_server import CheckpointServer

from sam2fast.downloads import names
from sam2fast.downloads.part_file import PartFile
from sam2fast.downloads.progress import Progress
from sam2fast.downloads.retries import Policy
from sam2fast.downloads.transfer import Remote, transfer


@pytest.fixture
def server():
    with CheckpointServer().running() as running:
        yield running


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch, server) -> Path:
    """A machine without checkpoints, where the hub and Meta's address are the server's; an empty working folder."""
    for name in (
        "SAM2FAST_CHECKPOINTS", "SAM2FAST_MIRROR", "SAM2FAST_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE",
        "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hugging"))
    monkeypatch.setenv("SAM2FAST_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/hub")
    monkeypatch.setenv("NO_PROXY", "*")
    for hub_id, release in list(names.RELEASES.items()):
        monkeypatch.setitem(names.RELEASES, hub_id, release._replace(url=f"{server.url}/meta/{release.checkpoint}"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


@pytest.fixture
def waits() -> list[float]:
    """The waits between attempts, which are not waited for."""
    return []


@pytest.fixture
def policy(waits) -> Policy:
    """Limits for a server on this machine."""
    return Policy(connect_timeout=5, stall_timeout=5, sleep=waits.append, draw=lambda: 0.0)


@pytest.fixture
def impatient(policy) -> Policy:
    """The same, for a server that stalls."""
    return replace(policy, stall_timeout=0.4)


@pytest.fixture
def fetch(tmp_path, server, policy):
    """Fetches ``/file.pt`` from the server to a file of that name."""

    def run(policy: Policy = policy, progress: Progress | None = None, **facts: Any) -> Path:
        remote = Remote(**({"name": "file.pt", "url": f"{server.url}/file.pt"} | facts))
        target = tmp_path / "to" / "file.pt"
        transfer(remote, PartFile(target, remote.url), policy, progress or Progress())
        return target

    return run


@pytest.fixture
def left(tmp_path):
    """The names in the folder that ``fetch`` writes to."""
    return lambda: sorted(path.name for path in (tmp_path / "to").glob("*"))

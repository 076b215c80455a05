"""A user whom the system does not know, without HOME: a container's, or a batch job's."""

import os

import pytest

from sam2fast import home
from sam2fast.checkpoints import find_weights
from sam2fast.downloads import DownloadError, find_checkpoint, get_checkpoint, settings

VARIABLES = ("HOME", "SAM2FAST_CACHE", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")


@pytest.fixture
def homeless(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as it is where nothing is known


def test_nothing_is_found_and_nothing_is_made(homeless, monkeypatch):
    before = os.listdir()
    for folder in (settings.own_cache(), settings.hub_home(), settings.hub_cache()):
        assert folder.is_relative_to(home.NOWHERE) and not folder.exists()
    assert find_checkpoint("tiny") is None
    with pytest.raises(FileNotFoundError, match="no home directory"):
        find_weights("~/model.pt")
    monkeypatch.setenv("SAM2FAST_MIRROR", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match="no home directory"):
        get_checkpoint("tiny", quiet=True)
    assert os.listdir() == before


def test_a_home_is_filled_in(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert home.expanded("~/a") == tmp_path / "a" and str(home.expanded("a/~")) == os.path.join("a", "~")

"""Meta's checkpoints by ``huggingface_hub.hf_hub_download``, also if a program replaces that function."""

import sys

import huggingface_hub
import pytest
import torch
from checkpoint_files import numbered_weights
from checkpoint_server import make_checkpoint
from huggingface_hub import errors

from sam2fast import SAM2AutomaticMaskGenerator, SAM2ImagePredictor, SAM2VideoPredictor
from sam2fast.downloads import DownloadError, get_from_hub

FILE, REPO = "sam2.1_hiera_tiny.pt", "facebook/sam2.1-hiera-tiny"
DATA = make_checkpoint(seed=0)


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """The calls of a program's function in the place of ``hf_hub_download``, and its file."""
    calls, file = [], tmp_path / "patched.pt"

    def patched(repo_id, filename, **kwargs):
        calls.append((repo_id, filename, kwargs))
        return str(file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", patched)
    return calls, file


def test_a_replaced_function_is_called(asked):
    calls, file = asked
    torch.save({"model": numbered_weights("sam2.1/sam2.1_hiera_t")}, file)
    for cls in (SAM2ImagePredictor, SAM2VideoPredictor, SAM2AutomaticMaskGenerator):
        cls.from_pretrained(REPO, device="cpu")
    assert calls == [(REPO, FILE, {})] * 3


def test_other_files_come_first(asked, machine, server, monkeypatch):
    calls, _ = asked
    server.add(f"/mirror/{FILE}", DATA)
    monkeypatch.setenv("SAM2FAST_MIRROR", f"{server.url}/mirror")
    assert get_from_hub("tiny") == machine / "own" / FILE
    monkeypatch.delenv("SAM2FAST_MIRROR")
    assert get_from_hub("tiny") == machine / "own" / FILE
    (machine / "work/checkpoints").mkdir()
    (machine / "work/checkpoints" / FILE).write_bytes(DATA)
    assert str(get_from_hub("tiny")) == f"checkpoints/{FILE}" and calls == []


def test_offline_only_its_cache_is_read(asked, monkeypatch):
    monkeypatch.setenv("SAM2FAST_OFFLINE", "1")
    assert get_from_hub("tiny") == asked[1]
    assert asked[0] == [(REPO, FILE, {"local_files_only": True})]


@pytest.mark.parametrize("is_installed", [True, False])
def test_meta_where_the_hub_fails_or_is_not_installed(is_installed, machine, server, monkeypatch):
    if not is_installed:
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    server.add(f"/meta/{FILE}", DATA)
    assert get_from_hub("tiny") == machine / "own" / FILE
    monkeypatch.setenv("SAM2FAST_OFFLINE", "1")
    with pytest.raises(DownloadError, match="sam2.1_hiera_large.pt is not on this machine"):
        get_from_hub("large")


@pytest.mark.parametrize("error", [
    ConnectionError("refused"), errors.HTTPError("timed out"), errors.LocalEntryNotFoundError("not in the cache"),
    errors.EntryNotFoundError("no such file"), OSError("the file has another size"),
], ids=repr)  # fmt: skip
def test_meta_after_an_error_of_a_download(error, machine, server, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", raising(error))
    server.add(f"/meta/{FILE}", DATA)
    assert get_from_hub("tiny") == machine / "own" / FILE


@pytest.mark.parametrize("error", [
    RuntimeError("no downloads here"), ValueError("wrong"), ImportError("no such module"), KeyError("tiny"),
    AssertionError("called twice"),
], ids=repr)  # fmt: skip
def test_other_errors_are_raised(error, machine, server, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", raising(error))
    server.add(f"/meta/{FILE}", DATA)
    with pytest.raises(type(error)) as found:
        SAM2ImagePredictor.from_pretrained(REPO)
    assert found.value is error


def raising(error):
    def download(**_):
        raise error

    return download

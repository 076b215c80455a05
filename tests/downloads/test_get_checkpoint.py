"""Where a checkpoint is searched and downloaded from, and the error messages."""

import os
import pathlib
import stat
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest
from checkpoint_server import make_checkpoint
from file_contents import files_of

from sam2fast.build_sam import _hf_download
from sam2fast.checkpoints import find_weights
from sam2fast.downloads import DownloadError, find_checkpoint, get_checkpoint

FILE = "sam2.1_hiera_tiny.pt"
REPO = "facebook/sam2.1-hiera-tiny"
DATA, OTHER = make_checkpoint(seed=0), make_checkpoint(seed=1)


@pytest.fixture(autouse=True)
def hub_cache(machine, monkeypatch) -> Path:
    """The cache of huggingface_hub, which reads the environment on import."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(machine / "hugging/hub"))
    return machine / "hugging/hub"


def test_the_order_of_the_search(machine, hub_cache, monkeypatch):
    """In the order of the search; searching creates nothing."""
    repository = hub_cache / "models--facebook--sam2.1-hiera-tiny"
    places = [
        machine / "named" / FILE,
        machine / "work/checkpoints" / FILE,
        repository / "snapshots" / ("c" * 40) / FILE,
        machine / "own" / FILE,
    ]
    monkeypatch.setenv("SAM2FAST_CHECKPOINTS", str(machine / "named"))
    assert find_checkpoint("tiny") is None
    assert [path.name for path in machine.iterdir()] == ["work"] and not any((machine / "work").iterdir())
    for place in reversed(places):
        place.parent.mkdir(parents=True)
        place.write_bytes(b"x")
        if repository in place.parents:
            (repository / "refs").mkdir()
            (repository / "refs/main").write_text("c" * 40)
        assert find_checkpoint(REPO).absolute() == place


def test_without_huggingface_hub_its_cache_is_not_searched(machine, hub_cache, monkeypatch):
    snapshot = hub_cache / "models--facebook--sam2.1-hiera-tiny/snapshots/main"
    snapshot.mkdir(parents=True)
    (snapshot / FILE).write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert find_checkpoint("tiny") is None


def test_from_meta(server, machine):
    """The path of `from_pretrained` and `build_sam2_hf`, too."""
    server.add(f"/meta/{FILE}", DATA)
    config, path = _hf_download(REPO)
    assert config == "configs/sam2.1/sam2.1_hiera_t.yaml" and path == str(machine / "own" / FILE)
    assert [*files_of(machine)] == [f"own/{FILE}"] and Path(path).read_bytes() == DATA
    assert str(get_checkpoint("tiny")) == path and len(server.asked) == 1


def test_the_mirror_first(server, machine, monkeypatch):
    server.add(f"/mirror/{FILE}", DATA)
    monkeypatch.setenv("SAM2FAST_MIRROR", f"{server.url}/mirror/")
    assert get_checkpoint("tiny", quiet=True) == machine / "own" / FILE
    server.add("/meta/sam2_hiera_large.pt", OTHER)
    assert get_checkpoint("sam2_hiera_l", quiet=True).read_bytes() == OTHER
    assert [asked.path for asked in server.asked][1:] == ["/mirror/sam2_hiera_large.pt", "/meta/sam2_hiera_large.pt"]


@pytest.mark.parametrize("cached", [False, True])
def test_to_a_folder(server, machine, cached):
    server.add(f"/meta/{FILE}", DATA)
    if cached:
        get_checkpoint("tiny")
        server.asked.clear()
    path = get_checkpoint("tiny", folder=machine / "new/folder")
    assert path.read_bytes() == DATA and [*files_of(machine)] == [f"new/folder/{FILE}"] + [f"own/{FILE}"] * cached
    assert len(server.asked) == (0 if cached else 1)
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_hashes(server, machine):
    """Of local and of downloaded files; the mirror's file is different."""
    server.add(f"/{FILE}", OTHER)
    right = server.add(f"/meta/{FILE}", DATA).sha256
    (machine / "work/checkpoints").mkdir()
    (machine / "work/checkpoints" / FILE).write_bytes(OTHER)
    assert get_checkpoint("tiny", mirror=server.url, sha256=right.upper()) == machine / "own" / FILE
    assert (machine / "own" / FILE).read_bytes() == DATA and len(server.asked) == 2
    with pytest.raises(DownloadError, match="exists with another hash"):
        get_checkpoint("tiny", sha256=right, folder="checkpoints")
    with pytest.raises(DownloadError, match=f"{right}; expected {'0' * 64}"):
        get_checkpoint("tiny", sha256="0" * 64)
    assert not list(machine.rglob("*.part"))


def test_an_error_is_one_line_with_all_that_was_tried(server):
    with pytest.raises(DownloadError) as raised:
        get_checkpoint("tiny", mirror=f"{server.url}/mirror")
    text = str(raised.value)
    assert text.startswith(f"{FILE} could not be downloaded: {server.url}/mirror/{FILE}: HTTP status 404 Not Found; ")
    assert f"{server.url}/meta/{FILE}: HTTP status 404 Not Found. " in text and "\n" not in text
    assert f'Use "sam2fast/mini", a smaller model in the package. Or get {FILE} from ' in text
    assert text.endswith("put it into ./checkpoints or $SAM2FAST_CHECKPOINTS, or pass its path")


@pytest.mark.parametrize(
    ("name", "options", "variable", "error", "message"),
    [
        ("enormous", {}, None, KeyError, "'enormous' is no published model"),
        ("tiny", {"sha256": "abc"}, None, ValueError, "64 hexadecimal digits"),
        *(
            ("tiny", {}, name, DownloadError, f"{FILE} is not on this machine, .*: {name} is set")
            for name in ("SAM2FAST_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
        ),
        *(
            ("tiny", {"mirror": mirror}, None, DownloadError, "http:// or https://|not a usable address")
            for mirror in ("/some/folder", "ftp://host", "file:///etc", "http://[", "http://me:secret@host")
        ),
    ],
)
def test_refused(server, machine, monkeypatch, name, options, variable, error, message):
    if variable:
        monkeypatch.setenv(variable, "1")
    with pytest.raises(error, match=message) as raised:
        get_checkpoint(name, **options)
    assert "secret" not in str(raised.value) and not [file for file in files_of(machine) if FILE in file]
    assert bool(server.asked) == ("mirror" in options)  # then Meta is asked, too


def test_a_user_without_a_home(monkeypatch):
    """Such as in a container or a batch job."""
    for name in ("HOME", "SAM2FAST_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as it is where nothing is known
    if accessor := getattr(pathlib, "_NormalAccessor", None):  # of Python 3.10
        monkeypatch.setattr(accessor, "expanduser", staticmethod(lambda path: path))
    before = os.listdir()
    assert find_checkpoint("tiny") is None
    with pytest.raises(FileNotFoundError, match="no home directory"):
        find_weights("~/model.pt")
    with pytest.raises(DownloadError, match="no home directory"):
        get_checkpoint("tiny", quiet=True)
    assert os.listdir() == before

"""Where a checkpoint is looked for, where it is fetched from, and what is said when it is nowhere."""

import hashlib
import os
import stat
from contextlib import contextmanager

import pytest
from checkpoint_faults import status
from checkpoint_server import make_checkpoint

from sam2fast.build_sam import _hf_download
from sam2fast.downloads import DownloadError, copies, find_checkpoint, get_checkpoint, retries
from sam2fast.downloads.names import published, published_models, simplest_name

FILE = "sam2.1_hiera_tiny.pt"
REPO = "facebook/sam2.1-hiera-tiny"
DATA, OTHER = make_checkpoint(seed=0), make_checkpoint(seed=1)


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr(retries.time, "sleep", lambda seconds: None)


def tree(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


class TestNames:
    @pytest.mark.parametrize(
        ("name", "file"),
        [
            ("tiny", "sam2.1_hiera_tiny.pt"),
            ("base+", "sam2.1_hiera_base_plus.pt"),
            ("sam2_hiera_b+", "sam2_hiera_base_plus.pt"),
            ("configs/sam2/sam2_hiera_l.yaml", "sam2_hiera_large.pt"),
            ("facebook/sam2-hiera-small", "sam2_hiera_small.pt"),
            ("sam2.1_hiera_large.pt", "sam2.1_hiera_large.pt"),
        ],
    )
    def test_every_spelling(self, name, file):
        assert published(name).release.checkpoint == file

    def test_the_simplest_leads_back(self):
        for model in published_models().values():
            assert published(simplest_name(model)) == model
        assert simplest_name(published(REPO)) == "tiny"

    def test_others(self):
        for call in (find_checkpoint, get_checkpoint):
            with pytest.raises(KeyError, match="'enormous' is no published model"):
                call("enormous")


class TestLooking:
    def test_the_order(self, machine, monkeypatch):
        """Each place before the ones after it; and looking creates nothing."""
        commit = "c" * 40
        repository = machine / "hugging/hub/models--facebook--sam2.1-hiera-tiny"
        places = [
            machine / "named" / FILE,
            machine / "work/checkpoints" / FILE,
            repository / "snapshots" / commit / FILE,
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
                (repository / "refs/main").write_text(commit)
            assert find_checkpoint(REPO).absolute() == place

    @pytest.mark.parametrize("ref", ["", "..", "../../../..", "a/b", "\n", "c" * 40])
    def test_a_cache_in_disorder(self, machine, ref):
        refs = machine / "hugging/hub/models--facebook--sam2.1-hiera-tiny/refs"
        refs.mkdir(parents=True)
        (refs / "main").write_text(ref)
        (machine / "hugging/hub" / FILE).write_bytes(b"x")
        assert find_checkpoint("tiny") is None

    def test_what_is_there_needs_no_network(self, machine, server):
        (machine / "work/checkpoints").mkdir()
        (machine / "work/checkpoints" / FILE).write_bytes(DATA)
        assert get_checkpoint("tiny").read_bytes() == DATA
        assert server.asked == []


class TestFetching:
    def test_first_the_mirror(self, server, machine, monkeypatch):
        server.add(f"/mirror/{FILE}", DATA)
        server.add_to_hub(REPO, FILE, OTHER)
        monkeypatch.setenv("SAM2FAST_MIRROR", f"{server.url}/mirror/")
        assert get_checkpoint("tiny", quiet=True) == machine / "own" / FILE
        assert (machine / "own" / FILE).read_bytes() == DATA
        assert tree(machine) == [f"own/{FILE}"]
        assert get_checkpoint(REPO) == find_checkpoint("tiny") == machine / "own" / FILE
        assert len(server.gets(f"/mirror/{FILE}")) == 1

    def test_then_the_hub(self, server, machine, caplog):
        server.add_to_hub(REPO, FILE, DATA)
        path = get_checkpoint("tiny", mirror=f"{server.url}/mirror")
        assert path.read_bytes() == DATA and machine / "hugging" in path.parents
        assert f"the mirror {server.url}/mirror: answers 404 Not Found; asking the hub" in caplog.text

    def test_then_meta(self, server, machine):
        server.add(f"/meta/{FILE}", DATA)
        assert get_checkpoint("tiny") == machine / "own" / FILE

    def test_on_first_use(self, server, machine):
        """The hub's part is what `from_pretrained` and `build_sam2_hf` go through."""
        server.add_to_hub(REPO, FILE, DATA)
        config, path = _hf_download(REPO)
        assert config == "configs/sam2.1/sam2.1_hiera_t.yaml"
        assert path == str(find_checkpoint("tiny"))

    def test_to_a_folder(self, server, machine):
        server.add_to_hub(REPO, FILE, DATA)
        path = get_checkpoint("tiny", folder=machine / "new/folder")
        assert path.read_bytes() == DATA
        assert tree(machine) == [f"new/folder/{FILE}"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~_umask()

    def test_to_a_folder_from_a_cache(self, server, machine):
        (machine / "own").mkdir()
        (machine / "own" / FILE).write_bytes(DATA)
        assert get_checkpoint("tiny", folder=machine / "new").read_bytes() == DATA
        assert server.asked == [] and tree(machine) == [f"new/{FILE}", f"own/{FILE}"]

    def test_by_force(self, server, machine):
        (machine / "own").mkdir()
        (machine / "own" / FILE).write_bytes(OTHER)
        server.add(f"/meta/{FILE}", DATA)
        assert get_checkpoint("tiny", force=True).read_bytes() == DATA


class TestHashes:
    def test_beside_the_file_of_a_mirror(self, server, machine):
        file = server.add(f"/{FILE}", DATA)
        server.add(f"/{FILE}.sha256", f"{file.sha256.upper()}  {FILE}\n".encode())
        assert get_checkpoint("tiny", mirror=server.url).read_bytes() == DATA

    def test_of_another_file(self, server, machine):
        server.add(f"/{FILE}", DATA)
        server.add(f"/{FILE}.sha256", ("0" * 64).encode())
        with pytest.raises(DownloadError, match="what arrives has another hash than was announced"):
            get_checkpoint("tiny", mirror=server.url)
        assert tree(machine) == [f"own/.{FILE}.lock"]

    def test_a_web_page_in_its_place_is_no_hash(self, server, machine):
        server.add(f"/{FILE}", DATA)
        server.add(f"/{FILE}.sha256", b"<html>")
        assert get_checkpoint("tiny", mirror=server.url).read_bytes() == DATA

    def test_asked_for(self, server, machine):
        """Sources with another hash are passed over, the hub without fetching anything."""
        server.add(f"/{FILE}", OTHER)
        server.add_to_hub(REPO, FILE, OTHER)
        right = server.add(f"/meta/{FILE}", DATA)
        assert get_checkpoint("tiny", mirror=server.url, sha256=right.sha256.upper()).read_bytes() == DATA
        assert not any(asked.path.startswith("/stored/") for asked in server.asked)

    def test_of_a_file_that_is_there(self, server, machine):
        for folder, data in (("checkpoints", OTHER), ("../own", DATA)):
            (machine / "work" / folder).mkdir()
            (machine / "work" / folder / FILE).write_bytes(data)
        sha256 = server.add("/unused", DATA).sha256
        assert get_checkpoint("tiny", sha256=sha256).read_bytes() == DATA
        with pytest.raises(DownloadError, match="is there with another hash"):
            get_checkpoint("tiny", sha256=sha256, folder="checkpoints")
        assert server.asked == []

    def test_of_a_file_that_another_process_has_put_there(self, machine, monkeypatch):
        """After it was looked for, so that it is found under the lock."""
        (machine / "own").mkdir()
        (machine / "own" / FILE).write_bytes(DATA)
        sha256, target = hashlib.sha256(DATA).hexdigest(), machine / "work/checkpoints" / FILE

        @contextmanager
        def locked(*arguments):
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(OTHER)
            yield

        monkeypatch.setattr(copies, "locked", locked)
        with pytest.raises(DownloadError, match="is there by now with another hash"):
            get_checkpoint("tiny", sha256=sha256, folder="checkpoints")

    def test_that_are_none(self):
        with pytest.raises(ValueError, match="64 hexadecimal digits"):
            get_checkpoint("tiny", sha256="abc")


class TestNothingWorks:
    def test_all_that_was_tried_is_said(self, server):
        server.add(f"/meta/{FILE}", DATA, *[status(503)] * 9)
        with pytest.raises(DownloadError) as raised:
            get_checkpoint("tiny", mirror=f"http://me:secret@127.0.0.1:{server.port}/mirror")
        head, mirror, hub, meta, hint = str(raised.value).splitlines()
        assert head == f"{FILE} could not be downloaded."
        assert mirror == f"  the mirror {server.url}/mirror: answers 404 Not Found."
        assert hub == f"  the hub {server.url}/hub/{REPO}: answers 404 Not Found."
        assert meta == f"  Meta's {server.url}/meta/{FILE}: answers 503 Service Unavailable (5 attempts)."
        assert "ckpt_path=" in hint and "--checkpoint FILE" in hint and "SAM2FAST_CHECKPOINTS" in hint

    def test_without_a_network(self, monkeypatch, machine):
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(DownloadError, match="hub http://127.0.0.1:9.*: cannot be reached"):
            get_checkpoint("tiny")
        assert tree(machine) == [f"own/.{FILE}.lock"]

    @pytest.mark.parametrize("variable", ["SAM2FAST_OFFLINE", "HF_HUB_OFFLINE"])
    def test_offline(self, server, machine, monkeypatch, variable):
        server.add(f"/meta/{FILE}", DATA)
        monkeypatch.setenv(variable, "1")
        with pytest.raises(DownloadError, match=f"not asked, since {variable} is set"):
            get_checkpoint("tiny", mirror=server.url)
        assert server.asked == [] and tree(machine) == []

    def test_a_folder_that_cannot_be_written(self, server, machine, monkeypatch):
        """Every other folder is tried; here the caches cannot be made either."""
        server.add_to_hub(REPO, FILE, DATA)
        for name in ("own", "hugging", "to"):
            (machine / name).write_text("a file")
        for folder in (None, machine / "to"):
            with pytest.raises(DownloadError, match=r"Meta's .*: cannot write in .* \(.*\)"):
                get_checkpoint("tiny", folder=folder)

    def test_a_cache_that_cannot_be_written_is_passed_over(self, server, machine):
        server.add_to_hub(REPO, FILE, DATA)
        server.add(f"/meta/{FILE}", DATA)
        (machine / "hugging").write_text("a file")
        assert get_checkpoint("tiny") == machine / "own" / FILE

    def test_a_mirror_that_is_no_address(self, server):
        for mirror in ("/some/folder", "ftp://host", "http://["):
            with pytest.raises(DownloadError, match="the mirror .*address|the mirror .*URL"):
                get_checkpoint("tiny", mirror=mirror)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

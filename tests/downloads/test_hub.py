"""The Hugging Face hub and the cache that is shared with huggingface_hub, which is the judge of it."""

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from checkpoint_faults import announce, cut, stall, status, web_page
from checkpoint_server import COMMIT, make_checkpoint

from sam2fast import nano
from sam2fast.build_sam import build_sam2_hf
from sam2fast.downloads import DownloadError, find_checkpoint, get_checkpoint, get_repository, retries
from sam2fast.downloads.repository import choose_files

FILE = "sam2.1_hiera_tiny.pt"
REPO = "facebook/sam2.1-hiera-tiny"
DATA, OTHER = make_checkpoint(seed=0), make_checkpoint(seed=1)
HALF = 150_000


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr(retries.time, "sleep", lambda seconds: None)


@pytest.fixture
def hub_package():
    """Runs a line of Python with huggingface_hub, in a process that reads the environment anew."""

    def run(line: str, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", f"import huggingface_hub as hub; print({line})"],
            capture_output=True,
            text=True,
            env={**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", **environment},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def from_hub() -> object:
    return get_checkpoint("tiny", quiet=True)


class TestCache:
    def test_what_we_download_huggingface_hub_finds(self, server, machine, hub_package):
        file = server.add_to_hub(REPO, FILE, DATA)
        path = from_hub()
        assert path.is_symlink() and path.resolve().name == file.sha256
        assert not os.path.isabs(os.readlink(path))
        server.asked.clear()
        assert hub_package(f"hub.hf_hub_download({REPO!r}, {FILE!r})") == str(path)
        assert [asked.method for asked in server.asked] == ["HEAD"]
        assert hub_package(f"hub.try_to_load_from_cache({REPO!r}, {FILE!r})", HF_HUB_OFFLINE="1") == str(path)
        assert hub_package("[len(r.revisions) for r in hub.scan_cache_dir().repos]") == "[1]"

    def test_what_huggingface_hub_downloads_we_find(self, server, machine, hub_package):
        server.add_to_hub(REPO, FILE, DATA)
        path = hub_package(f"hub.hf_hub_download({REPO!r}, {FILE!r})")
        server.asked.clear()
        assert str(find_checkpoint("tiny")) == path == str(from_hub())
        assert server.asked == []

    def test_a_blob_that_is_there_is_not_fetched_again(self, server, machine):
        file = server.add_to_hub(REPO, FILE, DATA)
        path = from_hub()
        path.unlink()
        assert from_hub() == path and path.read_bytes() == DATA
        assert len(server.gets(f"/stored/{file.sha256}")) == 1

    def test_while_huggingface_hub_downloads_we_wait(self, server, hub_package):
        file = server.add_to_hub(REPO, FILE, DATA, stall(HALF))
        with ThreadPoolExecutor(2) as pool:
            theirs = pool.submit(hub_package, f"hub.hf_hub_download({REPO!r}, {FILE!r})")
            assert server.stalled.wait(100)
            ours = pool.submit(from_hub)
            until = time.monotonic() + 100
            while len([asked for asked in server.asked if asked.method == "HEAD"]) < 2:
                assert time.monotonic() < until, "the hub is not asked"
                threading.Event().wait(0.01)  # time.sleep is none here
            threading.Event().wait(0.3)  # enough to begin a download
            server.go_on.set()
            assert str(ours.result(100)) == theirs.result(100)
        assert len(server.gets(f"/stored/{file.sha256}")) == 1

    def test_without_symbolic_links(self, server, machine, monkeypatch, hub_package):
        def refuse(*args, **options):
            raise OSError("not here")

        monkeypatch.setattr(os, "symlink", refuse)
        file = server.add_to_hub(REPO, FILE, DATA)
        path = from_hub()
        assert not path.is_symlink() and path.read_bytes() == DATA
        assert from_hub() == path
        assert len(server.gets(f"/stored/{file.sha256}")) == 1
        assert hub_package(f"hub.hf_hub_download({REPO!r}, {FILE!r})") == str(path)

    def test_no_half_written_file_is_ever_found(self, server, machine):
        file = server.add_to_hub(REPO, FILE, DATA, *[cut(1000)] * 5)
        with pytest.raises(DownloadError, match="ended after 1000 of"):
            from_hub()
        blobs = machine / "hugging/hub/models--facebook--sam2.1-hiera-tiny/blobs"
        assert find_checkpoint("tiny") is None
        assert sorted(path.name for path in blobs.iterdir()) == [f"{file.sha256}.part", f"{file.sha256}.part.json"]
        assert from_hub().read_bytes() == DATA
        assert server.asked[-1].headers["Range"] == "bytes=1000-"

    def test_by_force(self, server, machine):
        server.add_to_hub(REPO, FILE, DATA)
        path = from_hub()
        path.resolve().write_bytes(OTHER)
        assert from_hub().read_bytes() == OTHER
        assert get_checkpoint("tiny", force=True).read_bytes() == DATA


class TestAnswers:
    def test_the_hash_is_the_hubs(self, server, machine):
        """What is stored is not what the hub says is stored; a checkpoint, but another one of the same length."""
        file = server.add_to_hub(REPO, FILE, DATA)
        file_at_store = server.files[f"/stored/{file.sha256}"]
        server.hub_files[REPO, FILE] = type(file)(DATA)
        file_at_store.data = OTHER
        with pytest.raises(DownloadError, match="hub .*what arrives has another hash"):
            from_hub()
        assert find_checkpoint("tiny") is None and not list(machine.rglob("*.part"))

    def test_the_length_is_the_hubs(self, server):
        server.add_to_hub(REPO, FILE, DATA, *[announce(-10)] * 9)
        with pytest.raises(DownloadError, match=f"announces {len(DATA) - 10} bytes instead of {len(DATA)}"):
            from_hub()

    def test_a_web_page(self, server):
        server.add_to_hub(REPO, FILE, DATA, web_page, web_page)
        with pytest.raises(DownloadError, match="hub .*instead of"):
            from_hub()

    def test_it_is_not_the_hub(self, server, monkeypatch):
        monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/mirror/")
        server.add(f"/mirror/{REPO}/resolve/main/{FILE}", DATA)
        with pytest.raises(DownloadError, match="does not answer as the Hugging Face hub does"):
            from_hub()

    def test_an_etag_that_would_leave_the_cache(self, server, machine, monkeypatch):
        def evil(self, path):
            self.reply(200, X_Repo_Commit="..", X_Linked_ETag='"../../../evil"')

        monkeypatch.setattr("checkpoint_server.Handler.hub", evil)
        with pytest.raises(DownloadError, match="does not answer as the Hugging Face hub does"):
            from_hub()
        assert not (machine / "hugging").exists()

    def test_the_token_stays_with_the_hub(self, server, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        server.add_to_hub(REPO, FILE, DATA)
        from_hub()
        sent = {asked.path.split("/")[1]: asked.headers.get("Authorization") for asked in server.asked}
        assert sent == {"hub": "Bearer hf_secret", "stored": None}

    @pytest.mark.parametrize("given", ["variable", "file"])
    def test_the_token_without_huggingface_hub(self, server, machine, monkeypatch, given):
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        if given == "variable":
            monkeypatch.setenv("HF_TOKEN", "hf_secret")
        else:
            (machine / "hugging").mkdir()
            (machine / "hugging/token").write_text("hf_secret\n")
        server.add_to_hub(REPO, FILE, DATA)
        from_hub()
        assert server.asked[0].headers["Authorization"] == "Bearer hf_secret"

    def test_no_access(self, server, monkeypatch):
        monkeypatch.setattr("checkpoint_server.Handler.hub", lambda self, path: self.reply(401))
        with pytest.raises(DownloadError, match="answers 401 Unauthorized: .*private, gated or not there.*HF_TOKEN"):
            from_hub()

    def test_a_hub_that_is_busy(self, server, monkeypatch):
        server.add_to_hub(REPO, FILE, DATA, status(429, "3"))
        assert from_hub().read_bytes() == DATA


class TestRepositories:
    CONFIG = json.dumps({"model_type": "sam2_video"}).encode()

    def fill(self, server):
        server.add_to_hub("someone/fine-tune", "config.json", self.CONFIG)
        server.add_to_hub("someone/fine-tune", "README.md", b"hello")
        return server.add_to_hub("someone/fine-tune", "model.pt", DATA)

    def test_weights_and_configuration(self, server, machine, hub_package):
        self.fill(server)
        folder = get_repository("someone/fine-tune", quiet=True)
        assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.pt"]
        assert (folder / "model.pt").read_bytes() == DATA and (folder / "config.json").read_bytes() == self.CONFIG
        assert folder.name == COMMIT
        assert hub_package("hub.try_to_load_from_cache('someone/fine-tune', 'model.pt')") == str(folder / "model.pt")

    def test_a_model_is_built_from_one(self, server):
        server.add_to_hub("someone/fine-tune", "model.safetensors", nano.WEIGHTS.read_bytes())
        model = build_sam2_hf("someone/fine-tune", device="cpu")
        assert model.image_size == build_sam2_hf(nano.MODEL_ID).image_size
        with pytest.raises(KeyError, match="neither a file or folder here nor a published model.*404 Not Found"):
            build_sam2_hf("someone/else", device="cpu")

    def test_they_are_fetched_once(self, server):
        file = self.fill(server)
        get_repository("someone/fine-tune", quiet=True)
        get_repository("someone/fine-tune", quiet=True)
        assert len(server.gets(f"/stored/{file.sha256}")) == 1

    @pytest.mark.parametrize("reason", ["offline", "no network"])
    def test_from_the_cache(self, server, monkeypatch, reason):
        self.fill(server)
        folder = get_repository("someone/fine-tune", quiet=True)
        if reason == "offline":
            monkeypatch.setenv("SAM2FAST_OFFLINE", "1")
        else:
            monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        assert get_repository("someone/fine-tune") == folder
        with pytest.raises(DownloadError, match="the model someone/else could not be downloaded"):
            get_repository("someone/else")

    def test_half_a_version_is_not_taken_from_the_cache(self, server, machine):
        server.add_to_hub("someone/fine-tune", "a.pt", OTHER)
        self.fill(server).faults += [cut(10)] * 20
        for _ in range(2):
            with pytest.raises(DownloadError, match="ended after 10 of"):
                get_repository("someone/fine-tune", quiet=True)
        assert list(machine.rglob("snapshots/*/a.pt"))

    def test_small_files_are_compared_with_gits_hash(self, server):
        self.fill(server)
        server.hub_files["someone/fine-tune", "config.json"].faults.append(web_page)
        with pytest.raises(DownloadError, match="what arrives has another hash"):
            get_repository("someone/fine-tune", quiet=True)

    @pytest.mark.parametrize("name", ["../evil.pt", "folder/model.pt", "/evil.pt", ".hidden.pt"])
    def test_names_that_leave_the_folder_are_passed_over(self, server, name):
        server.add_to_hub("someone/evil", name, DATA)
        with pytest.raises(DownloadError, match="has no weights .* among no files"):
            get_repository("someone/evil")

    def test_no_weights(self, server):
        server.add_to_hub("someone/empty", "README.md", b"hello")
        with pytest.raises(DownloadError, match="has no weights .* among README.md"):
            get_repository("someone/empty")

    @pytest.mark.parametrize("repo", ["tiny", "a/b/c", "../x", "a/..", "a/b--c", ""])
    def test_no_ids(self, repo):
        with pytest.raises(ValueError, match="expected 'owner/name'"):
            get_repository(repo)

    @pytest.mark.parametrize(
        ("names", "chosen"),
        [
            (["a.pt", "model.safetensors", "model.fp16.safetensors", "x.md"], ["model.safetensors"]),
            (
                ["config.json", "model-1-of-2.safetensors", "model.safetensors.index.json", "model-2-of-2.safetensors"],
                ["config.json", "model.safetensors.index.json", "model-1-of-2.safetensors", "model-2-of-2.safetensors"],
            ),
            (["a.pt", "b.pth", "c.txt"], ["a.pt", "b.pth"]),
        ],
    )
    def test_one_set_of_weights(self, names, chosen):
        assert choose_files(names) == chosen

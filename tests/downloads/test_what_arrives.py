"""A file that changes, is another one, or cannot be written: the right one arrives, or nothing."""

import resource
import shutil
from collections import namedtuple
from dataclasses import replace

import pytest
from checkpoint_faults import compressed, cut, ignore_range, web_page, wrong_part
from checkpoint_server import Served, make_checkpoint, serve

from sam2fast.downloads.errors import LocalError, SourceError
from sam2fast.downloads.progress import Progress

DATA, OTHER = make_checkpoint(seed=0), make_checkpoint(seed=1)
HALF = 150_000


class Notes(Progress):
    """Hears when a file arrived damaged, which the checks at the end find out, and then only if they can."""

    def __init__(self):
        self.texts: list[str] = []

    def note(self, text):
        self.texts.append(text)


class TestVersions:
    def change_after(self, at):
        """Cuts the old version off; from then on there is a new one."""

        def fault(handler, file):
            cut(at)(handler, file)
            file.data, file.etag = OTHER, file.etag and '"v2"'

        return fault

    def test_the_file_changes_in_between(self, server, fetch):
        """The server does as the standard says, and nothing in its second answer would tell a mixture."""
        server.add("/file.pt", DATA, self.change_after(HALF), etag_of_parts=False)
        assert fetch().read_bytes() == OTHER
        assert len(server.asked) == 2

    def test_a_server_that_does_not_know_if_range(self, server, fetch):
        server.add("/file.pt", DATA, self.change_after(HALF), obeys_if_range=False)
        notes = Notes()
        assert fetch(progress=notes).read_bytes() == OTHER
        assert len(server.asked) == 3 and not notes.texts

    def test_a_server_without_parts(self, server, fetch):
        server.add("/file.pt", DATA, cut(HALF), ignore_range)
        assert fetch().read_bytes() == DATA
        assert server.sent == HALF + len(DATA)

    def test_a_part_that_begins_elsewhere(self, server, fetch):
        server.add("/file.pt", DATA, cut(HALF), wrong_part)
        notes = Notes()
        assert fetch(progress=notes).read_bytes() == DATA
        assert not notes.texts

    def test_the_date_tells_versions_apart(self, server, fetch):
        file = server.add("/file.pt", DATA, cut(HALF), etag=None)
        assert fetch().read_bytes() == DATA
        assert server.asked[1].headers["If-Range"] == file.modified

    @pytest.mark.parametrize("etag", ['W/"weak"', None])
    def test_nothing_tells_versions_apart(self, server, fetch, etag):
        server.add("/file.pt", DATA, cut(HALF), etag=etag, modified=None)
        assert fetch().read_bytes() == DATA
        assert "Range" not in server.asked[1].headers

    @pytest.mark.parametrize("changes", [False, True])
    def test_the_hash_tells_versions_apart(self, server, fetch, changes):
        first = self.change_after(HALF) if changes else cut(HALF)
        server.add("/file.pt", DATA, first, etag=None, modified=None)
        right = Served(OTHER if changes else DATA)
        assert fetch(digest=right.sha256).read_bytes() == right.data
        assert server.asked[1].headers["Range"] == f"bytes={HALF}-"
        assert len(server.asked) == (3 if changes else 2)

    def test_a_part_from_another_server(self, server, fetch, policy):
        server.add("/file.pt", DATA, cut(HALF))
        server.add("/other.pt", OTHER)
        with pytest.raises(SourceError):
            fetch(replace(policy, attempts=1))
        assert fetch(url=f"{server.url}/other.pt").read_bytes() == OTHER
        assert "Range" not in server.asked[1].headers

    def test_a_part_of_unknown_origin(self, server, fetch, tmp_path):
        (tmp_path / "to").mkdir()
        (tmp_path / "to" / "file.pt.part").write_bytes(b"x" * 1000)
        server.add("/file.pt", DATA)
        assert fetch().read_bytes() == DATA

    def test_everything_had_arrived(self, server, fetch, tmp_path, policy):
        """As after a process that was killed just before the end."""
        server.add("/file.pt", DATA, cut(HALF))
        with pytest.raises(SourceError):
            fetch(replace(policy, attempts=1))
        (tmp_path / "to" / "file.pt.part").write_bytes(DATA)
        assert fetch().read_bytes() == DATA
        assert len(server.asked) == 1


class TestContent:
    def refuse(self, server, fetch, left, message, **facts):
        with pytest.raises(SourceError, match=message):
            fetch(**facts)
        assert left() == [] and len(server.asked) == 2

    def test_the_right_hash(self, server, fetch):
        file = server.add("/file.pt", DATA)
        assert fetch(digest=file.sha256).read_bytes() == DATA

    def test_the_wrong_hash(self, server, fetch, left):
        server.add("/file.pt", DATA)
        self.refuse(server, fetch, left, f"another hash .* instead of {'0' * 64}", digest="0" * 64)

    def test_the_wrong_hash_once(self, server, fetch):
        def another(handler, file):
            handler.reply(200, OTHER)

        file = server.add("/file.pt", DATA, another)
        assert fetch(digest=file.sha256).read_bytes() == DATA

    def test_a_web_page(self, server, fetch, left):
        server.add("/file.pt", DATA, web_page, web_page)
        self.refuse(server, fetch, left, "a web page, not a checkpoint")

    def test_a_single_changed_byte(self, server, fetch, left):
        server.add("/file.pt", DATA[:HALF] + bytes([DATA[HALF] ^ 1]) + DATA[HALF + 1 :])
        self.refuse(server, fetch, left, "the checksum of archive/data/0 is wrong")

    @pytest.mark.parametrize("data", [b"", b"hello", b"PK\x03\x04"], ids=repr)
    def test_something_else(self, server, fetch, left, data):
        server.add("/file.pt", data)
        self.refuse(server, fetch, left, "no checkpoint|damaged")

    def test_compressed(self, server, fetch):
        server.add("/file.pt", DATA, compressed)
        with pytest.raises(SourceError, match="compressed"):
            fetch()

    def test_what_was_there_stays(self, server, fetch, tmp_path):
        (tmp_path / "to").mkdir()
        (tmp_path / "to" / "file.pt").write_bytes(OTHER)
        server.add("/file.pt", DATA, web_page, web_page, serve)
        with pytest.raises(SourceError):
            fetch()
        assert (tmp_path / "to" / "file.pt").read_bytes() == OTHER
        assert fetch().read_bytes() == DATA


class TestThisMachine:
    def test_no_room(self, server, fetch, left, monkeypatch):
        server.add("/file.pt", DATA)
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 10**9 - 1000, 1000))
        with pytest.raises(LocalError, match="0 MB are needed in .* and 0 MB are free"):
            fetch()
        assert "file.pt.part" not in left()

    def test_the_disk_is_full_in_the_middle(self, server, fetch, left, tmp_path):
        server.add("/file.pt", DATA)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, before[1]))
        try:
            with pytest.raises(LocalError, match="cannot write in .*File too large"):
                fetch()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert "file.pt" not in left()
        assert fetch().read_bytes() == DATA

    def test_no_folder_can_be_made(self, server, fetch, tmp_path):
        (tmp_path / "to").write_text("a file")
        server.add("/file.pt", DATA)
        with pytest.raises(LocalError, match="cannot write in"):
            fetch()

    def test_an_interruption(self, server, fetch, left):
        class Interrupted(Progress):
            def advance(self, count):
                raise KeyboardInterrupt

        server.add("/file.pt", DATA)
        with pytest.raises(KeyboardInterrupt):
            fetch(progress=Interrupted())
        assert left() == ["file.pt.part", "file.pt.part.json"]
        assert fetch().read_bytes() == DATA
        assert server.asked[1].headers["Range"] != "bytes=0-"

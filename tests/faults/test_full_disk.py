"""The disk is full during a write: one line that says so, and where; nothing half-written; later the rest can be had.

A limit on the size of files stands in for the disk, for libraries in C too; what is said is the same but for a word.
"""

import json
import os
import random
import signal
from contextlib import closing
from fractions import Fraction

import av
import numpy as np
import pytest
from av.error import ArgumentError
from chosen_places import some
from disturbed import after_full_disk, left_whole
from file_contents import files_of
from image_kills import ImageKills
from killed import Fault, forked
from track_kills import TrackKills

from sam2fast.cli.command_files import open_output, write_atomically
from sam2fast.cli.track_folder import OverlayWriter, RunFolder
from sam2fast.cli.user_errors import UserError
from sam2fast.demo.server.demo_errors import BadVideoError
from sam2fast.demo.server.video_files import DemoVideoWriter


@pytest.fixture(scope="module")
def track(tmp_path_factory):
    with closing(TrackKills(tmp_path_factory.mktemp("track"), 4, 1, 2)) as subject:
        yield subject


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    with closing(ImageKills(tmp_path_factory.mktemp("images"), "ab")) as subject:
        yield subject


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_track_on_a_full_disk(track, out):
    """At some of its file operations; each time the next run continues."""
    track.whole("reverse")
    for change in some(random.Random(2), 2, track.changes["reverse"] // 2):
        ended = forked(track.command(out, "reverse", 0.0), Fault(change, out, None))
        line = after_full_disk(ended)
        assert line == "there was room" or (line.startswith("sam2fast: the disk is full: ") and str(out) in line)
        left_whole(out)
    track.goes_on(out, "reverse")


@pytest.mark.parametrize(("size", "name"), [(5, "track.json"), (2600, "state_00001.safetensors")])
def test_the_file_is_named(track, out, size, name):
    """For Python and for safetensors."""
    line = after_full_disk(forked(track.command(out, "whole", 0.0), Fault(size=size, number=None)))
    assert line.startswith("sam2fast: ") and f"{out}/" in line and name in line
    left_whole(out)


def test_the_record_is_named(out):
    def work():
        folder = RunFolder(out, {"asked": 1}, False)
        folder.begin()
        with folder.recording():
            for _ in range(10):
                folder.append("1" * 99)

    ended = forked(work, Fault(size=850, number=None))
    assert f"[Errno 27] File too large: '{out}/masks.jsonl'" in ended.stderr
    assert (out / "masks.jsonl").read_bytes().count(b"\n") == 8 and json.loads((out / "track.json").read_text())


def noise():
    """Noise, so that a video is far larger than all buffers."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(12)]


def video_of_track(path):
    video = OverlayWriter(path, 64, 64, 25.0)
    try:
        for image in noise():
            video.add(image, None)
        video.finish()
    finally:
        video.discard()


def video_of_the_demo(path):
    with DemoVideoWriter(path, 64, 64, Fraction(25)) as video:
        for image in noise():
            video.add(image)


@pytest.mark.parametrize(
    ("noisy_video", "error"), [(video_of_track, "UserError"), (video_of_the_demo, "BadVideoError")]
)
def test_videos(tmp_path, noisy_video, error):
    """At any byte: while frames are encoded, at the last frame, and in the index at the file's end."""
    noisy_video(tmp_path / "whole.mp4")
    size = (tmp_path / "whole.mp4").stat().st_size
    for most in [0, *some(random.Random(3), 3, size), size - 700, size - 1]:
        ended = forked(lambda: noisy_video(tmp_path / "video.mp4"), Fault(size=most, number=None))
        last = ended.stderr.splitlines()[-1]
        assert ended.code == 1 and f".{error}: " in last and "File too large" in last, ended
        assert os.listdir(tmp_path) == ["whole.mp4"]
    assert forked(lambda: noisy_video(tmp_path / "video.mp4"), Fault(size=size, number=None)).code == 0
    assert (tmp_path / "video.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


class NoRoomToClose:
    """A PyAV file that cannot be closed, since the disk is full."""

    def __init__(self, container, adds):
        self.container, self.adds = container, adds

    def __getattr__(self, name):
        return getattr(self.container, name)

    def add_stream(self, *arguments, **options):
        if not self.adds:
            raise ArgumentError(22, "no such stream")
        return self.container.add_stream(*arguments, **options)

    def close(self):
        if self.adds:
            raise ArgumentError(5, "not closed")
        self.container.close()


@pytest.mark.parametrize("noisy_video", [video_of_track, video_of_the_demo])
@pytest.mark.parametrize("way", ["not opened", "without a stream", "given up", "not closed"])
def test_a_video_that_fails_leaves_nothing(tmp_path, noisy_video, way, monkeypatch):
    """And the message is that of the first error."""

    def opened(*arguments, **options):
        if way == "not opened":
            raise ArgumentError(22, "not opened")
        return NoRoomToClose(real(*arguments, **options), way != "without a stream")

    def given_up():
        raise ZeroDivisionError

    real = av.open
    monkeypatch.setattr(av, "open", opened)
    if way == "given up":
        monkeypatch.setattr(f"{__name__}.noise", given_up)
    why = {"given up": None, "without a stream": "no such stream"}.get(way, way)
    with pytest.raises((UserError, BadVideoError, ArgumentError, ZeroDivisionError), match=why) as caught:
        noisy_video(tmp_path / "video.mp4")
    assert (caught.type is ZeroDivisionError) == (way == "given up")
    assert (caught.type is ArgumentError) == (
        noisy_video is video_of_the_demo and way in ("not opened", "without a stream")
    )
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("verb", ["segment", "masks"])
def test_images_on_a_full_disk(images, verb):
    """Also killed: the next run removes partial files."""
    images.whole(verb)
    middle, out = images.changes[verb] // 2, images.folder / "out"
    line = after_full_disk(forked(images.command(out, verb), Fault(middle, out, None)))
    assert line.startswith("sam2fast: the disk is full: ") and str(out) in line
    left_whole(out)
    left = []
    for change in range(middle, middle + 3):  # for each file: open, possibly fsync, rename
        assert forked(images.command(out, verb), Fault(change, out)).code < 0
        left_whole(out)
        left += [name for name in os.listdir(out) if name.endswith(".part")]
    assert left
    images.goes_on(verb)


def test_write_atomically(tmp_path):
    file = tmp_path / "profile.json"
    file.write_text("before")
    ended = forked(lambda: write_atomically(file, b"x" * 1000), Fault(size=999, number=None))
    assert ended.code == 1 and f"[Errno 27] File too large: '{file}'" in ended.stderr
    assert files_of(tmp_path) == {"profile.json": b"before"}


def test_an_unfinished_folder(out):
    """Killed before the record was written, so the folder only has a partial file."""
    ended = forked(lambda: open_output(out, "synthesize.json", {"clips": 3}, resume=False), Fault(2, out))
    assert ended.code == -signal.SIGKILL and len(os.listdir(out)) == 1
    open_output(out, "synthesize.json", {"clips": 3}, resume=False)
    assert os.listdir(out) == ["synthesize.json"]


def test_saved_sessions(track, tmp_path):
    """The previous state stays, and the error has the errno and the file name."""
    predictor = track.track.predictor
    state = predictor.init_state(str(track.video))
    predictor.add_new_points_or_box(state, 0, 1, box=[5, 5, 30, 30])
    predictor.save_state(state, tmp_path / "state.safetensors")
    before = files_of(tmp_path)

    def work():
        try:
            predictor.save_state(state, tmp_path / "state.safetensors")
        except OSError as error:
            print(error.errno, error.filename)

    ended = forked(work, Fault(size=1000, number=None))
    assert ended.stdout == f"27 {tmp_path}/state.safetensors\n", ended
    assert files_of(tmp_path) == before

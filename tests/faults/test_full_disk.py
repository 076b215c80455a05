"""Writes beyond a limit on file sizes: the error names the file, no partial file stays, and a later run continues."""

import json
import os
import random
import signal
from contextlib import closing
from fractions import Fraction

import numpy as np
import pytest
from chosen_places import some
from command_kills import TrackKills
from disturbed import after_full_disk, left_whole
from disturbed_calls import make_images
from file_contents import files_of
from killed import Fault, forked, tells_errors
from mini_model import mini_predictor

from sam2fast.cli.command_files import OutputFolder
from sam2fast.cli.track_folder import RunFolder
from sam2fast.cli.track_overlay import OverlayWriter
from sam2fast.demo.server.video_files import DemoVideoWriter


@pytest.fixture(scope="module")
def track(tmp_path_factory):
    with closing(TrackKills(tmp_path_factory.mktemp("track"), 4, 1, 2)) as subject:
        yield subject


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
                folder.append({"objects": [], "name": "1" * 71})

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
    for most in [0, *some(random.Random(3), 1, size), size - 700, size - 1]:
        ended = forked(lambda: noisy_video(tmp_path / "video.mp4"), Fault(size=most, number=None))
        last = ended.stderr.splitlines()[-1]
        assert ended.code == 1 and f".{error}: " in last and "File too large" in last, ended
        assert os.listdir(tmp_path) == ["whole.mp4"]
    assert forked(lambda: noisy_video(tmp_path / "video.mp4"), Fault(size=size, number=None)).code == 0
    assert (tmp_path / "video.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_an_unfinished_folder(out):
    """Killed before the record was written, so the folder only has a partial file."""
    ended = forked(OutputFolder(out / "synthesize.json", {"clips": 3}).write, Fault(2, out))
    assert ended.code == -signal.SIGKILL and len(os.listdir(out)) == 1
    OutputFolder(out / "synthesize.json", {"clips": 3}).write()
    assert os.listdir(out) == ["synthesize.json"]


def test_saved_sessions(tmp_path):
    """The previous state stays, and the error has the errno and the file name."""
    predictor = mini_predictor()
    state = predictor.init_state(make_images(1))
    predictor.add_new_points_or_box(state, 0, 1, box=[5, 5, 30, 30])
    predictor.save_state(state, tmp_path / "state.safetensors")
    before = files_of(tmp_path)
    work = tells_errors(lambda: predictor.save_state(state, tmp_path / "state.safetensors"))
    ended = forked(work, Fault(size=1000, number=None))
    assert ended.stdout == f"27 {tmp_path}/state.safetensors\n", ended
    assert files_of(tmp_path) == before

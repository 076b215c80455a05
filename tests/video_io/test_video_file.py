"""Random access in encoded video files whose frames show their numbers."""

import functools
import io
import random

import numpy as np
import pytest
import torch

from sam2fast.video_io import NoFramesError, open_frames
from sam2fast.video_io import video_file as video_file_module
from sam2fast.video_io.sources import SteppedVideo

av = pytest.importorskip("av")

from numbered_videos import (  # noqa: E402  (after the question whether there is PyAV)
    B_FRAMES,
    COUNT,
    GOP,
    drawing,
    encode,
    every_fifth_hidden,
    every_third_lost,
    fully_decoded,
    number_in,
    shown_earlier,
    stored_early,
    times_of_decoding,
)

SIZE = 32
VIDEOS = {
    "h264 mp4": lambda: encode("libx264", "mp4", B_FRAMES),
    "h264 mkv": lambda: encode("libx264", "matroska", B_FRAMES),
    "h264 avi": lambda: encode("libx264", "avi", B_FRAMES),
    "h264 without B-frames": lambda: encode("libx264", "mp4", {"tune": "zerolatency"}),
    "all keyframes": lambda: encode("libx264", "mp4", {"x264-params": "keyint=1"}),
    "all keyframes, early": lambda: encode("libx264", "mp4", {"x264-params": "keyint=1"}, edit=stored_early),
    "one keyframe": lambda: encode("libx264", "mp4", {**B_FRAMES, "x264-params": "keyint=999:scenecut=0"}),
    "open GOP mp4": lambda: encode("libx264", "mp4", {**B_FRAMES, "x264-params": "open-gop=1:scenecut=0"}),
    "open GOP mkv": lambda: encode("libx264", "matroska", {**B_FRAMES, "x264-params": "open-gop=1:scenecut=0"}),
    "intra refresh mkv": lambda: encode("libx264", "matroska", {"x264-params": "intra-refresh=1"}),
    "edit list": lambda: encode("libx264", "mp4", B_FRAMES, edit=shown_earlier(17)),
    "offset": lambda: encode("libx264", "matroska", B_FRAMES, edit=shown_earlier(-50)),
    "no keyframe at first": lambda: encode("libx264", "mp4", B_FRAMES, edit=lambda position, packet: position >= 5),
    "times of decoding": lambda: encode("libx264", "mp4", B_FRAMES, edit=times_of_decoding),
    "hevc": lambda: encode("libx265", "mp4", {"x265-params": "log-level=none:keyint=12:open-gop=1"}),
    "mpeg4 mp4": lambda: encode("mpeg4", "mp4", b_frames=2),
    "mpeg4 avi": lambda: encode("mpeg4", "avi", b_frames=2),
    "mjpeg avi with gaps": lambda: encode("mjpeg", "avi", pix_fmt="yuvj420p", edit=every_third_lost),
    "vp8 webm": lambda: encode("libvpx", "webm", {"auto-alt-ref": "1", "lag-in-frames": "16"}),
    "vp8 with hidden frames": lambda: encode("libvpx", "webm", edit=every_fifth_hidden),
    "vp9 webm": lambda: encode("libvpx-vp9", "webm", {"auto-alt-ref": "1", "lag-in-frames": "16"}),
    "one frame": lambda: encode("libx264", "mp4", B_FRAMES, count=1),
}


@functools.cache
def video(name):
    return VIDEOS[name]()


@pytest.mark.parametrize(
    ("name", "prefetch"), [*((name, False) for name in VIDEOS), ("h264 mp4", True), ("one keyframe", True)]
)
def test_every_frame_in_any_order(name, prefetch):
    expected = fully_decoded(video(name))
    frames = open_frames(video(name), SIZE, prefetch=prefetch)
    assert len(frames) == len(expected) > 0 and frames.truncated is None
    in_order = [frames.pixels(index) for index in range(len(frames))]
    assert [number_in(pixels) for pixels in in_order] == expected
    backwards = list(reversed(range(len(frames))))
    for order in (backwards, random.Random(0).sample(backwards, (len(backwards) + 1) // 2), backwards[::5]):
        assert all(torch.equal(frames.pixels(index), in_order[index]) for index in order)
        frames.close()
        frames = open_frames(video(name), SIZE, prefetch=prefetch)
    frames.close()


@pytest.mark.parametrize("name, prefetch", [("h264 mp4", False), ("h264 mp4", True), ("one frame", False)])
def test_stepped_video(name, prefetch):
    every = open_frames(video(name), SIZE)
    some = range(4 % len(every), len(every), 7)
    frames = open_frames(SteppedVideo(video(name), some.step, some.start), SIZE, prefetch=prefetch)
    assert len(frames) == len(some) and (frames.height, frames.width) == (every.height, every.width)
    for index in [*reversed(range(len(some))), *range(len(some))]:  # backwards, frames are read in groups
        assert torch.equal(frames.pixels(index), every.pixels(some[index]))
        assert frames.time(index) == every.time(some[index])
    frames.close()
    with pytest.raises(NoFramesError, match=f"the video has {len(every)} frames; there is no frame 200"):
        open_frames(SteppedVideo(video(name), 300, 200), SIZE)


class Work:
    """Counts decoded frames and restarts of the decoder."""

    def __init__(self, monkeypatch):
        self.frames = self.entries = 0
        decode, begin = video_file_module.decode, video_file_module.VideoFile._begin

        def counting_decode(*args):
            for frame in decode(*args):
                self.frames += 1
                yield frame

        def counting_begin(*args):
            self.entries += 1
            return begin(*args)

        monkeypatch.setattr(video_file_module, "decode", counting_decode)
        monkeypatch.setattr(video_file_module.VideoFile, "_begin", counting_begin)


class TestWork:
    def test_opening_decodes_one_frame(self, monkeypatch):
        work = Work(monkeypatch)
        open_frames(video("h264 mp4"), SIZE)
        assert work.frames == 1

    @pytest.mark.parametrize("name", ["h264 mp4", "h264 avi", "all keyframes", "open GOP mkv", "edit list"])
    def test_going_forwards_decodes_each_frame_once(self, name, monkeypatch):
        frames, work = open_frames(video(name), SIZE), Work(monkeypatch)
        for index in range(len(frames)):
            frames.pixels(index)
        assert work.entries == 0

    @pytest.mark.parametrize(
        "name", ["h264 mp4", "h264 mkv", "open GOP mp4", "vp9 webm", "mpeg4 mp4", "mpeg4 avi", "all keyframes, early"]
    )
    def test_jumps_decode_from_the_nearest_keyframe(self, name, monkeypatch):
        frames, work = open_frames(video(name), SIZE), Work(monkeypatch)
        frames.pixels(70)
        frames.pixels(30)
        assert work.entries >= 1 and work.frames <= 2 * (GOP + 8)  # the decoder's delay

    def test_going_backwards_decodes_each_group_once(self, monkeypatch):
        frames, work = open_frames(video("one keyframe"), SIZE), Work(monkeypatch)
        for index in reversed(range(COUNT)):
            frames.pixels(index)
        # 74 alone, which might have been a jump; then 42..73, 10..41 and 0..9.
        assert work.entries == 3 and work.frames <= 75 + 74 + 42 + 10


@pytest.mark.parametrize("error", [-2, 1, 3])
def test_wrong_seeks(error, monkeypatch):
    """A wrong index causes them."""
    frames, seek = open_frames(video("h264 mp4"), SIZE), video_file_module.VideoFile._seek
    last = len(frames._cache._source._timeline.keyframes) - 1
    monkeypatch.setattr(
        video_file_module.VideoFile, "_seek", lambda self, to: seek(self, min(max(to + error, 0), last))
    )
    order = random.Random(0).sample(range(COUNT), COUNT)
    assert [number_in(frames.pixels(index)) for index in order] == order


class TestPixels:
    def test_native_size_is_unchanged(self):
        data = encode("libx264", "mp4", draw=lambda number: drawing(number, 64, 64), count=3)
        with av.open(io.BytesIO(data)) as container:
            expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        frames = open_frames(data, 64)
        for index, frame in enumerate(expected):
            assert np.array_equal(frames.pixels(index).numpy(), frame)

    def test_resizing_is_bilinear(self):
        """An edge is blended without the overshoot of a bicubic filter."""

        def edge(number):
            image = np.full((16, 16, 3), 60, np.uint8)
            image[:, 8:] = 180
            return image

        data = encode("libx264", "mp4", {"qp": "0"}, pix_fmt="yuv444p", draw=edge, count=1)
        row = open_frames(data, 64).pixels(0)[32, :, 0].int()
        expected = torch.tensor([60] * 30 + [75, 105, 135, 165] + [180] * 30)
        assert (row - expected).abs().max() <= 2

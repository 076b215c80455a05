"""Decoding of videos with HDR colours, with and without tone mapping."""

import warnings

import numpy as np
import pytest

from sam2fast.video_io import ToneMapped, VideoError, open_frames, read_frames

pytest.importorskip("av")

from numbered_videos import encode  # noqa: E402  (after the question whether there is PyAV)

SIDE = 32


def grey(number):
    return np.full((64, 64, 3), 120 + 20 * number, np.uint8)


def hdr_video(transfer):
    colours = {"color_primaries": "bt2020", "colorspace": "bt2020nc", "color_trc": transfer, "preset": "ultrafast"}
    return encode("libx264", "mp4", colours, count=2, pix_fmt="yuv420p10le", draw=grey)


def greys(source):
    """The value of each frame's centre, which all pixels have."""
    with read_frames(source, SIDE) as reader:
        streamed = [int(frame.rgb[32, 32, 1]) for frame in reader]
    opened = open_frames(source, SIDE)
    assert all(np.ptp(opened.pixels(i).numpy()) <= 1 for i in range(2))
    assert [int(opened.pixels(i)[16, 16, 1]) for i in range(2)] == pytest.approx(streamed, abs=1)
    return streamed


@pytest.mark.parametrize(("transfer", "name"), [("smpte2084", "PQ"), ("arib-std-b67", "HLG")])
def test_hdr_is_decoded_without_tone_mapping_and_with_a_warning(transfer, name):
    with pytest.warns(UserWarning, match=rf"HDR video \({name}\).*ToneMapped"):
        assert greys(hdr_video(transfer)) == greys(hdr_video("bt709"))


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_tone_mapping_changes_hdr_and_gives_no_warning(transfer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mapped, plain = greys(ToneMapped(hdr_video(transfer))), greys(hdr_video("bt709"))
    assert abs(mapped[1] - plain[1]) > 5


def test_tone_mapping_leaves_other_videos_unchanged_and_refuses_other_sources(tmp_path):
    assert greys(ToneMapped(video := hdr_video("bt709"))) == greys(video)
    for read in (read_frames, open_frames):
        with pytest.raises(VideoError, match="tones are mapped only in video files"):
            read(ToneMapped(tmp_path), SIDE)

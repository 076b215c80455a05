"""Folders of OpenEXR and DPX files as videos."""

import numpy as np
import pytest
from cinema_frames import LOGARITHMIC, dpx, exr, srgb, write_shot

from sam2fast.video_io import NoFramesError, VideoError, open_frames, read_frames
from sam2fast.video_io.sources import frame_files

SIZE = 16
LIGHT = [np.full((SIZE, SIZE, 3), level, np.float16) for level in (0.02, 0.3, 1.5)]


def all_pixels(video, **options):
    frames = open_frames(video, SIZE, **options)
    return [frames.pixels(index).numpy() for index in range(len(frames))]


def test_folder_of_exr(tmp_path, caplog):
    """The dark frame stays dark: the scale does not depend on the values."""
    folder = write_shot(tmp_path / "shot", [exr(frame) for frame in LIGHT], "exr")
    found = all_pixels(folder)
    assert np.array_equal(found, [srgb(frame) for frame in LIGHT])
    with read_frames(folder, SIZE) as reader:
        assert all(np.array_equal(one, frame.rgb) for one, frame in zip(found, reader, strict=True))
        assert reader.choices == {"scale": {"black": 0, "white": 1, "curve": "sRGB"}}
    assert caplog.text.count("a frame is scene-linear; it has values from") == 1
    assert np.array_equal(all_pixels(sorted(folder.iterdir())), found)  # a list of files


def test_window_is_of_light(tmp_path):
    folder = write_shot(tmp_path / "shot", [exr(frame) for frame in LIGHT], "exr")
    found = all_pixels(folder, window=(0, 2))
    assert np.abs(np.subtract(found, [srgb(frame / 2) for frame in LIGHT])).max() <= 1


def test_folder_of_dpx(tmp_path, caplog):
    codes = [np.full((SIZE, SIZE, 3), code) for code in (95, 445, 685)]
    folder = write_shot(tmp_path / "shot", [dpx(frame, LOGARITHMIC) for frame in codes], "dpx")
    found = [frame[0, 0, 0] for frame in all_pixels(folder)]
    assert found == [0, 108, 255]  # 445 is 0.149 of white
    assert "a frame is logarithmic" in caplog.text
    video = [dpx(frame, 0) for frame in codes]
    assert [frame[0, 0, 0] for frame in all_pixels(write_shot(tmp_path / "video", video, "DPX"))] == [24, 111, 171]


@pytest.mark.parametrize(
    "numbers, note",
    [
        ((8, 9, 10, 11), None),
        ((1001, 1003, 1005), None),  # on twos
        ((1001, 1002, 1004, 1005, 1009), "jump from shot.1002.exr to shot.1004.exr, 2 in all"),
    ],
)
def test_missing_numbers_are_said(tmp_path, caplog, numbers, note):
    folder = tmp_path / "shot"
    folder.mkdir()
    for number in numbers:
        (folder / f"shot.{number}.exr").touch()
    assert [path.name for path in frame_files(folder)] == [f"shot.{number}.exr" for number in numbers]
    assert (note in caplog.text) if note else not caplog.text


def test_several_sequences_in_a_folder_are_said(tmp_path, caplog):
    folder = write_shot(tmp_path / "shot", [b""] * 3, "exr")
    for number in (1001, 1002, 1003):
        (folder / f"matte.{number}.exr").touch()
    frame_files(folder)
    assert "jump from matte.1003.exr to shot.1001.exr, 1 in all" in caplog.text


def test_a_bad_frame_is_an_error_of_this_frame(tmp_path):
    frames = [exr(frame) for frame in LIGHT]
    folder = write_shot(tmp_path / "shot", [frames[0], frames[1][:-9], exr(LIGHT[2][:9])], "exr")
    video = open_frames(folder, SIZE)
    assert np.array_equal(video.pixels(0), srgb(LIGHT[0]))
    with pytest.raises(VideoError, match=r"frame 1, .*shot.1002.exr, cannot be read as an image: it is truncated"):
        video.pixels(1)
    with pytest.raises(VideoError, match="frame 2 is 16x9 pixels, but the video is 16x16"):
        video.pixels(2)


def test_empty_folder_names_the_types(tmp_path):
    with pytest.raises(NoFramesError, match=r"\.exr, \.dpx"):
        frame_files(tmp_path)

"""The bench of video loading: what differs gets no time, and rows are whole."""

import json

import pytest
import video_loading
from parity import picture
from PIL import Image

pytest.importorskip("av")

from drawn_videos import encode  # noqa: E402  (after the question whether there is PyAV)

SIZE, COUNT = 16, 5


@pytest.fixture
def film(tmp_path):
    path = tmp_path / "film.mp4"
    path.write_bytes(encode("libx264", "mp4", count=COUNT))
    return path


def test_frames_that_are_not_the_yardstick_s_get_no_time(film):
    def brighter(film, size):
        return (square + 1 for square in video_loading.forwards(film, size))

    ours = {"read_frames": video_loading.forwards, "open_frames": video_loading.at_random}
    assert video_loading.compare(ours, film, SIZE) == {}
    differences = video_loading.compare({"decord": video_loading.forwards, "torchcodec": brighter, **ours}, film, SIZE)
    assert differences["read_frames"] == {"max": 0.0, "mean": 0.0} and differences["torchcodec"]["max"] >= 1
    with pytest.raises(SystemExit, match="our frames are not decord's; not timed"):
        video_loading.compare({"decord": brighter, **ours}, film, SIZE)


def test_rows(film, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for index in range(3):
        Image.fromarray(picture(48, 64, index)).save(folder / f"{index}.jpg")
    rows = [*video_loading.measure_film(film, SIZE, 2), video_loading.measure_folder(folder, SIZE, 2)]
    assert (rows[0]["op"], rows[0]["source"], rows[0]["frames"]) == ("squares", "film.mp4", COUNT)
    assert (rows[-1]["op"], rows[-1]["source"], rows[-1]["frames"]) == ("load_video_frames", "frames", 3)
    assert {"read_frames", "open_frames"} <= set(rows[0]["seconds"]) and set(rows[-1]["seconds"]) == {
        "original",
        "sam2fast",
    }
    for row in rows:
        assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in row["seconds"].values())
        line = video_loading.report({"cores": 1, **json.loads(json.dumps(row))})
        assert line.startswith(f"{row['source']} {row['op']} at 16, 1 cores: ms per frame: ")

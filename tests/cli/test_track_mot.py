"""``mot.txt`` of ``sam2fast track``: MOT Challenge's text."""

import moving_shapes
import numpy as np
import pytest
from commands import ok
from track_runs import lines_of, middle_of_square, text

from sam2fast.cli.boxes import read_detections
from sam2fast.results.mot import to_mot

BOX = {"area": 9, "box": [4, 0, 5, 2], "score": 0.5}
LINES = [
    {"frame": 0, "objects": [{"id": "dog", **BOX}, {"id": 3, **BOX, "score": 0.25}]},
    {"frame": 8, "objects": [{"id": "dog", "area": 0, "box": None, "score": 0.1}, {"id": 3, **BOX}]},
]


def test_lines():
    """Frames and pixels count from 1, and an object that is hidden has no line."""
    assert to_mot(LINES, {"dog": 1, 3: 2}).splitlines() == [
        "1,1,5,1,5,2,0.5,-1,-1,-1",
        "1,2,5,1,5,2,0.25,-1,-1,-1",
        "9,2,5,1,5,2,0.5,-1,-1,-1",
    ]


@pytest.mark.parametrize("ids", [["dog", 9], [4, 9]])
def test_command(track, tmp_path, ids):
    """``--boxes-from`` reads the file."""
    folder = moving_shapes.jpeg_folder(tmp_path / "clip", moving_shapes.make_frames(8))
    points = [("--point", text(frame, name, *middle_of_square(frame))) for frame, name in zip((2, 4), ids, strict=True)]
    result = track(folder, *sum(points, ()), "--format", "mot", "--out", tmp_path / "out")
    assert ("ids in the format mot are numbers from 1: 1 is dog, 2 is 9" in ok(result).stderr) == ("dog" in ids)
    rows = [line.split(",") for line in (tmp_path / "out/mot.txt").read_text().splitlines()]
    assert {row[1] for row in rows} == ({"1", "2"} if "dog" in ids else {"4", "9"})
    read = read_detections(tmp_path / "out/mot.txt", [])
    for frame, line in lines_of(tmp_path / "out").items():
        shown = [entry for entry in line["objects"] if entry["area"]]
        expected = [[x, y, x + w, y + h] for x, y, w, h in (entry["box"] for entry in shown)]
        assert np.array_equal([one.box for one in read.get(frame, [])], expected)
        assert [one.score for one in read.get(frame, [])] == [entry["score"] for entry in shown]
    ok(track(folder, *points[0], "--format", "json", "--overwrite", "--out", tmp_path / "out"))
    assert not (tmp_path / "out/mot.txt").exists()

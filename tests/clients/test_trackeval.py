"""TrackEval reads ``mot.txt`` of ``sam2fast track``."""

import csv

import moving_shapes
import numpy as np
import pytest
import trackeval
from commands import ok
from track_runs import middle_of_square, quick_track, text

FRAMES = 7
PROMPTS = [*("--point", text(0, 1, *middle_of_square(0))), *("--point", text(2, 5, 30, 20))]


@pytest.mark.parametrize("step", [1, 2])
def test_boxes_are_read(tmp_path, step):
    folder = moving_shapes.jpeg_folder(tmp_path / "clip", moving_shapes.make_frames(FRAMES))
    with quick_track(tmp_path) as track:
        ok(track(folder, *PROMPTS, "--step", step, "--format", "mot", "--out", tmp_path / "out"))
    rows = list(csv.reader((tmp_path / "out/mot.txt").open()))
    truth, data = tmp_path / "truth/X-train/clip", tmp_path / "trackers/X-train/ours/data"
    (truth / "gt").mkdir(parents=True)
    data.mkdir(parents=True)
    (truth / "seqinfo.ini").write_text(f"[Sequence]\nseqLength={FRAMES}\n")
    (truth / "gt/gt.txt").write_text("".join(f"{','.join(row[:6])},1,1,1\n" for row in rows))
    (tmp_path / "out/mot.txt").rename(data / "clip.txt")
    (tmp_path / "truth/seqmaps").mkdir()
    (tmp_path / "truth/seqmaps/X-train.txt").write_text("name\nclip\n")
    folders = {"GT_FOLDER": f"{tmp_path}/truth", "TRACKERS_FOLDER": f"{tmp_path}/trackers"}
    quiet = {"BENCHMARK": "X", "SPLIT_TO_EVAL": "train", "PRINT_CONFIG": False}
    dataset = trackeval.datasets.MotChallenge2DBox({**folders, **quiet})
    read = dataset.get_raw_seq_data("ours", "clip")
    for index in range(FRAMES):
        own = [row for row in rows if int(row[0]) == index + 1]
        assert bool(own) == (index % step == 0)
        assert read["tracker_ids"][index].tolist() == [int(row[1]) for row in own]
        expected = np.array([row[2:6] for row in own], float).reshape(-1, 4)
        assert np.array_equal(read["tracker_dets"][index].reshape(-1, 4), expected)
    scores = trackeval.metrics.HOTA().eval_sequence(dataset.get_preprocessed_seq_data(read, "pedestrian"))
    assert np.all(scores["HOTA"] == 1)

"""The benchmark of approximations on small clips, and the table made of its file."""

import json
import sys
from dataclasses import fields

import approximations
import pytest
from figures.documents import SECTIONS
from figures.results import Results
from video import clip, jpeg_folder

from sam2fast.tracking.approximations import EXACT, Approximations

SOME = ("exact", "memory_slots=2", "pooled_memory")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder with the file of a small run."""
    folder = tmp_path_factory.mktemp("bench")
    jpeg_folder(folder / "films" / "one", clip(10))
    command = ["approximations.py", "--clips", "1", "--frames", "9", "--film-frames", "9", "--image-size", "64"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*command, "--films", str(folder / "films"), "--out", str(folder / "results")])
        patch.setattr(approximations, "MOTIONS", {"slow clips": 0.1})
        patch.setattr(approximations, "SUBJECTS", {name: approximations.SUBJECTS[name] for name in SOME})
        approximations.main()
    return folder / "results"


def rows_of(results):
    (path,) = results.glob("approximations-cpu-*.json")
    return json.loads(path.read_text())["rows"]


@pytest.mark.slow
def test_rows(results):
    rows = rows_of(results)
    assert {row["films"] for row in rows} == {"slow clips", "real videos"}
    by_name = {row["name"]: row for row in rows if row["films"] == "slow clips"}
    assert list(by_name) == list(SOME)
    exact, slots, pooled = (by_name[name] for name in SOME)
    assert exact["iou"]["worst"] == 1 and exact["approximations"] == {} and exact["encoded"] == exact["frames"] == 9
    # Maps of 4x4: a prompt's, and six, one or six quarters of others; eight pointers of two tokens.
    assert [row["tokens"] for row in (exact, slots, pooled)] == [7 * 16 + 16, 2 * 16 + 16, 16 + 6 * 4 + 16]
    assert exact["page_bytes"] == 4 * pooled["page_bytes"] == 16 * 64 * 4
    assert exact["gflop"] > pooled["gflop"] > slots["gflop"] > 0
    for row in rows:
        assert 0 <= row["iou"]["worst"] <= row["iou"]["q05"] <= row["iou"]["mean"] <= 1 and len(row["samples_s"]) == 1
        assert (row["j_and_f"] is None) == (row["films"] == "real videos")


@pytest.mark.slow
def test_the_table(results):
    text = SECTIONS["approximations"](Results(results, "../"))
    assert "| `exact` | – | 1.000 | 1.000 | – | – | – | – | – |" in text and text.count("| `pooled_memory` | – |") == 1


def test_time_alone(tmp_path, monkeypatch):
    """Masks of drawn weights are not compared, nor their frames found to be still; other models join the day's file."""
    command = ["approximations.py", "--model", "t", "--image-size", "64", "--frames", "9"]
    monkeypatch.setattr(sys, "argv", [*command, "--out", str(tmp_path)])
    monkeypatch.setattr(approximations, "SUBJECTS", {"exact": (), "still_frames": "still_frames"})
    right = approximations.build
    monkeypatch.setattr(approximations, "build", lambda model, device, size: right("nano", device, size))
    approximations.main()
    assert [(row["model"], row["iou"]) for row in rows_of(tmp_path)] == [("t", None)]
    assert "| `exact` | – | – | – | – | " in SECTIONS["approximations"](Results(tmp_path))
    approximations.write(tmp_path, "cpu", "nano", [{"model": "nano"}])
    assert [row["model"] for row in rows_of(tmp_path)] == ["t", "nano"]


def test_too_few_frames(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["approximations.py", "--frames", "8"])
    with pytest.raises(SystemExit):
        approximations.main()
    assert "filled after 8 frames" in capsys.readouterr().err


def test_all_subjects_are_approximations():
    asked = [Approximations.of(asked) for asked in approximations.SUBJECTS.values()]
    assert asked[0] == EXACT and len(set(asked)) == len(asked)
    assert {name for one in asked for name in one.named()} == {field.name for field in fields(EXACT)}

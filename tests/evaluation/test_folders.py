"""J&F of folders against a simple implementation; the official function and its file."""

import math
import os
import shutil

import mask_sets as sets
import numpy as np
import plain_evaluator as plain
import pytest
from PIL import Image

from sam2fast.evaluation import folders
from sam2fast.evaluation.folders import EvaluationError, benchmark, evaluate_folders

LAYOUTS = ("davis", "sav")


@pytest.fixture(params=LAYOUTS)
def pair(request, tmp_path):
    """Ground truth and prediction in either layout."""
    return sets.write_sets(tmp_path, request.param)


@pytest.mark.parametrize("skip", [True, False])
def test_every_object_of_every_video(pair, skip):
    truth, pred = pair
    expected = plain.evaluate(truth, pred, skip)
    scores = evaluate_folders(truth, pred, processes=1, skip_first_and_last=skip)
    plain.assert_same(scores, expected)
    assert (scores.j_and_f, scores.j, scores.f) == pytest.approx(plain.overall(expected), abs=1e-9)
    assert not scores.problems and not scores.only_truth and not scores.only_pred
    values = [value for objects in expected.values() for pair in objects.values() for value in pair]
    assert min(values) < 70 and max(values) > 80, "cases that are neither all right nor all wrong"


def test_processes_and_pieces_of_videos_change_nothing(pair, monkeypatch):
    alone = evaluate_folders(*pair, processes=1)
    monkeypatch.setattr(folders, "FRAMES_AT_ONCE", 2)
    assert evaluate_folders(*pair, processes=1) == alone
    monkeypatch.setattr(folders, "FRAMES_FOR_A_PROCESS", 1)
    seen = []
    assert evaluate_folders(*pair, processes=2, on_video=seen.append) == alone
    assert seen == list(alone.videos)


@pytest.mark.long
def test_a_process_that_is_killed(tmp_path, monkeypatch):
    truth, pred = sets.write_sets(tmp_path, "davis")
    monkeypatch.setattr(folders, "FRAMES_FOR_A_PROCESS", 1)
    monkeypatch.setattr(folders, "compare_frames", sets.end_the_process)
    with pytest.raises(EvaluationError, match="a process that compares masks is gone.*fewer processes"):
        evaluate_folders(truth, pred, processes=2)


@pytest.mark.parametrize("frames", [1, 2, 3])
@pytest.mark.parametrize("skip", [True, False])
def test_very_short_videos(tmp_path, frames, skip):
    pred, truth = sets.hard_case()
    sets.write_davis(tmp_path / "truth/short", truth[:frames])
    sets.write_davis(tmp_path / "pred/short", pred[:frames])
    scores = evaluate_folders(tmp_path / "truth", tmp_path / "pred", skip_first_and_last=skip)
    if skip and frames < 3:
        assert scores.objects == [] and math.isnan(scores.j_and_f) and not scores.problems
    else:
        plain.assert_same(scores, plain.evaluate(tmp_path / "truth", tmp_path / "pred", skip))


def test_an_object_that_is_never_shown(tmp_path):
    """The original fails here in the layout of SA-V."""
    truth, pred = sets.write_sets(tmp_path, "sav")
    masks, _ = sets.hard_case()
    sets.write_sav(truth / "video0", masks * 0, [4])
    sets.write_sav(pred / "video0", masks, [4])
    with pytest.raises(AssertionError, match="never shown"):
        plain.evaluate(truth, pred)
    scores = evaluate_folders(truth, pred)
    assert list(scores.problems) == ["video0"] and scores.videos[0].objects == {}
    assert scores.problems["video0"] == (f"{truth}/video0/004 shows its object in none of the 7 frames that count",)


@pytest.mark.parametrize("values", [(0, 1), (0, 255), (3, 9), (7,)])
def test_what_is_not_0_is_the_object_in_a_folder_of_its_own(tmp_path, values):
    truth, pred = sets.write_sets(tmp_path, "sav")
    rng = np.random.default_rng(1)
    for t in range(sets.FRAMES):
        image = np.array(values, dtype=np.uint8)[rng.integers(0, len(values), (48, 83))]
        Image.fromarray(image).save(pred / f"video0/001/{4 * t:05d}.png")
    plain.assert_same(evaluate_folders(truth, pred), plain.evaluate(truth, pred))


class TestBenchmark:
    def test_the_official_lists_and_file(self, pair):
        truth, pred = pair
        expected = plain.evaluate(truth, pred)
        j_and_f, j, f, objects = benchmark([str(truth)], [str(pred)], num_processes=1, verbose=False)
        assert [j_and_f[0], j[0], f[0]] == pytest.approx(plain.overall(expected), abs=1e-9)
        assert len(objects) == 1 and list(objects[0]) == sorted(expected)
        for name, (js, fs) in objects[0].items():
            assert list(js) == list(fs) == list(expected[name])
            values = [(js[i], fs[i]) for i in js]
            np.testing.assert_allclose(values, list(expected[name].values()), rtol=0, atol=1e-9)
        lines = (pred / "results.csv").read_text().splitlines()
        ids = [(line.split(",")[0].strip(), line.split(",")[1]) for line in lines[2:]]
        assert ids == [(name, f"{int(i):03d}") for name, found in sorted(expected.items()) for i in found]

    def test_several_data_sets(self, tmp_path, capsys):
        pairs = [sets.write_sets(tmp_path / layout, layout) for layout in LAYOUTS]
        truths, preds = zip(*pairs, strict=True)
        j_and_f, _, _, objects = benchmark(truths, preds, skip_first_and_last=False)
        assert len(j_and_f) == len(objects) == 2 and all((pred / "results.csv").exists() for pred in preds)
        assert capsys.readouterr().out.count("Global score") == 2

    def test_it_stops_if_anything_is_missing(self, pair):
        truth, pred = pair
        files = [sorted((pred / name).rglob("*.png"))[3] for name in ("video0", "video2")]
        for file in files:
            sets.cut(file)
        with pytest.raises(EvaluationError) as caught:
            benchmark([truth], [pred], verbose=False)
        assert all(str(file) in str(caught.value) for file in files)
        assert not (pred / "results.csv").exists()

    def test_strict_by_default(self, pair):
        shutil.rmtree(pair[0] / "video0")
        with pytest.raises(EvaluationError, match="video0"):
            benchmark([pair[0]], [pair[1]])
        benchmark([pair[0]], [pair[1]], strict=False)
        with pytest.raises(ValueError, match="pair them"):
            benchmark([pair[0]], [])


def test_the_official_file_by_hand(tmp_path):
    """Two objects with known scores, one of them perfect; a name longer than the heading."""
    labels = np.zeros((3, 40, 40), dtype=np.uint8)
    labels[:, 10:20, 10:20], labels[:, 30:, 30:] = 1, 2
    pred = labels.copy()
    pred[:, 30:, 35:] = 0  # half of object 2
    sets.write_davis(tmp_path / "truth/a-name-of-some-length", labels)
    sets.write_davis(tmp_path / "pred/a-name-of-some-length", pred)
    benchmark([tmp_path / "truth"], [tmp_path / "pred"], verbose=False)
    f = 100 * plain.f_of(pred[1] == 2, labels[1] == 2)
    rows = [((100 + 50) / 2 + (100 + f) / 2) / 2, (100 + f) / 2, (50 + f) / 2]
    assert 40 < f < 100
    name = "a-name-of-some-length"
    assert (tmp_path / "pred/results.csv").read_text() == (
        f"{'sequence':<{len(name)}},obj,  J&F,    J,    F\n"
        f"{'Global score':<{len(name)}},   , {rows[0]:.1f}, 75.0, {rows[1]:.1f}\n"
        f"{name},001, 100.0, 100.0, 100.0\n"
        f"{name},002, {rows[2]:.1f}, 50.0, {f:.1f}\n"
    )


def test_the_official_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    truth, pred = sets.write_sets(tmp_path, "davis")
    before = sorted(pred.iterdir())

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk is full"):
        benchmark([truth], [pred], verbose=False)
    assert sorted(pred.iterdir()) == before

"""J&F of folders and their ``scores`` against a simple implementation, the official function, and invalid folders."""

import math
import os
import shutil
from pathlib import Path
from unittest import mock

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


def test_a_process_that_is_killed(tmp_path, monkeypatch):
    truth, pred = sets.write_sets(tmp_path, "davis")
    monkeypatch.setattr(folders, "FRAMES_FOR_A_PROCESS", 1)
    monkeypatch.setattr(folders, "compare_frames", sets.end_the_process)
    with pytest.raises(EvaluationError, match="was killed.* use fewer processes"):
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
    """The official package fails here in the layout of SA-V."""
    truth, pred = sets.write_sets(tmp_path, "sav")
    masks, _ = sets.hard_case()
    sets.write_sav(truth / "video0", masks * 0, [4])
    sets.write_sav(pred / "video0", masks, [4])
    with pytest.raises(AssertionError, match="never shown"):
        plain.evaluate(truth, pred)
    scores = evaluate_folders(truth, pred)
    assert list(scores.problems) == ["video0"] and scores.videos[0].objects == {}
    assert scores.problems["video0"] == (f"{truth}/video0/004 shows its object in none of the 7 frames that count",)


def test_an_object_with_two_annotated_frames(tmp_path):
    """In the layout of SA-V, each object has its own annotated frames. Both are left out by default."""
    masks, _ = sets.hard_case()
    for folder in ("truth", "pred"):
        sets.write_sav(tmp_path / folder / "video0", masks[:2], [4])
    (problem,) = evaluate_folders(tmp_path / "truth", tmp_path / "pred").problems["video0"]
    assert problem.startswith(f"{tmp_path}/truth/video0/004 has no scored frame") and "--keep-first-and-last" in problem


@pytest.mark.parametrize("values", [(0, 1), (0, 255), (3, 9), (7,)])
def test_nonzero_pixels_are_the_object_in_the_layout_of_sav(tmp_path, values):
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


def test_the_official_file_by_hand(tmp_path):
    """Two objects with known scores, one of them perfect; a name longer than the heading."""
    labels = np.zeros((3, 40, 40), dtype=np.uint8)
    labels[:, 10:20, 10:20], labels[:, 30:, 30:] = 1, 2
    pred = labels.copy()
    pred[:, 30:, 35:] = 0  # half of object 2
    name = "a-name-of-some-length"
    sets.write_davis(tmp_path / "truth" / name, labels)
    sets.write_davis(tmp_path / "pred" / name, pred)
    benchmark([tmp_path / "truth"], [tmp_path / "pred"], verbose=False)
    f = 100 * plain.f_of(pred[1] == 2, labels[1] == 2)
    rows = [((100 + 50) / 2 + (100 + f) / 2) / 2, (100 + f) / 2, (50 + f) / 2]
    assert 40 < f < 100
    assert (tmp_path / "pred/results.csv").read_text() == (
        f"{'sequence':<{len(name)}},obj,  J&F,    J,    F\n"
        f"{'Global score':<{len(name)}},   , {rows[0]:.1f}, 75.0, {rows[1]:.1f}\n"
        f"{name},001, 100.0, 100.0, 100.0\n"
        f"{name},002, {rows[2]:.1f}, 50.0, {f:.1f}\n"
    )


def test_the_official_file_is_written_atomically(tmp_path, monkeypatch):
    truth, pred = sets.write_sets(tmp_path, "davis")
    before = sorted(pred.iterdir())
    monkeypatch.setattr(os, "replace", mock.Mock(side_effect=OSError("the disk is full")))
    with pytest.raises(OSError, match="disk is full"):
        benchmark([truth], [pred], verbose=False)
    assert sorted(pred.iterdir()) == before


def cropped(file: Path) -> None:
    Image.open(file).crop((0, 0, 83, 47)).save(file)


def of_several_objects(file: Path) -> None:
    labels = np.array(Image.open(file))
    labels[0, :3] = 0, 77, 255
    Image.fromarray(labels).save(file)


class TestProblems:
    def test_other_videos_are_still_scored(self, pair):
        truth, pred = pair
        expected, whole = plain.evaluate(truth, pred), evaluate_folders(truth, pred)
        gone, cut_pred = (sorted((pred / name).rglob("*.png"))[4] for name in ("video1", "video2"))
        cut_truth = sorted((truth / "video2").rglob("*.png"))[5]
        gone.unlink()
        sets.cut(cut_pred)
        sets.cut(cut_truth)
        seen = []
        scores = evaluate_folders(truth, pred, on_video=seen.append)
        assert list(scores.problems) == ["video1", "video2"] and [video.name for video in seen] == sorted(expected)
        assert scores.videos[0] == whole.videos[0]
        assert scores.j == pytest.approx(plain.overall({"video0": expected["video0"]})[1])
        assert scores.problems["video1"] == (f"1 of 7 masks are missing in {gone.parent}: {gone.name}",)
        damaged = scores.problems["video2"]
        assert len(damaged) == 2 and all("cannot be read as a mask" in line for line in damaged)
        assert str(cut_pred) in damaged[0] and str(cut_truth) in damaged[1]

    def test_frames_that_do_not_count_need_not_be_there(self, pair):
        truth, pred = pair
        expected = plain.evaluate(truth, pred)
        for folder in [pred / "video0", *(pred / "video0").iterdir()]:
            files = sorted(folder.glob("*.png")) if folder.is_dir() else []
            for file in files[:1] + files[-1:]:
                file.unlink()
        plain.assert_same(evaluate_folders(truth, pred), expected)
        assert list(evaluate_folders(truth, pred, skip_first_and_last=False).problems) == ["video0"]

    def test_other_frames_of_the_prediction_do_not_matter(self, pair):
        truth, pred = pair
        expected = [video.objects for video in evaluate_folders(truth, pred).videos]
        for folder in {truth / "video0", *(file.parent for file in (truth / "video0").rglob("*.png"))}:
            for hidden in (".DS_Store", "._00001.png"):
                (folder / hidden).write_bytes(b"not an image")
        for file in sorted(pred.rglob("*.png")):
            shutil.copy(file, file.with_name("99999.png"))
        (pred / "results.csv").write_text("of an earlier run")
        scores = evaluate_folders(truth, pred)
        assert [video.objects for video in scores.videos] == expected
        for video in scores.videos:
            assert not video.only_truth and {Path(name).name for name in video.only_pred} == {"99999.png"}

    @pytest.mark.parametrize("shift", [-1, 1])
    def test_frames_with_other_numbers_are_named(self, pair, shift):
        """Numbered from 1 in one folder and from 0 in the other, pairs are shifted, and all that count are there."""
        truth, pred = pair
        step = 1 if (truth / "video0/00001.png").exists() else 4
        for folder, begin in ((truth, 100), (pred, 100 + shift * step)):
            for file in sorted((folder / "video0").rglob("*.png")):
                file.rename(file.with_name(f"{int(file.stem) + begin:05d}.png"))
        video, *others = evaluate_folders(truth, pred).videos
        assert video.only_truth and len(video.only_truth) == len(video.only_pred)
        assert all(not (other.only_truth or other.only_pred) for other in others)
        name = video.only_truth[0 if shift > 0 else -1]
        assert (truth / "video0" / name).exists() and not (pred / "video0" / name).exists()

    @pytest.mark.parametrize(("ours", "theirs"), [((1,), (255,)), ((4,), (1, 2))])
    def test_values_of_which_none_is_shared(self, tmp_path, ours, theirs):
        truth, pred = sets.write_sets(tmp_path, "davis")
        for folder, values in ((truth, ours), (pred, theirs)):
            shutil.rmtree(folder / "video0")
            labels = np.zeros((5, 20, 20), np.uint8)
            for i, value in enumerate(values):
                labels[:, 4:9, 8 * i : 8 * i + 6] = value
            sets.write_davis(folder / "video0", labels)
        ids, found = (", ".join(map(str, values)) for values in (ours, theirs))
        (line,) = evaluate_folders(truth, pred).problems["video0"]
        assert f"share no object: its masks have the values {found}, the truth's {ids};" in line

    def test_values_of_which_some_are_shared_or_none_is_there(self, tmp_path):
        """An object that is lost or invented is a matter of scores."""
        truth, pred = sets.write_sets(tmp_path, "davis")
        for name, values in (("video0", [1, 3]), ("video1", [0])):
            for file in sorted((pred / name).iterdir()):
                labels = np.array(Image.open(file))
                Image.fromarray(np.where(np.isin(labels, values), labels, 0).astype(np.uint8)).save(file)
        scores = evaluate_folders(truth, pred)
        assert not scores.problems and scores.videos[0].objects[1].j > 0 and scores.videos[1].objects[1].j == 0

    @pytest.mark.parametrize("side", ["truth", "pred"])
    @pytest.mark.parametrize(
        ("layout", "spoil", "message"),
        [
            ("davis", cropped, "must be equal"),
            ("davis", sets.save_colours, "mode RGB"),
            ("sav", sets.save_colours, "mode RGB"),
            ("sav", of_several_objects, "more than two values"),
        ],
    )
    def test_a_file_that_cannot_be_used_is_named(self, tmp_path, layout, spoil, message, side):
        pair = sets.write_sets(tmp_path, layout)
        file = sorted((pair[side == "pred"] / "video0").rglob("*.png"))[3]
        spoil(file)
        (line,) = evaluate_folders(*pair).problems["video0"]
        assert str(file) in line and message in line

    def test_folders_of_objects_that_do_not_fit(self, tmp_path):
        truth, pred = sets.write_sets(tmp_path, "sav")
        shutil.rmtree(pred / "video1/003")
        (truth / "video2/list.txt").write_text("001")
        problems = evaluate_folders(truth, pred).problems
        assert problems["video1"] == (f"{pred}/video1/003 is missing: the truth has {truth}/video1/003",)
        (line,) = problems["video2"]
        assert line.startswith(f"{truth}/video2/list.txt is neither")

    @pytest.mark.parametrize(
        ("call", "error", "word"),
        [
            (lambda truth, pred: evaluate_folders(truth, "/nowhere"), EvaluationError, "'/nowhere' cannot be read"),
            (lambda truth, pred: evaluate_folders(truth, pred.parent), EvaluationError, "no video is in both"),
            (lambda truth, pred: evaluate_folders(truth, pred, processes=0), ValueError, "processes is 0"),
            (lambda truth, pred: benchmark([truth], []), ValueError, "pair them"),
        ],
    )
    def test_refusals(self, tmp_path, call, error, word):
        with pytest.raises(error, match=word):
            call(*sets.write_sets(tmp_path, "davis"))


class TestWhichVideos:
    def test_those_of_both_folders(self, pair):
        truth, pred = pair
        (truth / "video0").rename(truth / "zebra")
        scores = evaluate_folders(truth, pred)
        assert [video.name for video in scores.videos] == ["video1", "video2"]
        assert (scores.only_truth, scores.only_pred) == (("zebra",), ("video0",))
        with pytest.raises(EvaluationError, match=f"in {truth} but not in {pred}: zebra; .*not in {truth}: video0"):
            evaluate_folders(truth, pred, strict=True)
        (truth / "zebra").rename(truth / "video0")
        (pred / "results.csv").write_text("")
        assert len(evaluate_folders(truth, pred, strict=True).videos) == 3

    def test_annotations_below_the_truth(self, pair):
        truth, pred = pair
        expected = evaluate_folders(truth, pred).videos
        sets.move_below(truth, "Annotations")
        scores = evaluate_folders(truth, pred, strict=True)  # one entry on one side, three on the other
        assert scores.videos == expected and scores.truth == truth / "Annotations"
        (truth / "video0").mkdir()
        assert evaluate_folders(truth, pred).videos == expected, "in official code, the numbers of entries differ"
        (truth / "video0").rmdir()
        for name in ("JPEGImages", "ImageSets"):
            (truth / name).mkdir()
        assert evaluate_folders(truth, pred).videos == expected, "also with three entries on both sides"

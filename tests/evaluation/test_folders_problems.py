"""Invalid folders, and which videos of two folders are compared."""

import re
import shutil
from pathlib import Path

import mask_sets as sets
import numpy as np
import plain_evaluator as plain
import pytest
from PIL import Image

from sam2fast.evaluation.folders import EvaluationError, evaluate_folders


@pytest.fixture(params=["davis", "sav"])
def pair(request, tmp_path):
    """Ground truth and prediction in either layout."""
    return sets.write_sets(tmp_path, request.param)


def cropped(file: Path) -> None:
    Image.open(file).crop((0, 0, 83, 47)).save(file)


def of_several_objects(file: Path) -> None:
    labels = np.array(Image.open(file))
    labels[0, :3] = 0, 77, 255
    Image.fromarray(labels).save(file)


class TestProblems:
    def test_all_else_is_done(self, pair):
        truth, pred = pair
        expected, whole = plain.evaluate(truth, pred), evaluate_folders(truth, pred)
        gone, cut_pred = (sorted((pred / name).rglob("*.png"))[4] for name in ("video1", "video2"))
        cut_truth = sorted((truth / "video2").rglob("*.png"))[5]
        gone.unlink()
        sets.cut(cut_pred)
        sets.cut(cut_truth)
        told = []
        scores = evaluate_folders(truth, pred, on_video=told.append)
        assert list(scores.problems) == ["video1", "video2"] and [video.name for video in told] == sorted(expected)
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
        for folder in [truth / "video0", *(truth / "video0").iterdir()]:
            if folder.is_dir():
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

    @pytest.mark.parametrize(("ours", "theirs"), [((1,), (255,)), ((255,), (1,)), ((1, 2), (38, 75)), ((4,), (1, 2))])
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
            ("davis", cropped, "pixels, .* they must be equal"),
            ("davis", sets.save_colours, ": a mask must be a palette or a grey PNG, got mode RGB"),
            ("sav", sets.save_colours, ": a mask must be a palette or a grey PNG, got mode RGB"),
            ("sav", of_several_objects, "has more than two values"),
        ],
    )
    def test_a_file_that_cannot_be_used_is_named(self, tmp_path, layout, spoil, message, side):
        pair = sets.write_sets(tmp_path, layout)
        file = sorted((pair[side == "pred"] / "video0").rglob("*.png"))[3]
        spoil(file)
        (line,) = evaluate_folders(*pair).problems["video0"]
        assert str(file) in line and re.search(message, line)

    def test_folders_of_objects_that_do_not_fit(self, tmp_path):
        truth, pred = sets.write_sets(tmp_path, "sav")
        shutil.rmtree(pred / "video1/003")
        (truth / "video2/list.txt").write_text("001")
        problems = evaluate_folders(truth, pred).problems
        assert problems["video1"] == (f"{pred}/video1/003 is missing: the truth has {truth}/video1/003",)
        (line,) = problems["video2"]
        assert line.startswith(f"{truth}/video2/list.txt is no folder: expected PNGs of frames alone, or folders")

    def test_folders_that_cannot_be_compared(self, tmp_path):
        truth, pred = sets.write_sets(tmp_path, "davis")
        with pytest.raises(EvaluationError, match="'/nowhere' cannot be read: No such file"):
            evaluate_folders(truth, "/nowhere")
        (tmp_path / "empty").mkdir()
        with pytest.raises(EvaluationError, match="no video is in both .*truth and .*empty"):
            evaluate_folders(truth, tmp_path / "empty")
        with pytest.raises(ValueError, match="processes is 0; expected 1 or more"):
            evaluate_folders(truth, pred, processes=0)


class TestWhichVideos:
    def test_those_of_both_folders(self, pair):
        truth, pred = pair
        (truth / "video0").rename(truth / "zebra")
        scores = evaluate_folders(truth, pred)
        assert [video.name for video in scores.videos] == ["video1", "video2"]
        assert (scores.only_truth, scores.only_pred) == (("zebra",), ("video0",))
        with pytest.raises(EvaluationError) as caught:
            evaluate_folders(truth, pred, strict=True)
        assert str(caught.value) == (
            f"videos that are in {truth} but not in {pred}: zebra; videos that are in {pred} but not in {truth}: video0"
        )
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
        assert evaluate_folders(truth, pred).videos == expected, "as in the original, the numbers of entries differ"
        (truth / "video0").rmdir()
        for name in ("JPEGImages", "ImageSets"):
            (truth / name).mkdir()
        assert evaluate_folders(truth, pred).videos == expected, "also with three entries on both sides"

"""``sam2fast evaluate``: table, results.csv, JSON, and missing files."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import mask_sets as sets
import numpy as np
import plain_evaluator as plain
import pytest
from commands import ends, ok
from PIL import Image

from sam2fast.evaluation.folders import evaluate_folders
from sam2fast.io.label_maps import label_png


@pytest.fixture
def pair(tmp_path):
    return sets.write_sets(tmp_path, "davis")


@pytest.fixture
def score(run, pair):
    """Runs the command on the pair."""
    return lambda *options: run("evaluate", "--gt", pair[0], "--pred", pair[1], *options)


def table_of(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_table_and_results(score, pair):
    truth, pred = pair
    result = ok(score())
    expected = plain.evaluate(truth, pred)
    rows = table_of(result.stdout)
    assert rows[0] == ["video", "object", "J&F", "J", "F", "masks"]
    body = iter(rows[1:])
    for name, objects in sorted(expected.items()):
        for i, (j, f) in objects.items():
            assert next(body)[:5] == [name, str(i), f"{(j + f) / 2:.1f}", f"{j:.1f}", f"{f:.1f}"]
        whole = [f"{value:.1f}" for value in plain.overall({name: objects})]
        assert next(body)[:5] == [name, "all", *whole]
    assert next(body)[:5] == ["all", "11", *(f"{value:.1f}" for value in plain.overall(expected))]
    assert rows[1][5] == "7" and rows[-1][5] == str(sum(int(row[5]) for row in rows[1:-1] if row[1] != "all"))
    lines = (pred / "results.csv").read_text().splitlines()
    assert lines[0].split(",")[0].strip() == "sequence" and len(lines) == 2 + 11
    assert result.stderr == f"sam2fast: note: written to {pred}/results.csv\n"


def test_original_option_names(run, score, pair, tmp_path):
    truth, pred = pair
    options = ("--gt_root", truth, "--pred_root", pred, "-n", 1, "-s", "-q", "--do_not_skip_first_and_last_frame")
    result = run("evaluate", *options)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    j_and_f, j, f = plain.overall(plain.evaluate(truth, pred, skip=False))
    assert (pred / "results.csv").read_text().splitlines()[1] == f"Global score,   , {j_and_f:.1f}, {j:.1f}, {f:.1f}"
    ours = ("--processes", 1, "--strict", "--quiet", "--keep-first-and-last", "--csv", tmp_path / "ours.csv")
    assert score(*ours).exit_code == 0
    assert (tmp_path / "ours.csv").read_bytes() == (pred / "results.csv").read_bytes()


@pytest.mark.parametrize("options", [(), ("--jsonl",)])
def test_a_closed_stdout_ends_the_command_quietly(run, pair, monkeypatch, options):
    echo = click.echo

    def closed(*args, err=False, **kwargs):
        if not err:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        echo(*args, err=err, **kwargs)

    monkeypatch.setattr("click.echo", closed)
    result = run("evaluate", "--gt", pair[0], "--pred", pair[1], "--gt", pair[0], "--pred", pair[1], *options)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "")


def test_json(score, pair):
    truth, pred = pair
    (pred / "video2").rename(pred / "video3")
    result = ok(score("--json", "--quiet"))
    (found,) = json.loads(result.stdout)["results"]
    assert (found["only_in_gt"], found["only_in_pred"], found["problems"]) == (["video2"], ["video3"], {})
    assert found["gt"] == str(truth) and found["pred"] == str(pred) and found["first_and_last_skipped"] is True
    expected = plain.evaluate(truth, pred)
    assert [found[key] for key in ("J&F", "J", "F")] == pytest.approx(plain.overall(expected))
    assert list(found["videos"]) == ["video0", "video1"]
    one = found["videos"]["video0"]["objects"]["2"]
    assert (one["J"], one["F"]) == pytest.approx(expected["video0"][2]) and one["frames"] == 6


def test_missing_and_damaged_files(score, pair, tmp_path):
    truth, pred = pair
    (pred / "video0/00004.png").unlink()
    sets.cut(pred / "video2/00003.png")
    result = score()
    assert result.exit_code == 1
    left = plain.overall({"video1": plain.evaluate_video(truth, pred, "video1")[1]})
    assert table_of(result.stdout)[-1][:5] == ["all", "3", *(f"{value:.1f}" for value in left)]
    report = result.stderr[result.stderr.index("failed or incomplete: 2 of 3 videos:") :]
    assert f"  1 of 7 masks are missing in {pred}/video0: 00004.png" in report
    assert f"{pred}/video2/00003.png cannot be read as a mask" in report
    assert report.endswith("2 of 3 videos had problems; all else was done\n")
    assert "results.csv is not written, since some videos had problems; --partial writes" in result.stderr
    assert not (pred / "results.csv").exists()

    result = score("--partial", "--json")
    assert result.exit_code == 1
    assert list(json.loads(result.stdout)["results"][0]["problems"]) == ["video0", "video2"]
    written = (pred / "results.csv").read_text()
    assert "video1" in written and "video0" not in written and "video2" not in written
    ends(score(), 1, f"problems; {pred}/results.csv is from an earlier run\n")
    assert (pred / "results.csv").read_text() == written

    (pred / "video1/00004.png").unlink()
    result = score("--partial", "--csv", tmp_path / "none.csv", "--json")
    assert result.exit_code == 1 and not (tmp_path / "none.csv").exists()
    assert json.loads(result.stdout)["results"][0]["J&F"] is None


def test_several_pairs_of_which_one_fails(run, tmp_path):
    """The other pairs are scored, written and in the JSON document; an old results file is reported as such."""
    pairs = [sets.write_sets(tmp_path / layout, layout) for layout in ("davis", "sav")]
    ask = [part for truth, pred in pairs for part in ("--gt", truth, "--pred", pred)]
    result = run("evaluate", *ask)
    assert result.exit_code == 0 and sum(row[0] == "all" for row in table_of(result.stdout)) == 2
    assert all((pred / "results.csv").exists() for _, pred in pairs)
    (pairs[0][1] / "results.csv").unlink()
    (pairs[0][1] / ".results.csv.7.part").write_text("of a process that was killed")
    (pairs[1][1] / "results.csv").write_text("before")
    shutil.rmtree(pairs[1][1] / "video1")
    result = run("evaluate", *ask, "--strict")
    assert result.exit_code == 1 and (pairs[0][1] / "results.csv").exists()
    assert not (pairs[0][1] / ".results.csv.7.part").exists()
    assert result.stderr.endswith(f": video1; {pairs[1][1]}/results.csv is from an earlier run\n")
    assert (pairs[1][1] / "results.csv").read_text() == "before"
    content = json.loads(run("evaluate", *ask, "--strict", "--json").stdout)
    (one,), (failed,) = content["results"], content["failed"]
    assert one["pred"] == str(pairs[0][1]) and len(one["videos"]) == 3
    assert (failed["gt"], failed["pred"]) == tuple(map(str, pairs[1])) and ": video1;" in failed["error"]
    lines = [json.loads(line) for line in run("evaluate", *ask[4:], "--strict", "--jsonl").stdout.splitlines()]
    assert lines == [{"input": failed["pred"], "error": failed["error"]}]
    content = json.loads(run("evaluate", *ask[4:], "--strict", "--json").stdout)
    assert content == {"results": [], "failed": [failed], "left_out": []}


def test_masks_of_one_folder_only(score, pair):
    truth, pred = pair
    for file in sorted((pred / "video1").iterdir(), reverse=True):
        file.rename(file.with_name(f"{int(file.stem) + 1:05d}.png"))
    (pred / "video0/00020.png").write_bytes((pred / "video0/00001.png").read_bytes())
    result = score("--json")
    (found,) = json.loads(result.stdout)["results"]
    assert (found["masks_only_in_gt"], found["masks_only_in_pred"]) == (1, 2)
    note = f"1 mask (only {truth} has it; video1/00000.png), 2 masks (only {pred} has it; first: video0/00020.png)"
    assert result.exit_code == 0 and result.stderr.endswith(f"sam2fast: note: left out: {note}\n")


def test_videos_without_objects(score, pair):
    """Without an object in the scored frames, or with two annotated frames, which are not scored by default."""
    truth, pred = pair
    labels, _ = sets.hard_case()
    shutil.rmtree(truth / "video0")
    sets.write_davis(truth / "video0", [0 * label for label in labels])
    assert f"1 video ({truth} shows no object in the scored frames; video0)\n" in score().stderr
    for name in ("video0", "video1", "video2"):
        shutil.rmtree(truth / name)
        sets.write_davis(truth / name, labels[:2])
        if name == "video0":
            assert f"1 video ({truth} has no scored frame; the first and the last annotated frame " in score().stderr
    (pred / "results.csv").unlink()
    result = score()
    assert result.exit_code == 1 and result.stderr.startswith(f"sam2fast: nothing to score: {truth} has no scored fr")
    assert "--keep-first-and-last" in result.stderr and not (pred / "results.csv").exists()
    assert "has no scored frame" not in score("--keep-first-and-last").stderr


def test_one_note_counts_what_is_left_out_of_all_pairs(run, tmp_path):
    """The JSON has the counts of each pair, and those of all."""
    pairs = [sets.write_sets(tmp_path / name, "davis") for name in ("one", "two")]
    (one, _), (two, other) = pairs
    shutil.rmtree(pairs[0][1] / "video0")
    (other / "video1").rename(other / "video3")
    (other / "video2/00020.png").write_bytes((other / "video2/00001.png").read_bytes())
    ask = ["evaluate", *(part for truth, pred in pairs for part in ("--gt", truth, "--pred", pred))]
    result = run(*ask)
    assert result.exit_code == 0 and result.stderr.count("left out") == 1
    assert result.stderr.endswith(
        f"note: left out: 1 video (only {one} has it; video0), 1 video (only {two} has it; video1), "
        f"1 video (only {other} has it; video3), 1 mask (only {other} has it; video2/00020.png)\n"
    )
    found = json.loads(run(*ask, "--json", "-q").stdout)
    first = {"what": "video", "why": f"only {one} has it", "count": 1, "first": "video0"}
    assert [entry["first"] for entry in found["left_out"]] == ["video0", "video1", "video3", "video2/00020.png"]
    assert [pair["left_out"] for pair in found["results"]] == [[first], found["left_out"][1:]]
    lines = [json.loads(line) for line in run(*ask, "--jsonl").stdout.splitlines()]
    assert lines == [*found["results"], {"left_out": found["left_out"]}]


def test_what_cannot_be_written(score, pair, tmp_path):
    truth, pred = pair
    result = score("--csv", tmp_path / "nowhere/results.csv")
    assert result.exit_code == 1 and "No such file or directory" in result.stderr and "all" in result.stdout
    (pred / "video1/00004.png").unlink()
    ask = ("--json", "--quiet", "--partial", "--csv", tmp_path / "nowhere/results.csv")
    result = score(*ask)
    assert result.exit_code == 1 and list(json.loads(result.stdout)["results"][0]["videos"]) == ["video0", "video2"]
    assert (
        result.stderr.startswith("sam2fast: 1 of 7 masks are missing in ") and "all else was done" not in result.stderr
    )


def test_a_worker_process_imports_nothing_heavy(pair):
    truth, pred = pair
    command = [Path(sys.executable).with_name("sam2fast"), "evaluate", "--gt", truth, "--pred", pred]
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    loaded = {line.split("|")[-1].strip() for line in result.stderr.splitlines() if line.startswith("import time:")}
    assert result.returncode == 0 and "sam2fast.evaluation.folders" in loaded
    assert not loaded & {"torch", "scipy", "skimage", "hydra"}


def with_void(truth: Path, layout: str) -> None:
    """Marks a band of the true masks as void, along outlines as DAVIS and VOST do; keeps 255 from being an object."""
    for file in truth.rglob("*.png"):
        labels = np.array(Image.open(file))
        if layout == "sav":
            labels = (labels > 0).astype(np.uint8)
        labels[plain.outline(labels > 0)] = 255
        labels[5:9, 5:40] = 255
        file.write_bytes(label_png(labels))


def clear_void(truth: Path, pred: Path) -> None:
    """Clears the void pixels of the truth in both, in place."""
    for file in truth.rglob("*.png"):
        labels, other = np.array(Image.open(file)), pred / file.relative_to(truth)
        predicted = np.array(Image.open(other))
        predicted[labels == 255] = 0
        labels[labels == 255] = 0
        file.write_bytes(label_png(labels))
        other.write_bytes(label_png(predicted))


@pytest.mark.parametrize("layout", ["davis", "sav"])
def test_void_pixels_leave_truth_and_prediction(run, tmp_path, layout):
    truth, pred = sets.write_sets(tmp_path, layout)
    with_void(truth, layout)
    shutil.copytree(truth, tmp_path / "cleared/truth")
    shutil.copytree(pred, tmp_path / "cleared/pred")
    clear_void(tmp_path / "cleared/truth", tmp_path / "cleared/pred")
    expected = plain.evaluate(tmp_path / "cleared/truth", tmp_path / "cleared/pred")
    result = ok(run("evaluate", "--gt", truth, "--pred", pred, "--ignore-label", 255, "--json", "-q"))
    (found,) = json.loads(result.stdout)["results"]
    assert found["ignored_labels"] == [255]
    for name, objects in expected.items():
        measured = {i: (one["J"], one["F"]) for i, one in found["videos"][name]["objects"].items()}
        assert measured == {str(i): pytest.approx(pair) for i, pair in objects.items()}
    # From Python, too.
    scores = evaluate_folders(truth, pred, ignored_labels=[255])
    plain.assert_same(scores, expected)
    assert scores.with_void == []


def test_without_the_option_255_beside_others_is_an_object_with_a_note(run, tmp_path):
    truth, pred = sets.write_sets(tmp_path, "davis")
    shutil.rmtree(truth / "video1")
    with_void(truth, "davis")
    expected = plain.evaluate(truth, pred)
    assert 255 in expected["video0"]
    result = run("evaluate", "--gt", truth, "--pred", pred, "--json")
    (found,) = json.loads(result.stdout)["results"]
    assert [found[key] for key in ("J&F", "J", "F")] == pytest.approx(plain.overall(expected))
    (note,) = [line for line in result.stderr.splitlines() if "scored as an object" in line]
    assert "2 of 2 videos, such as video0" in note and "--ignore-label 255" in note


def test_255_alone_is_the_object_without_a_note(run, tmp_path):
    masks = np.stack([sets.hard_case()[1]] * 2) == 1
    for root, each in zip(("truth", "pred"), masks, strict=True):
        sets.write_davis(tmp_path / root / "video", each.astype(np.uint8) * 255)
    result = run("evaluate", "--gt", tmp_path / "truth", "--pred", tmp_path / "pred")
    assert result.exit_code == 0 and "--ignore-label" not in result.stderr
    assert table_of(result.stdout)[1][:3] == ["video", "255", "100.0"]


def test_void_in_a_folder_of_one_object_names_the_option(run, tmp_path):
    truth, pred = sets.write_sets(tmp_path, "sav")
    with_void(truth, "sav")
    ends(run("evaluate", "--gt", truth, "--pred", pred), 1, "more than two values", "--ignore-label")

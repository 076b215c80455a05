"""``sam2fast synthesize``: DAVIS layout, determinism, resuming."""

import errno
import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import fail_at, ok
from file_contents import files_of, names
from PIL import Image

from sam2fast import nano
from sam2fast.datasets import davis
from sam2fast.training.data.synthetic import SyntheticClips, pseudo_labels

SMALL = ("--frames", 3, "--size", 64)


def test_clips_in_the_layout_of_davis(run, tmp_path):
    out = tmp_path / "out"
    result = ok(run("synthesize", "--clips", 2, *SMALL, "--objects", 3, "--seed", 5, "--out", out))
    assert result.stdout == f"2 clips of 3 frames in {out}\n"
    expected = [f"{kind}/{clip}/0000{t}.{suffix}" for kind, suffix in (("Annotations", "png"), ("JPEGImages", "jpg"))
             for clip in ("00000", "00001") for t in range(3)]  # fmt: skip
    assert sorted(files_of(out)) == sorted([*expected, "ImageSets/all.txt", "synthesize.json"])
    assert (out / "ImageSets/all.txt").read_text() == "00000\n00001\n"

    clips = SyntheticClips(64, 3, 3, length=2, seed=5)
    for index in range(2):
        clip = clips.sample(index, np.random.default_rng([5, index]))
        for t in range(3):
            ids = Image.open(out / f"Annotations/0000{index}/0000{t}.png")
            assert ids.mode == "P"
            for number, mask in enumerate(clip.masks[t], 1):
                np.testing.assert_array_equal(np.asarray(ids) == number, mask)
            assert (np.asarray(ids) <= clip.masks.shape[1]).all()
            colours = np.asarray(ids.convert("RGB"))
            expected = np.array([(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)])
            np.testing.assert_array_equal(colours, expected[np.asarray(ids)])
            frame = np.asarray(Image.open(out / f"JPEGImages/0000{index}/0000{t}.jpg")).astype(int)
            assert frame.shape == (64, 64, 3) and np.abs(frame - clip.frames[t]).mean() < 12


def test_the_same_command_continues(run, tmp_path):
    out = tmp_path / "out"
    ask = ("synthesize", *SMALL, "--out", out)
    assert run(*ask, "--clips", 3).exit_code == 0
    whole = files_of(out)

    # As after an interrupt: one clip is missing, one has only masks, one is partial.
    for kind in ("JPEGImages", "Annotations"):
        shutil.rmtree(out / kind / "00001")
    shutil.rmtree(out / "JPEGImages/00002")
    (out / "Annotations/00002/00001.png").unlink()
    (out / ".00002.1.part/Annotations").mkdir(parents=True)
    (out / ".00002.1.part/Annotations/00009.png").write_text("")
    first = (out / "JPEGImages/00000/00000.jpg").stat().st_mtime_ns
    ok(run(*ask, "--clips", 3))
    assert files_of(out) == whole
    assert (out / "JPEGImages/00000/00000.jpg").stat().st_mtime_ns == first, "a complete clip is not made again"

    assert run(*ask, "--clips", 4).exit_code == 0
    assert (out / "ImageSets/all.txt").read_text().split() == ["00000", "00001", "00002", "00003"]
    assert whole.items() - files_of(out).items() == {("ImageSets/all.txt", whole["ImageSets/all.txt"])}


@pytest.mark.parametrize(
    ("owner", "name", "count"),
    [(davis, "label_png", 5), (Path, "rename", 4)],
    ids=["a full disk", "between the folders"],
)
def test_clips_are_complete_once_their_frames_are_there(run, tmp_path, monkeypatch, owner, name, count):
    """The second clip is interrupted."""
    with monkeypatch.context() as patch:
        fail_at(patch, owner, name, count, OSError(errno.ENOSPC, "no space left"))
        result = run("synthesize", *SMALL, "--clips", 2, "--out", "out")
    assert result.exit_code == 1 and "the disk is full" in result.stderr
    assert names(tmp_path / "out/JPEGImages") == ["00000"]
    assert run("synthesize", *SMALL, "--clips", 2, "--out", "out").exit_code == 0
    assert len(names(tmp_path / "out/JPEGImages/00001")) == 3


def test_media_and_its_errors(run, tmp_path, make_image):
    make_image("media/backgrounds/a.png")
    assert run("synthesize", *SMALL, "--clips", 1, "--media", "media/backgrounds/..", "--out", "a").exit_code == 0
    result = run("synthesize", *SMALL, "--media", tmp_path / "media/backgrounds", "--out", "b")
    assert result.exit_code == 1 and result.stderr.startswith("sam2fast: ") and "cutouts/" in result.stderr


LAX = pseudo_labels.ObjectSearch(
    points_per_side=2, least_iou=-99, least_stability=-1, areas=(0.02, 1), most_overlap=0.99
)


def test_photographs_that_cannot_be_read_are_counted_in_each_run(run, make_image, tmp_path, monkeypatch):
    make_image("photos/a.png")
    (tmp_path / "photos/b.png").write_text("no image")
    monkeypatch.setattr(pseudo_labels, "write_cutouts", functools.partial(pseudo_labels.write_cutouts, search=LAX))
    ask = ["--teacher", nano.WEIGHTS, "--model", "nano", "--device", "cpu", "--images", "photos", "--jsonl"]
    for _ in range(2):
        result = ok(run("synthesize", *SMALL, "--clips", 1, *ask, "--out", "out"))
        (entry,) = json.loads(result.stdout.splitlines()[-1])["left_out"]
        assert entry == {"what": "photograph", "why": "it cannot be read", "count": 1, "first": "photos/b.png"}
        assert result.stderr.count("photos/b.png") == 1, "only the note at the end names it"


def test_without_a_photograph_that_can_be_read(run, tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png", "notes.txt"):
        (tmp_path / "photos" / name).write_text("no image")
    ask = ["--teacher", nano.WEIGHTS, "--model", "nano", "--device", "cpu", "--images", "photos"]
    result = run("synthesize", *SMALL, "--clips", 1, *ask, "--out", "out")
    reasons = "1 file (its type is .txt; photos/notes.txt), 2 photographs (it cannot be read; first: photos/a.png)"
    assert result.exit_code == 1
    assert result.stderr.endswith(f"sam2fast: no photograph can be used; left out: {reasons}\n")


def test_media_that_cannot_be_used_are_counted_at_the_end(run, make_image, tmp_path):
    for name in ("backgrounds/good.png", "cutouts/opaque.png", "images/a.png", "images/b.png"):
        make_image(f"media/{name}")
    for name in ("backgrounds/1.png", "backgrounds/2.png"):
        (tmp_path / "media" / name).write_text("no image")
    (tmp_path / "media/masks").mkdir()
    mask = np.zeros(np.asarray(Image.open("media/images/a.png")).shape[:2], np.uint8)
    mask[8:40, 8:40] = 1
    Image.fromarray(mask).save(tmp_path / "media/masks/a.png")
    result = ok(run("synthesize", *SMALL, "--clips", 12, "--media", "media", "--out", "out", "--jsonl"))
    entries = json.loads(result.stdout.splitlines()[-1])["left_out"]
    assert sorted((entry["why"], entry["count"], Path(entry["first"]).parent.name) for entry in entries) == [
        ("it cannot be read", 2, "backgrounds"),
        ("it has no alpha channel to separate the object from its background", 1, "cutouts"),
        ("it has no mask", 1, "images"),
    ]
    (line,) = [line for line in result.stderr.splitlines() if "media/" in line]
    assert line.startswith("sam2fast: note: left out: ")


def test_teacher_makes_cutouts_first(run, make_image, tmp_path, model, monkeypatch):
    make_image("photos/a.png")
    make_image("photos/b.jpg")
    # Untrained weights find nothing with a high score.
    monkeypatch.setattr(pseudo_labels, "write_cutouts", functools.partial(pseudo_labels.write_cutouts, search=LAX))
    ask = ["--teacher" if argument == "--checkpoint" else argument for argument in model.small]
    command = ("synthesize", *SMALL, "--clips", 1, *ask, "--images", "photos", "--out", "out")
    ok(run(*command))
    media = tmp_path / "out/media"
    found = list((media / "cutouts").iterdir())
    record = json.loads((tmp_path / "out/synthesize.json").read_text())
    assert found and all(Image.open(path).mode == "RGBA" for path in found)
    assert record["made_from"]["photograph_path"].endswith("photos") and sum(record["files"].values()) == len(found)

    monkeypatch.setattr(pseudo_labels, "write_cutouts", None)
    assert run(*command).exit_code == 0, "photographs are not taught twice"
    found[0].unlink()
    pytest.raises(TypeError, run, *command)  # a cut-out was deleted

import os
import sys

import moving_shapes
import numpy as np
import pytest
import torch
from commands import NANO, load, ok
from PIL import Image

from sam2fast import nano
from sam2fast.checkpoints import VIDEO_ONLY
from sam2fast.cli.demo_run import COLLAGE, PHOTOGRAPHS, TRACKED, TRACKS, VIDEO, Photograph, demo_files
from sam2fast.cli.prompts import Prompts
from sam2fast.io.rle import decode_rle

SIZES = {"coffee": (400, 600), "cat": (300, 451)}
OF_VIDEO = {VIDEO, TRACKS}
# Places (x, y) that a whole object covers, and places of its surroundings.
COVERED = {
    "cup": (
        [(290, 30), (200, 100), (290, 150), (220, 180), (290, 240), (220, 280)],
        [(120, 200), (365, 290), (300, 340)],
    ),
    "saucer": ([(100, 180), (120, 300), (290, 350), (440, 180)], [(290, 150), (225, 270), (365, 290), (60, 100)]),
    "spoon": ([(412, 80), (365, 290), (350, 310)], [(290, 150), (300, 340), (440, 200)]),
    "cat": ([(60, 20), (380, 25), (225, 150), (20, 280), (340, 280)], [(20, 40), (430, 150)]),
    "eye": ([(150, 120), (195, 115)], [(225, 150), (320, 135)]),
}


@pytest.fixture
def short_clip(monkeypatch):
    """Of the video, only frames 0, 25 and 50 are tracked."""
    monkeypatch.setattr("sam2fast.cli.demo_run.EVERY", 25)


def test_demo(run, tmp_path, short_clip):
    """The whole demo with nano."""
    out = tmp_path / "out/demo"
    out.mkdir(parents=True)
    for file in demo_files(out):  # of a killed run
        file.with_name(f".{file.name}.1.part").touch()
    result = ok(run("demo", *NANO))
    assert sorted(os.listdir(out)) == sorted(file.name for file in demo_files(out))
    assert (
        result.stderr == ""
        and result.stdout.splitlines()[-1] == f"open {out.relative_to(tmp_path)}/{COLLAGE} to see the masks"
    )

    for stem, photograph in PHOTOGRAPHS.items():
        results = load(out / f"{stem}.json")["results"]
        for prompts, record in zip(photograph.objects, results, strict=True):
            mask = np.asarray(Image.open(out / f"{stem}_{prompts.object}_mask.png")) > 0
            np.testing.assert_array_equal(decode_rle(record["rle"]), mask)
            assert mask.shape == SIZES[stem] and record["image"] == photograph.file.name
            assert record["prompts"] == prompts.as_json() and record["model"]["config"] == nano.CONFIG
            (line,) = (line for line in result.stdout.splitlines() if line.startswith(f"{stem} {prompts.object} "))
            assert line.split()[2:4] == [f"{record['score']:.3f}", str(mask.sum())]

    tracks = load(out / TRACKS)
    assert tracks["frames"] == [0, 25, 50] and [one["object"] for one in tracks["objects"]] == [
        one.object for one in TRACKED
    ]
    assert all(decode_rle(rle).shape == (540, 960) for one in tracks["objects"] for rle in one["rle"])
    frames, _ = moving_shapes.decoded(out / VIDEO)
    assert len(frames) == 3 and frames[0].shape == (540, 960, 3)

    # Two rows of frames are below the row of photographs in the collage, all with their masks.
    collage = np.asarray(Image.open(out / COLLAGE), dtype=float)
    photograph = Image.open(out / "coffee_overlay.png").resize((615, 410), Image.Resampling.LANCZOS)
    assert collage.shape == (410 + 2 * (8 + 171), 1240, 3)
    np.testing.assert_array_equal(collage[:410, :615], np.asarray(photograph))
    shown = np.asarray(Image.fromarray(frames[-1]).resize((304, 171), Image.Resampling.LANCZOS), dtype=float)
    assert np.abs(collage[-171:, -304:] - shown).mean() < 4  # the video is compressed


def test_results_are_deterministic(run, tmp_path, short_clip):
    for name in ("one", "two"):
        assert run("demo", *NANO, "--out", name).exit_code == 0
    for file in sorted(os.listdir(tmp_path / "one")):
        one, two = ((tmp_path / name / file).read_bytes() for name in ("one", "two"))
        assert one.replace(b'"one/', b'"two/') == two, file


def test_mini_finds_whole_objects(run, tmp_path, monkeypatch):
    """The masks of README's image: all parts of each object, and nothing beside it, also in the video's last frame."""
    monkeypatch.setattr("sam2fast.cli.demo_run.EVERY", 12)
    assert run("demo", "--device", "cpu").exit_code == 0
    for stem in PHOTOGRAPHS:
        for record in load(tmp_path / f"out/demo/{stem}.json")["results"]:
            mask, (inside, outside) = decode_rle(record["rle"]), COVERED[record["object"]]
            assert all(mask[y, x] for x, y in inside) and not any(mask[y, x] for x, y in outside), record["object"]
    flower, upper, lower = (
        [decode_rle(rle) for rle in one["rle"]] for one in load(tmp_path / f"out/demo/{TRACKS}")["objects"]
    )
    assert flower[0][250, 440] and all(flower[-1][y, x] for x, y in ((330, 230), (440, 250), (560, 200), (400, 340)))
    assert flower[-1].sum() > 4 * flower[0].sum() and 0.9 < upper[-1].sum() / upper[0].sum() < 1.1
    assert lower[0][350, 360] and (flower[-1] & lower[-1]).sum() < 0.02 * lower[-1].sum()


def test_a_users_image_and_weights_for_images_only(run, tmp_path, make_image, nano_checkpoint):
    weights = torch.load(nano_checkpoint, weights_only=True)["model"]
    torch.save({"model": {k: v for k, v in weights.items() if not k.startswith(VIDEO_ONLY)}}, tmp_path / "image.pt")
    clicks = ["--point", "20,30", "--point", "90,60,0", "--point", "50,5"]
    result = ok(run("demo", "--image", make_image("mine.png"), *clicks, "--checkpoint", "image.pt", "--device", "cpu"))
    assert "note: no video, since image.pt has weights for images only" in result.stderr
    mine = {"photo": Photograph(tmp_path / "mine.png", [Prompts()])}
    expected = {file.name for file in demo_files(tmp_path, mine)} - OF_VIDEO
    assert set(os.listdir(tmp_path / "out/demo")) == expected
    record = load(tmp_path / "out/demo/photo.json")
    assert record["image"] == "mine.png" and record["prompts"]["labels"] == [1, 0, 1]
    assert record["size"] == {"width": 96, "height": 64}
    assert Image.open(tmp_path / f"out/demo/{COLLAGE}").size == (1240, 827)


def test_without_pyav(run, tmp_path, monkeypatch):
    """Without PyAV, there is no video, with a note."""
    monkeypatch.setitem(sys.modules, "av", None)
    result = ok(run("demo", *NANO))
    expected = {file.name for file in demo_files(tmp_path)} - OF_VIDEO
    assert set(os.listdir(tmp_path / "out/demo")) == expected
    (note,) = result.stderr.splitlines()
    assert "sam2fast[video]" in note

import json
from types import SimpleNamespace

import moving_shapes
import numpy as np
from commands import NANO, assert_one_line, ends, invoke, ok
from file_contents import names
from mask_sets import cut
from PIL import Image

from sam2fast.cli import segmenter
from sam2fast.utils.devices import available_device

NOTE = "note: all runs use mini, since the default model is unavailable; give --model too"


def test_an_image_with_two_models(run, make_image, tmp_path, nano_checkpoint):
    image = make_image()
    other = f"model=nano,checkpoint={nano_checkpoint}"
    result = ok(run("compare", image, "--point", "70,30", *NANO, "--with", "dtype=bfloat16", "--with", other))
    assert names(tmp_path / "out/compare") == ["compare.json", "compare.png"]
    table = json.loads((tmp_path / "out/compare/compare.json").read_text())
    first, half, untrained = table["runs"]
    assert first["run"].endswith("float32") and half["run"].endswith("bfloat16")
    assert "averaged.pt" in untrained["run"]
    assert first["iou"] == 1 and untrained["iou"] < half["iou"] <= 1
    assert all(row["seconds"] > 0 for row in table["runs"])
    assert [line.split()[-2] for line in result.stdout.splitlines()[1:4]] == [
        f"{row['iou']:.3f}" for row in table["runs"]
    ]
    sheet = np.asarray(Image.open(tmp_path / "out/compare/compare.png"))
    assert sheet.shape == (18 + 320, 3 * 480 + 2 * 4, 3)
    tiles = [sheet[18:, i * 484 : i * 484 + 480] for i in range(3)]
    assert (tiles[0] != tiles[2]).any()


def test_a_video_with_two_strategies(video_file, tmp_path):
    prompts = ["--point", "0,1,60,40", "--box", "2,disc,20,20,60,60"]
    arguments = [*prompts, *NANO, "--image-size", 64, "--with", "strategy=samurai", "--out", tmp_path]
    ok(invoke("compare", video_file, *arguments))
    rows = json.loads((tmp_path / "compare.json").read_text())["runs"]
    assert [row["run"] for row in rows] == ["sam2", "samurai"] and rows[0]["iou"] == 1 and 0 <= rows[1]["iou"] <= 1


def test_devices(run, make_image, tmp_path, monkeypatch):
    """Where one of them finds other masks, the table says so."""
    right, devices = segmenter.Segmenter.__init__, []

    def build(self, choice, device, dtype):
        devices.append(device)
        right(self, choice, device, dtype)
        if len(devices) == 2:  # torch knows one CPU
            self.predict = lambda prompts: SimpleNamespace(mask=np.zeros((64, 96), bool))

    monkeypatch.setattr(segmenter.Segmenter, "__init__", build)
    options = ["--model", "nano", "--device", "auto", "--with", "device=cpu:0"]
    ok(run("compare", make_image(), "--point", "70,30", *options))
    rows = json.loads((tmp_path / "out/compare/compare.json").read_text())["runs"]
    first = str(available_device("auto"))
    assert devices == [first, "cpu:0"]
    found = [(row["run"], row["iou"], row["model"]["device"]) for row in rows]
    assert found == [(first, 1, first), ("cpu:0", 0, "cpu:0")]


def test_mini_in_the_place_of_the_default_model(run, make_image, tmp_path):
    """One warning for all runs, and no note; the table says which model it was."""
    options = ["--with", "dtype=bfloat16", "--device", "cpu", "--image-size", 256, "--jsonl"]
    result = run("compare", make_image(), "--point", "70,30", *options)
    assert result.exit_code == 0 and result.stderr.count("THIS IS NOT SAM 2:") == 1 and NOTE not in result.stderr
    table = json.loads((tmp_path / "out/compare/compare.json").read_text())
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    for row, line, dtype in zip(table["runs"], lines, ["float32", "bfloat16"], strict=True):
        assert line == {"source": table["source"], **row}
        assert row["model"]["name"] == "mini" and row["model"]["fallback"] is True and row["model"]["dtype"] == dtype


def test_a_note_if_the_model_to_compare_is_that_of_the_fallback(run, make_image):
    options = ["--with", "model=mini", "--device", "cpu", "--image-size", 256]
    ends(run("compare", make_image(), "--point", "70,30", *options), 0, NOTE)


def test_prompts_outside_of_a_video(run, video_file):
    arguments = ["--point", "0,dog,1,900", "--with", "dtype=bfloat16", *NANO]
    assert "1,900 lies outside the video" in assert_one_line(run("compare", video_file, *arguments))


def test_a_run_that_fails_leaves_the_others(run, make_image, tmp_path):
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    options = ["--with", f"checkpoint={tmp_path / 'broken.pt'}", "--with", "dtype=bfloat16", "--jsonl"]
    result = run("compare", make_image(), "--point", "70,30", *NANO, *options)
    assert result.exit_code == 1 and "1 of 3 runs had problems; all else was done" in result.stderr
    error, *rows = map(json.loads, result.stdout.splitlines())
    assert "broken.pt" in error["error"] and len(rows) == 2 and rows[1]["run"].endswith("bfloat16")
    assert json.loads((tmp_path / "out/compare/compare.json").read_text())["runs"] == [
        {key: value for key, value in row.items() if key != "source"} for row in rows
    ]


def test_nothing_to_compare_with_is_no_success(run, make_image, tmp_path):
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    result = run("compare", make_image(), "--point", "70,30", *NANO, "--with", f"checkpoint={tmp_path / 'broken.pt'}")
    assert result.exit_code == 1 and "1 of 2 runs had problems" in result.stderr
    assert not (tmp_path / "out/compare/compare.json").exists()


def test_a_damaged_frame_ends_the_comparison_there(tmp_path):
    folder = moving_shapes.jpeg_folder(tmp_path / "frames", moving_shapes.make_frames(5))
    cut(sorted(folder.iterdir())[3])
    options = ["--point", "0,1,20,20", *NANO, "--with", "dtype=bfloat16", "--out", tmp_path / "out"]
    ends(invoke("compare", folder, *options), 1, "2 of 2 runs had problems", "frame 3")
    assert len(json.loads((tmp_path / "out/compare.json").read_text())["runs"]) == 2
    assert (tmp_path / "out/compare.png").exists()


def test_a_pattern_of_numbers_names_the_folder(run, tmp_path):
    arguments = ["--point", "2,2", "--with", "dtype=bfloat16", *NANO]
    assert f"give '{tmp_path}'" in assert_one_line(run("compare", tmp_path / "%03d.png", *arguments))

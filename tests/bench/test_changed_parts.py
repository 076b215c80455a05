"""What changed parts cost is measured for each part, and rows of other models and changes are kept."""

import json

import pytest
from mini_model import OVERRIDES
from suite import changed_parts


@pytest.mark.slow
def test_rows(monkeypatch, tmp_path):
    measured, frames = changed_parts.measured, changed_parts.FRAMES
    monkeypatch.setattr(changed_parts, "measured", lambda *given: measured(*given, OVERRIDES))
    monkeypatch.setattr(changed_parts, "FULL", 2)
    monkeypatch.setitem(changed_parts.CONFIGS, "other", changed_parts.CONFIGS["nano"])
    for model, only in (("nano", []), ("other", ["--only", "memory"]), ("nano", ["--only", "mask"])):
        changed_parts.main(["--model", model, *only, "--runs", "2", "--out", f"{tmp_path}"])
    (file,) = tmp_path.iterdir()
    report = json.loads(file.read_text())
    assert file.name.startswith("changed-parts-cpu-") and report["machine"]["torch"]
    assert [row["model"] for row in report["rows"]] == ["nano"] * 5 + ["other"] * 2
    for row, part, slower in zip(
        report["rows"][:5],
        ("image", "image", "masks", "attention", "memory"),
        ({"encode"}, {"encode"}, {"click"}, set(), set()),
        strict=True,
    ):
        assert row["by_modules"] == [part] and row["image_size"] == 128
        assert row["samples_s"].keys() == {*slower, *frames}
        assert {call for call, ratio in row["ratio"].items() if ratio is not None} == {*slower, *frames}
        assert all(len(pairs) == 2 * (5 if call == "click" else 1) for call, pairs in row["samples_s"].items())
        assert all(0.1 < ratio < 10 for ratio in row["ratio"].values() if ratio is not None)
